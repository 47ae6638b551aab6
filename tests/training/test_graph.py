"""Which steps are run, captured and replayed; and, on a GPU, what torch's own capture does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.graph import WARM_UP, CudaCapture, GraphedStep, new_capture

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


class Recorder:
    """A capture whose graph is the call itself, on the tensors that it was recorded with."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done: list[str] = []
        self.error = error

    def run(self, call: Callable[[], None]) -> None:
        self.done.append("run")
        call()

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        self.done.append("record")
        if self.error is not None:
            raise self.error

        def replay() -> None:
            self.done.append("replay")
            call()

        return replay


class Trainer:
    """Remembers what it was trained on."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def step(self, images: Tensor, labels: Tensor) -> None:
        assert images.shape[:1] == labels.shape
        self.seen.append(images[0, 0].item() + labels[0].item() / 10)


def batch(number: int, size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.full((size, 2), float(number)), torch.full((size,), number)


def seen_of(numbers: range) -> list[float]:
    return pytest.approx([1.1 * number for number in numbers])


def test_every_batch_is_trained_on_once_and_in_order() -> None:
    trainer, capture = Trainer(), Recorder()
    graphed = GraphedStep(trainer.step, capture)
    for number in range(8):
        graphed(*batch(number))
    assert trainer.seen == seen_of(range(8))
    assert capture.done == ["run"] * WARM_UP + ["record"] + ["replay"] * (8 - WARM_UP)


def test_without_a_capture_the_step_is_called() -> None:
    trainer = Trainer()
    graphed = GraphedStep(trainer.step, None)
    for number in range(8):
        graphed(*batch(number))
    graphed.release()
    assert trainer.seen == seen_of(range(8))


def test_a_short_last_batch_runs_by_itself_and_the_graph_stays() -> None:
    trainer, capture = Trainer(), Recorder()
    graphed = GraphedStep(trainer.step, capture)
    for number in range(24):
        graphed(*batch(number, size=3 if number % 6 == 5 else 4))
    assert trainer.seen == seen_of(range(24))
    first = ["run"] * WARM_UP + ["record"] + ["replay"] * (5 - WARM_UP) + ["run"]
    assert capture.done == first + (["replay"] * 5 + ["run"]) * 3


def test_batches_of_another_shape_that_stay_are_captured_anew() -> None:
    trainer, capture = Trainer(), Recorder()
    graphed = GraphedStep(trainer.step, capture)
    for number in range(12):
        graphed(*batch(number, size=4 if number < 6 else 3))
    assert trainer.seen == seen_of(range(12))
    once = ["run"] * WARM_UP + ["record"] + ["replay"] * (6 - WARM_UP)
    assert capture.done == once * 2


def test_after_a_release_it_begins_again() -> None:
    trainer, capture = Trainer(), Recorder()
    graphed = GraphedStep(trainer.step, capture)
    for number in range(10):
        if number == 5:
            graphed.release()
        graphed(*batch(number))
    assert trainer.seen == seen_of(range(10))
    once = ["run"] * WARM_UP + ["record"] + ["replay"] * (5 - WARM_UP)
    assert capture.done == once * 2


def test_what_is_handed_in_is_left_alone() -> None:
    graphed = GraphedStep(Trainer().step, Recorder())
    batches = [batch(number) for number in range(8)]
    for each in batches:
        graphed(*each)
    assert all(torch.equal(images, batch(number)[0]) for number, (images, _) in enumerate(batches))


def test_a_step_that_cannot_be_captured_runs_without_a_graph_and_says_so_once() -> None:
    error = RuntimeError("the capture is invalid")
    error.__context__ = RuntimeError("this operation\nhas to wait for the device")
    trainer, capture = Trainer(), Recorder(error)
    graphed = GraphedStep(trainer.step, capture)
    with pytest.warns(UserWarning) as warned:
        for number in range(8):
            graphed(*batch(number))
    (warning,) = warned
    expected = "no CUDA graph, every step is started kernel by kernel: this operation has to wait for the device"
    assert str(warning.message) == expected
    assert trainer.seen == seen_of(range(8))
    assert capture.done == ["run"] * WARM_UP + ["record"]


def test_an_error_of_another_kind_ends_the_run() -> None:
    graphed = GraphedStep(Trainer().step, Recorder(ValueError("bad input")))
    with pytest.raises(ValueError, match="bad input"):
        for number in range(8):
            graphed(*batch(number))


def test_a_graph_that_is_wanted_where_there_is_none_is_bad_input() -> None:
    cpu = torch.device("cpu")
    assert new_capture(None, cpu, "sgd") is None and new_capture(False, cpu, "sgd") is None
    with pytest.raises(ValueError, match=r"^graph: the device cpu has no CUDA graphs; null uses one where that can be done$"):
        new_capture(True, cpu, "sgd")
    cuda = torch.device("cuda")
    assert new_capture(None, cuda, "adagrad") is None and new_capture(False, cuda, "adam") is None
    with pytest.raises(ValueError, match=r"^graph: a step of adagrad cannot be captured; take one of sgd, adam, adamw; "):
        new_capture(True, cuda, "adagrad")


def test_steps_that_differ_have_no_graph() -> None:
    cuda = torch.device("cuda")
    assert new_capture(None, cuda, "sgd", same_each_step=False) is None
    assert new_capture(False, cuda, "sgd", same_each_step=False) is None
    message = "^graph: the operations that run differ from step to step; null uses one where that can be done$"
    with pytest.raises(ValueError, match=message):
        new_capture(True, cuda, "sgd", same_each_step=False)


# On a GPU


class Drawn:
    """Adds a random number for every image, and remembers all sums."""

    def __init__(self) -> None:
        self.total = torch.zeros(16, device="cuda")
        self.sums: list[Tensor] = []

    def step(self, images: Tensor) -> None:
        self.total += images * torch.rand(16, device="cuda") + torch.randn(16, device="cuda")

    def train(self, capture: CudaCapture | None) -> list[Tensor]:
        torch.manual_seed(3)
        graphed = GraphedStep(self.step, capture)
        for number in range(9):
            if number == 7:
                torch.manual_seed(5)  # as at the beginning of an epoch
            graphed(torch.full((16,), float(number), device="cuda"))
            self.sums.append(self.total.clone())
        return self.sums


@needs_gpu
def test_on_a_gpu_replays_draw_the_random_numbers_of_the_steps_that_they_stand_for() -> None:
    expected = Drawn().train(None)
    found = Drawn().train(CudaCapture(torch.device("cuda")))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@needs_gpu
def test_on_a_gpu_a_step_that_waits_for_the_device_goes_on_without_a_graph() -> None:
    class Waiting(Drawn):
        def step(self, images: Tensor) -> None:
            super().step(images)
            self.total *= 1 + self.total.sum().sign().item() / 8

    expected = Waiting().train(None)
    with pytest.warns(UserWarning, match="^no CUDA graph, every step is started kernel by kernel: "):
        found = Waiting().train(CudaCapture(torch.device("cuda")))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
