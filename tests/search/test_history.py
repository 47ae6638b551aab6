"""Tests of search/history.py and search/outcome.py: entries of any search are told apart and come back as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from base.checks import InputError
from search.history import SamplingEpoch, SamplingRound, SearchEpoch, read_search_history, sampling_entry, search_entry
from search.outcome import outcome
from training.run.history import HISTORY_FILE, write_history

EPOCH = SearchEpoch(
    epoch=1, readings={"train/loss": 2.5, "supernet_accuracy": 0.75}, genotype="a",
    entropy={"cell": 1.5}, skips={"cell": 1}, skip_share={"cell": 0.25},
    mixture={"cell": [[0.5, 0.5]]}, eigenvalue=None,
)  # fmt: skip
TRAINED = SamplingEpoch(epoch=1, readings={"train/loss": 2.5, "train/accuracy": 0.5, "entropy": 1.0})
ROUND = SamplingRound(epoch=2, readings={"entropy": 0.5}, evaluations=2.5, best_score=0.5, genotype="a")


@pytest.mark.parametrize("entry", [EPOCH, TRAINED, ROUND], ids=["search", "weights", "round"])
def test_an_entry_comes_back_as_it_was(entry: Any) -> None:
    assert search_entry(json.loads(json.dumps(entry.to_plain()))) == entry
    if not isinstance(entry, SearchEpoch):
        assert sampling_entry(entry.to_plain()) == entry


def test_what_was_not_measured_is_null_in_one_family_and_left_out_in_the_other() -> None:
    assert EPOCH.to_plain()["eigenvalue"] is None
    assert set(ROUND.to_plain()) == {"epoch", "evaluations", "best_score", "genotype", "entropy"}


def test_readings_of_the_sampler_are_not_those_of_the_meter() -> None:
    assert TRAINED.sampler_readings == {"entropy": 1.0} and ROUND.sampler_readings == {"entropy": 0.5}


def test_a_search_is_compared_by_the_last_value_of_each_quantity(tmp_path: Path) -> None:
    assert outcome(tmp_path) == {}
    later = SearchEpoch.from_plain(EPOCH.to_plain() | {"epoch": 2, "supernet_accuracy": None, "derived_accuracy": 0.25})
    write_history(tmp_path, [EPOCH, later])
    assert read_search_history(tmp_path) == [EPOCH, later]
    assert outcome(tmp_path) == {"supernet_accuracy": 0.75, "derived_accuracy": 0.25}
    write_history(tmp_path, [TRAINED, ROUND])
    assert outcome(tmp_path) == {"best_score": 0.5}


def test_an_entry_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / HISTORY_FILE).write_text(json.dumps({"epoch": 1, "mixture": {}}) + "\n")
    with pytest.raises(InputError, match="line 1 is no entry of such a history"):
        read_search_history(tmp_path)
