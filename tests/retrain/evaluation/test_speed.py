"""Tests of retrain/evaluation/speed.py."""

import json
import time
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

import retrain.evaluation.speed
from retrain.evaluation.speed import BATCH_SIZES, measure_speed

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """Takes a known time for an image, and remembers how it was called."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.seconds = seconds
        self.calls: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(tuple(images.shape))
        assert not self.training
        assert torch.is_inference_mode_enabled()
        assert images.is_contiguous(memory_format=torch.channels_last)
        time.sleep(self.seconds * len(images))
        found: Tensor = self.norm(self.layer(images))
        self.dtype = found.dtype
        return found


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrain.evaluation.speed, "LEAST_SECONDS", 0.0)


def test_latency_and_throughput_are_those_of_the_network(brief: None) -> None:
    network = Sleeper(0.002)
    found = measure_speed(network, (3, 4, 6), CPU, "float32", (1, 4))
    one, four = found.batches
    assert (one.batch_size, one.runs, four.batch_size, four.runs) == (1, 10, 4, 10)
    # A sleep lasts at least as long as it is told to; how much longer is up to the machine.
    assert 2 <= one.latency_ms < 20 and 8 <= four.latency_ms < 40
    for batch in found.batches:
        assert batch.latency_ms_p10 <= batch.latency_ms <= batch.latency_ms_p90
        assert batch.images_per_second == pytest.approx(1000 * batch.batch_size / batch.latency_ms)
    assert network.calls == [(1, 3, 4, 6)] * 13 + [(4, 3, 4, 6)] * 13  # three of each to warm up


def test_it_goes_on_for_half_a_second_and_ten_runs() -> None:
    begin = time.perf_counter()
    (quick,) = measure_speed(Sleeper(0.001), (3, 4, 4), CPU, "float32", (1,)).batches
    assert quick.runs > 20 and time.perf_counter() - begin >= 0.5


def test_it_ends_with_a_network_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrain.evaluation.speed, "MOST_SECONDS", 0.1)
    (slow,) = measure_speed(Sleeper(0.03), (3, 4, 4), CPU, "float32", (1,)).batches
    assert 1 <= slow.runs <= 4


def test_percentiles(monkeypatch: pytest.MonkeyPatch, brief: None) -> None:
    seconds = iter([0.010, 0.020, 0.030, 0.040, 0.050, 0.060, 0.070, 0.080, 0.090, 0.100])
    monkeypatch.setattr(retrain.evaluation.speed, "_seconds", lambda run, device: next(seconds))
    (batch,) = measure_speed(Sleeper(), (3, 4, 4), CPU, "float32", (2,)).batches
    assert (batch.latency_ms_p10, batch.latency_ms, batch.latency_ms_p90) == pytest.approx((19, 55, 91))
    assert batch.images_per_second == pytest.approx(2000 / 55)


@pytest.mark.parametrize(("precision", "used"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_what_was_measured_is_said(brief: None, precision: str, used: str) -> None:
    network = Sleeper()
    found = measure_speed(network, (3, 4, 4), CPU, precision)  # type: ignore[arg-type]
    assert (found.precision, str(network.dtype)) == (used, f"torch.{used}")
    assert (found.threads, found.image_shape) == (torch.get_num_threads(), (3, 4, 4))
    assert found.device
    assert tuple(batch.batch_size for batch in found.batches) == BATCH_SIZES
    plain = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert plain["batches"][1]["batch_size"] == 64


def test_it_leaves_the_random_state_and_the_weights_alone(brief: None) -> None:
    network = Sleeper().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    measure_speed(network, (3, 4, 4), CPU, "float32", (2,))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(value.is_inference() for value in network.state_dict().values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_waits_for_the_last_logit(brief: None) -> None:
    network = nn.Sequential(*[nn.Conv2d(64, 64, 3, padding=1) for _ in range(20)])
    small, large = measure_speed(network, (64, 64, 64), torch.device("cuda"), "float32", (1, 64)).batches
    assert large.latency_ms > 4 * small.latency_ms
