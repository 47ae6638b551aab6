"""Latencies that add up from measured operations, and those of a benchmark table."""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from search.costs import latency as measuring
from search.costs.latency import MeasuredLatency, TableLatency
from search.costs.tabular import Table, TableRow
from search.sampling.encoding import Encoding
from supernet import get_space, list_spaces
from training.run.checkpoint import Checkpoints

CPU = torch.device("cpu")


@pytest.mark.parametrize("space", list_spaces())
def test_latency_is_the_sum_of_what_was_measured(space: str, clock: Any) -> None:
    """Every distinct operation is measured once; each cell adds the time of the one that stands there."""
    encoding = Encoding(get_space(space))
    names = [encoding.space.candidates[column] for column in encoding.operations]
    cells = 3 if space == "darts" else 2
    latency = MeasuredLatency(encoding.space, 4, cells, 10, (3, 8, 8), CPU, operations=names)
    # Three sizes of map; in DARTS' reduction cells operations of stride 2 on the two larger ones, too.
    sizes = 3 if space == "nasbench201" else 2 + 3
    assert clock.calls == 1 + sizes * len(encoding.operations)
    random = Random(0)
    one = encoding.random(random)
    other = encoding.mutate_operation(one, random)
    (place,) = [place for place in range(encoding.length) if one[place] != other[place]]
    assert latency(one) > 1000
    # Operations are measured one after the other, each in all places in turn.
    steps = [encoding.operations.index(genome[place]) * sizes for genome in (one, other)]
    of_kind = cells * 3 if space == "nasbench201" else (2 if place >= 14 else 1)
    assert latency(other) - latency(one) == (steps[1] - steps[0]) * of_kind


def test_the_time_of_a_call_is_the_median_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])

    def call(times: list[float]) -> Callable[[], object]:
        left = iter([moment for moment in times for _ in range(measuring.CALLS)])
        return lambda: now.__setitem__(0, now[0] + next(left))

    # The first turn warms up; one slow turn of five does not count.
    first, second = [50.0, 0.001, 0.003, 9.0, 0.002, 0.002], [0.5, 0.004, 0.004, 0.004, 0.004, 8.0]
    assert measuring._milliseconds([call(first), call(second)], CPU, 5) == pytest.approx([2.0, 4.0])


def test_a_real_measurement_leaves_the_random_state_alone_and_is_saved(tmp_path: Path) -> None:
    encoding = Encoding(get_space("nasbench201"))
    before = torch.get_rng_state()
    latency = MeasuredLatency(encoding.space, 4, 1, 10, (3, 8, 8), CPU, turns=1)
    assert torch.equal(torch.get_rng_state(), before)
    genomes = [encoding.random(Random(seed)) for seed in range(20)]
    found = [latency(genome) for genome in genomes]
    assert all(math.isfinite(value) and value > 0 for value in found)
    Checkpoints(tmp_path).save(1, {"latency": latency.state_dict()})
    loaded = Checkpoints(tmp_path).latest()
    assert loaded is not None
    other = MeasuredLatency(encoding.space, 4, 1, 10, (3, 8, 8), CPU, turns=1)
    other.load_state_dict(loaded[1]["latency"])
    assert [other(genome) for genome in genomes] == found


@pytest.mark.parametrize(("known", "said"), [(("pixel3",), "pixel3"), ((), "none")])
def test_a_table_has_no_other_latencies_than_its_columns(known: tuple[str, ...], said: str) -> None:
    table = Table({"": TableRow(94.0, 91.0, 85.0, 1, 2, dict.fromkeys(known, 0.5))})
    with pytest.raises(ValueError, match=rf"^latency: the table has {said}, not 'gpu'; name one of them, or measured$"):
        TableLatency(table, "gpu")
