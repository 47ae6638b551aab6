"""The floor of a pass, against what was counted by hand for DARTS at C=16, 8 cells, batch 64, bfloat16, on an H100."""

import pytest

from benchmarks import floor
from benchmarks.floor import floor_of_pass
from benchmarks.options import Rates


def test_the_floor_of_the_published_network_is_that_counted_by_hand() -> None:
    counted = floor_of_pass(16, 8, 64)
    memory, cuda_cores, tensor_cores = counted.milliseconds(Rates())
    assert counted.bytes == pytest.approx(5.17e9, rel=0.1)
    assert memory == pytest.approx(1.72, rel=0.1)
    assert cuda_cores == pytest.approx(1.14, rel=0.03)
    assert tensor_cores == pytest.approx(0.16, rel=0.03)
    assert counted.seconds(Rates()) == pytest.approx(memory / 1000)


def test_the_largest_of_the_three_times_is_the_floor() -> None:
    counted = floor_of_pass(16, 8, 64)
    assert counted.seconds(Rates(cuda_cores=1.0)) == pytest.approx(2 * counted.depthwise / 1e12)
    assert counted.seconds(Rates(tensor_cores=1.0)) == pytest.approx(2 * counted.dense / 1e12)


def test_work_grows_with_images_pixels_and_bytes() -> None:
    one, four, wide = floor_of_pass(16, 8, 64), floor_of_pass(16, 8, 256), floor_of_pass(16, 8, 64, size=64)
    assert (four.bytes, four.depthwise) == pytest.approx((4 * one.bytes, 4 * one.depthwise))
    assert (wide.bytes, wide.dense) == pytest.approx((four.bytes, four.dense))
    assert 1.9 < floor_of_pass(16, 8, 64, bytes_a_value=4).bytes / one.bytes < 2


def test_the_command_prints_a_row_for_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    floor.main(["--batch", "64", "256"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows] == ["batch", "64", "256"]
