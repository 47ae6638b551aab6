"""Meters and the costs of a network."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from training.metrics import Batch, Meter, count_multiply_adds, count_parameters, in_words


class ErrorMeter(Meter):
    """Measures the absolute error of the first output."""

    names = ("error",)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {"error": (outputs[:, 0] - batch.targets).abs().sum()}


def batch(*targets: float) -> Batch:
    return Batch(torch.zeros(len(targets), 2), torch.tensor(targets))


def test_meter_weighs_by_examples() -> None:
    meter = ErrorMeter("cpu")
    meter.update(torch.tensor(1.0, requires_grad=True), torch.tensor([[1.0, 2.0]] * 4), batch(1, 2, 0, 1))
    meter.update(torch.tensor(4.0), torch.tensor([[3.0, 2.0], [0.0, 1.0]]), batch(1, 1))
    reading = meter.read()
    assert reading.loss == 2
    assert reading.values == {"error": (0 + 1 + 1 + 0 + 2 + 1) / 6}
    assert reading.count == 6
    assert reading.first_bad_step is None
    assert meter.read() == reading
    assert reading.to_dict() == {"count": 6, "loss": 2.0, "error": 5 / 6}
    assert in_words(reading.named("train") | reading.named("valid")) == (
        "train loss 2.0000 error 0.8333, valid loss 2.0000 error 0.8333"
    )


def test_meter_forgets() -> None:
    meter = ErrorMeter("cpu")
    meter.update(torch.tensor(math.nan), torch.zeros(3, 2), batch(1, 1, 1))
    meter.reset()
    reading = meter.read()
    assert reading.count == 0
    assert math.isnan(reading.loss) and math.isnan(reading.values["error"])
    assert reading.first_bad_step is None
    meter.update(torch.tensor(0.5), torch.zeros(3, 2), batch(1, 1, 1))
    assert meter.read().loss == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_meter_names_the_first_bad_step(bad: float) -> None:
    meter = Meter("cpu")
    for loss in (0.5, 0.25, bad, 0.5, math.nan):
        meter.update(torch.tensor(loss), torch.zeros(2, 3), batch(0, 0))
    assert meter.read().first_bad_step == 2
    assert not math.isfinite(meter.read().loss)


def test_meter_counts_in_place() -> None:
    """A CUDA graph goes on with the tensors that it was captured with."""
    meter = ErrorMeter("cpu")
    tensors = vars(meter) | meter._sums
    for loss in (0.5, math.nan):
        meter.update(torch.tensor(loss), torch.zeros(3, 2), batch(0, 0, 0))
    meter.reset()
    meter.update(torch.tensor(math.inf), torch.zeros(3, 2), batch(0, 0, 0))
    assert all(value is tensors[name] for name, value in (vars(meter) | meter._sums).items())
    reading = meter.read()
    assert reading.first_bad_step == 0 and reading.count == 3
    assert isinstance(reading.count, int)


def test_meter_takes_half_precision() -> None:
    meter = Meter("cpu")
    for _ in range(1000):
        meter.update(torch.tensor(0.1, dtype=torch.bfloat16), torch.zeros(3, 2), batch(0, 0, 0))
    assert meter.read().loss == pytest.approx(torch.tensor(0.1, dtype=torch.bfloat16).item())


def test_count_parameters() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 5)
            self.two = self.one
            self.norm = nn.BatchNorm2d(7)
            self.tied = nn.Linear(3, 5, bias=False)
            self.tied.weight = self.one.weight
            self.frozen = nn.Parameter(torch.zeros(100), requires_grad=False)

    assert count_parameters(Shared()) == 3 * 5 + 5 + 2 * 7
    assert count_parameters(nn.ReLU()) == 0


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), 8 * 10 * 16 * 3 * 9),
        (nn.Conv2d(3, 16, 3, padding=1, bias=False), 8 * 10 * 16 * 3 * 9),
        (nn.Conv2d(3, 16, 3, padding=1, stride=2), 4 * 5 * 16 * 3 * 9),
        (nn.Conv2d(3, 6, (7, 1), padding=(3, 0), groups=3), 8 * 10 * 6 * 1 * 7),
        (nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3), 8 * 10 * 3 * 9),
        (nn.Conv2d(3, 16, 1), 8 * 10 * 16 * 3),
        (nn.Conv2d(3, 4, 3), 6 * 8 * 4 * 3 * 9),
        (nn.ConvTranspose2d(3, 16, 2, stride=2), 8 * 10 * 3 * 16 * 4),
        (nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(3), nn.ReLU()), 0),
        (nn.Sequential(nn.Flatten(), nn.Linear(240, 7)), 240 * 7 + 7),
        (nn.Sequential(nn.Flatten(), nn.Linear(240, 7, bias=False)), 240 * 7),
        (nn.Linear(10, 4), 3 * 8 * (10 * 4 + 4)),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_count_multiply_adds(layer: nn.Module, expected: int, device: str) -> None:
    assert count_multiply_adds(layer.to(device), (3, 8, 10)) == expected


def test_a_layer_used_twice_counts_twice() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    assert count_multiply_adds(nn.Sequential(conv, nn.MaxPool2d(2), conv), (3, 8, 8)) == (64 + 16) * 81


def test_a_module_may_count_its_own_arithmetic() -> None:
    class Products(nn.Module):
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return one * other

        def multiply_adds(self, one: Tensor, other: Tensor) -> int:
            return one.numel() + other.numel()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.products = Products()

        def forward(self, images: Tensor) -> Tensor:
            return self.products(self.conv(images), images)

    assert count_multiply_adds(Both(), (3, 4, 4)) == 16 * 9 + 2 * 16 * 3


def test_counting_needs_no_batch_statistics_of_one_value() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 2, 1))
    assert count_multiply_adds(network, (3, 8, 8)) == 6


def test_counting_with_more_arguments() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, images: Tensor, times: int) -> Tensor:
            for _ in range(times):
                images = self.conv(images)
            return images

    module = Gated()
    assert count_multiply_adds(module, (1, 4, 4), lambda images: module(images, 3)) == 48


class Restless(nn.Module):
    """Has everything that running it could change: modes, running statistics, the random state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(4).eval()

    def forward(self, images: Tensor) -> Tensor:
        noise: Tensor = self.frozen(self.dropout(self.norm(self.conv(images))))
        return noise + torch.rand_like(noise)


def broken(images: Tensor) -> Tensor:
    raise RuntimeError("broken")


@pytest.mark.parametrize("forward", [None, broken])
def test_counting_changes_nothing(forward: Callable[[Tensor], object] | None) -> None:
    module = Restless().double()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    random = torch.get_rng_state()
    if forward is None:
        assert count_multiply_adds(module, (3, 6, 6)) == 16 * 4 * 27
    else:
        with pytest.raises(RuntimeError, match="broken"):
            count_multiply_adds(module, (3, 6, 6), forward)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not part._forward_hooks for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
