"""Variants that take turns, and what becomes of one that fails."""

import warnings

import pytest
import torch

from benchmarks.timing import Measured, Step, goal, header, measure, random_images, ratio
from training.report.markdown import table

CPU = torch.device("cpu")


def test_variants_take_turns_and_one_that_fails_leaves_its_reason() -> None:
    ran: list[str] = []

    def make(name: str) -> Step:
        return lambda: ran.append(name)

    def broken() -> Step:
        raise ValueError("no such\nthing")

    def late() -> Step:
        def step() -> None:
            if ran.count("first") > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return step

    found = measure({"first": lambda: make("first"), "broken": broken, "late": late, "last": lambda: make("last")}, CPU, 3)
    assert ran == ["first", "last"] * 4  # a warm-up and three turns
    assert [len(own.seconds) for own in found.values()] == [3, 0, 0, 3]
    assert [own.words for own in found.values()] == ["", "ValueError: no such thing", "out of memory", ""]


def test_kernels_are_counted_and_a_fallback_is_told() -> None:
    def make() -> Step:
        def step() -> None:
            warnings.warn("no CUDA graph, as this test has it", stacklevel=1)
            torch.ones(2).relu()

        return step

    own = measure({"one": make}, CPU, 1, ["one"])["one"]
    assert own.launches == 2
    assert own.words == "no CUDA graph, as this test has it"


def test_the_ratio_is_that_of_pairs() -> None:
    one, other = Measured("one", [2.0, 30.0, 2.0]), Measured("other", [1.0, 10.0, 2.0])
    assert ratio(one, other) == 2
    assert ratio(one, Measured("none")) is None
    assert one.milliseconds == 2000 and Measured("none").milliseconds is None


def test_a_table_and_a_goal_read_as_they_should() -> None:
    assert table(["a", "b"], [[1, None]]) == "| a | b |\n|---|---|\n| 1 | - |\n"
    assert goal("at most 1", 0.5, True) == "- goal: at most 1; measured: 0.50, met\n"
    assert goal("at most 1", None, False) == "- goal: at most 1; measured: not measured\n"
    assert f"torch {torch.__version__}" in header(CPU, "a fact") and header(CPU, "a fact").endswith(", a fact")


def test_random_images_are_the_same_each_time_and_have_all_classes() -> None:
    one, other = random_images(20, 8), random_images(20, 8)
    assert torch.equal(one.images, other.images)
    assert one.labels.bincount().tolist() == [2] * 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_memory_of_a_step_is_measured() -> None:
    device = torch.device("cuda")
    own = measure({"one": lambda: lambda: torch.empty(2**20, dtype=torch.uint8, device=device)}, device, 1)["one"]
    assert own.peak_mb == pytest.approx(1)
