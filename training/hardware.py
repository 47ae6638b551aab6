"""The hardware of a run: its device, its processes and its floating type."""

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn

from base.checks import FieldError
from base.texts import show

# Two digits: torch takes a larger number by its remainder, cuda:256 for cuda:0.
_DEVICE = re.compile(r"cpu|cuda(?::(?:0|[1-9][0-9]?))?")

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context to run a network in: bfloat16, float32, or auto, which is bfloat16 on a GPU and
    float32 elsewhere."""
    enabled = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def move_to(network: nn.Module, device: torch.device) -> None:
    """Moves `network` to `device`, into the memory layout that convolutions there are at their best
    with."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to the stubs


def device_name(device: torch.device) -> str:
    """Returns the maker's name of the chip."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def choose_device(name: str, threads: int | None = None) -> torch.device:
    """The device called `name`, "auto" being cuda where there is one; sets the number of CPU
    threads where one is given.

    On a GPU it also rules out those kernels of cuDNN that add up in whatever order they come to: a
    run repeats bit for bit. Raises InputError for a device that is not there, and for any but cpu
    and cuda: torch has names of more, that it has no arithmetic for.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    refusal = FieldError("device", f"{show(name)} cannot be used here; try auto or cpu")
    if not _DEVICE.fullmatch(name):
        raise refusal
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise refusal from error
    return device


@dataclass(frozen=True)
class World:
    """The processes that train one network together, each on a device of its own."""

    rank: int = 0
    """The number of this one; the process of rank 0 writes the files of the run."""
    size: int = 1
    """Number of processes."""


class HardwareConfig(Protocol):
    """The part of a configuration that says what a run computes with."""

    device: str
    threads: int | None
    precision: Precision


@dataclass(frozen=True)
class Hardware:
    """The hardware that a run computes with.

    It is made once, from the configuration, and handed to everything that computes.
    """

    device: torch.device
    precision: Precision = "float32"
    """The floating type of convolutions and linear layers; see `autocast`."""
    graph: bool | None = False
    """Whether steps become a CUDA graph; see `training.graph.new_capture`."""
    world: World = World()

    @classmethod
    def of(cls, config: HardwareConfig, graph: bool | None = False) -> Self:
        """Chooses what `config` asks for and sets the number of CPU threads.

        Raises InputError for an absent device.
        """
        return cls(choose_device(config.device, config.threads), config.precision, graph)

    def autocast(self, precision: Precision | None = None) -> torch.autocast:
        """Returns the context to run a network in, with another precision than the usual one if
        given."""
        return autocast(precision or self.precision, self.device)

    def running(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Returns `network` as it runs here: in the usual precision."""

        def run(inputs: Tensor) -> Tensor:
            with self.autocast():
                return network(inputs)

        return run
