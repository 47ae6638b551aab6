"""The entries of a search's history, one an epoch, in history.jsonl and in its checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.run.history import HistoryEntry, read_history

Decided = Mapping[str, Mapping[str, Mapping[str, float]]]
"""The supernet's score without a candidate, by kind of cell, edge ("0->3") and candidate; "*" is
all candidates of the edge."""


@dataclass(frozen=True, kw_only=True)
class SearchEpoch(HistoryEntry):
    """An epoch of a differentiable search.

    Its readings are those of the meters, "train/loss" and so on. Where the search was evaluated,
    "supernet_accuracy" and "derived_accuracy" are the scores that the supernet, and the derived cell
    with its weights, have on the search's validation examples; a search by another score than
    accuracy has the name of that there.
    """

    genotype: str
    """Text of the genotype that the epoch's mixture derives."""
    entropy: Mapping[str, float]
    """Mean entropy of an edge's mixture for each kind of cell, in nats."""
    skips: Mapping[str, int]
    """Skip connections of the genotype in each kind of cell."""
    skip_share: Mapping[str, float]
    """Their share in the operations of that kind of cell other than none."""
    mixture: Mapping[str, Sequence[Sequence[float]]]
    """Weights of the candidates for each kind of cell, [edges, candidates], rounded to 4 decimals;
    untied cells have their mean."""
    eigenvalue: float | None
    """Dominant eigenvalue of the Hessian of the validation loss in the alphas; None where it was
    not measured or not finite."""
    decided: Decided | None = None
    """The scores, as they are maximised, that a selection by perturbation compared before the epoch;
    None where it decided nothing."""


@dataclass(frozen=True, kw_only=True)
class SamplingEpoch(HistoryEntry):
    """An epoch of a sampling search that trains the shared weights; its readings are those of the
    meter, "train/loss" and so on, and those of the sampler."""

    @property
    def sampler_readings(self) -> dict[str, float]:
        """The readings of the sampler, such as the entropy of its policy."""
        return {name: value for name, value in self.readings.items() if not name.startswith("train/")}


@dataclass(frozen=True, kw_only=True)
class SamplingRound(HistoryEntry):
    """A round of evaluations of a sampling search; its readings are those of the sampler."""

    evaluations: float
    """Cost of all evaluations so far, in whole ones."""
    score: str | None = None
    """Name of the score that the search was asked to compare by; None: the first of its task, or
    that of the table or proxy."""
    mean_score: float | None = None
    """Mean score, in its own sign, of the evaluations of this round; None where there was none."""
    best_score: float | None = None
    """Best score, in its own sign, of an architecture that was evaluated wholly; None before there is
    one."""
    genotype: str | None = None
    """Text of that architecture."""
    test_accuracy: float | None = None
    """Its test accuracy in the benchmark table, in percent; None without a table."""
    exhausted: bool | None = None
    """True where the sampler has nothing more to ask for."""

    @property
    def sampler_readings(self) -> dict[str, float]:
        """The readings of the sampler."""
        return dict(self.readings)


SamplingEntry = SamplingEpoch | SamplingRound
SearchEntry = SearchEpoch | SamplingEpoch | SamplingRound


def sampling_entry(values: Mapping[str, Any]) -> SamplingEntry:
    """Makes an entry of a sampling search of plain values.

    Raises InputError for those of something else.
    """
    return SamplingRound.from_plain(values) if "evaluations" in values else SamplingEpoch.from_plain(values)


def search_entry(values: Mapping[str, Any]) -> SearchEntry:
    """Makes an entry of any search of plain values.

    Raises InputError for those of something else.
    """
    return SearchEpoch.from_plain(values) if "mixture" in values else sampling_entry(values)


def read_search_history(directory: Path) -> list[SearchEntry]:
    """Reads the history of the search in `directory`.

    Raises InputError where the file is damaged.
    """
    return read_history(directory, search_entry)
