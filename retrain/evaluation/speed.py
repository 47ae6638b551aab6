"""The speed of a trained network for images on one device."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from training.hardware import Precision, autocast, device_name, move_to

BATCH_SIZES = (1, 64)
_WARM_UP = 3  # runs that are not counted: the first ones allocate memory, choose kernels and fill caches
LEAST_RUNS, LEAST_SECONDS = 10, 0.5  # a measurement goes on until it has both ...
MOST_SECONDS = 20.0  # ... or has taken that long, as with a large network


@dataclass(frozen=True)
class BatchSpeed:
    """The speed with batches of one size; a latency is the time from the call to the last logit."""

    batch_size: int
    runs: int
    """Number of calls that were timed."""
    latency_ms: float
    """Milliseconds a batch, the median of the runs."""
    latency_ms_p10: float
    """10th percentile of the runs."""
    latency_ms_p90: float
    """90th percentile of the runs."""
    images_per_second: float
    """Throughput: images of a batch over the median latency."""


@dataclass(frozen=True)
class Speed:
    """The speed of a network in evaluation mode whose images are in the memory of the device
    already."""

    device: str
    """Name of the processor."""
    threads: int | None
    """CPU threads; None on a GPU."""
    precision: str
    """Type that convolutions and linear layers compute in: float32 or bfloat16."""
    image_shape: tuple[int, int, int]
    """C, H, W."""
    batches: tuple[BatchSpeed, ...]


def measure_speed(
    network: nn.Module,
    image_shape: tuple[int, int, int],
    device: torch.device,
    precision: Precision,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Speed:
    """Moves `network` to `device` and times it there as an evaluation runs it: channels_last,
    autocast, without gradients.

    It takes about a second, more if a run takes longer than 50 ms.
    """
    move_to(network, device)
    network.eval()
    with torch.inference_mode(), autocast(precision, device):
        batches = tuple(_measure_batch(network, (size, *image_shape), device) for size in batch_sizes)
        short = torch.is_autocast_enabled(device.type)
    threads = torch.get_num_threads() if device.type == "cpu" else None
    return Speed(device_name(device), threads, "bfloat16" if short else "float32", image_shape, batches)


def _measure_batch(network: nn.Module, shape: tuple[int, int, int, int], device: torch.device) -> BatchSpeed:
    # Images are noise, as the time does not depend on them; a generator of their own leaves the
    # random state of a caller alone.
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, memory_format=torch.channels_last)
    run = partial(network, images)
    for _ in range(_WARM_UP):
        run()
    latencies: list[float] = []
    while not _enough(latencies):
        latencies.append(_seconds(run, device))
    milliseconds = 1000 * torch.tensor(latencies, dtype=torch.float64)
    low, median, high = milliseconds.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return BatchSpeed(len(images), len(latencies), median, low, high, 1000 * len(images) / median)


def _enough(latencies: Sequence[float]) -> bool:
    spent = sum(latencies)
    return (len(latencies) >= LEAST_RUNS and spent >= LEAST_SECONDS) or spent >= MOST_SECONDS


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """Returns the seconds of one run, on a GPU by its own clock."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)  # earlier work is no part of it
        with torch.cuda.device(device):
            start.record()
            run()
            end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
