"""The command for machines with a GPU, as far as it goes without one."""

import pytest
import torch

from benchmarks import gpu, search_step


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_the_comparison_with_the_plain_network_holds_on_the_cpu(space: str) -> None:
    assert 0 <= gpu.largest_difference(space, torch.device("cpu"), torch.float64) < 1e-10


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu: error: device: 'cuda' cannot be used here; try auto or cpu\n"


def test_a_search_step_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    search_step.main(["--channels", "2", "--cells", "3", "--batch", "2", "--size", "8", "--runs", "1", "--threads", "1"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["network", "plain, NCHW", "plain, channels_last", "ours"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:])
    assert float(rows[1][3]) > float(rows[3][3]), "the supernet keeps less for backward"
