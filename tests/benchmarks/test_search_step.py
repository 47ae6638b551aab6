"""The table of the search step."""

from collections.abc import Callable

import pytest
import torch

from base.checks import InputError
from benchmarks import search_step
from benchmarks.search_step import (
    OURS,
    OURS_EAGER,
    OURS_REFERENCE,
    PLAIN_COMPILED,
    PLAIN_EAGER,
    PLAIN_GRAPH,
    Settings,
    floor_seconds,
    goals,
    rows_of,
    variants,
)
from benchmarks.timing import Measured

# With less, the plain network halves states of under 16 channels. In channels_last memory on the CPU, oneDNN 3.12 writes beyond
# its workspace in the backward pass of such a convolution (uxlfoundation/oneDNN issue 6035), and with AVX2 the process aborts.
SMALL = ["--channels", "8", "--cells", "3", "--batch", "2", "--size", "8", "--runs", "1", "--threads", "1"]


@pytest.mark.slow
def test_a_search_step_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert search_step.main(SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["network", "plain, NCHW", "plain, channels_last", "ours in plain torch", "ours"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:])
    assert float(rows[1][3]) > float(rows[3][3]) > float(rows[4][3]), "the supernet keeps less for backward"
    assert f"torch {torch.__version__}" in lines[0] and "1 paired runs, float32" in lines[0]
    assert "GB/s" in lines[4] and "GFLOP/s" in lines[4], "the floor is that of this machine"
    assert sum(line.startswith("- goal: ") for line in lines) == 2


def test_a_search_step_calls_few_functions(count_calls: Callable[[Callable[[], object]], int]) -> None:
    step = search_step.our_step(Settings(torch.device("cpu"), 4, 3, 8, image_channels=1), 4)
    step()
    assert count_calls(step) < 8500  # on two threads they take as long as on one


def test_what_cannot_be_compiled_in_time_says_so() -> None:
    settings = Settings(torch.device("cpu"), 2, 3, 8, compile_limit=0.5)
    with pytest.raises(RuntimeError, match=r"^compiling took longer than 0\.5 s$"):
        search_step._compiled_step(settings, 2)


def test_a_device_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert search_step.main(["--device", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.search_step: error: device: 'nonsense'")


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
def test_on_a_gpu_all_ways_to_run_it_have_their_rows_and_goals() -> None:
    settings = Settings(torch.device("cuda"), precision="bfloat16")
    names = [PLAIN_EAGER, PLAIN_COMPILED, PLAIN_GRAPH, OURS, OURS_EAGER, OURS_REFERENCE]
    assert list(variants(settings, 64)) == names
    assert PLAIN_COMPILED not in variants(Settings(settings.device, compile_limit=0), 64)
    found = {name: Measured(name, words="out of memory") for name in names}
    ours = floor_seconds(settings, 64) * 1.5
    found[OURS] = Measured(OURS, [ours, ours], 100.0, 500)
    found[PLAIN_EAGER] = Measured(PLAIN_EAGER, [30 * ours, 30 * ours], 1000.0, 32000)
    columns, rows = rows_of(settings, 64, found)
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0][2:] == ["30.00", "1000", 32000, None]
    assert rows[1] == [PLAIN_COMPILED, "out of memory", None, None, None, None]
    assert rows[3][2:] == ["1.00", "100", 500, "1.50"]
    speed, stock, floor, memory = goals(settings, 64, found).splitlines()
    assert speed.endswith("measured: 30.00, met") and stock.endswith("not measured")
    assert floor.endswith("measured: 1.50, met") and memory.endswith("measured: 0.10, met")


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--cells", "2"], ["--runs", "many"]])
def test_numbers_that_make_no_step_are_named(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=f"^{arguments[0]}: must be a whole number of at least"):
        search_step.main(arguments)
