"""The options that benchmarks have in common; to read them takes nothing but Python."""

import argparse
import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from base.numbers import parse_number, parse_whole
from base.texts import excerpt

_MOST = 2**31 - 1
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)


def command_line(prog: str, argv: Sequence[str] | None) -> str:
    """Returns the command as it was typed."""
    return f"`python -m {shlex.join([prog, *(sys.argv[1:] if argv is None else argv)])}`"


def at_least(least: int) -> Callable[[str], int]:
    """Returns the type of an option: a whole number from `least` to 2**31 - 1."""

    def number(text: str) -> int:
        value = _value(parse_whole, text)
        if not least <= value <= _MOST:
            limit = f"most {_MOST}" if value > _MOST else f"least {least}"
            raise argparse.ArgumentTypeError(f"must be a whole number of at {limit}, not {excerpt(text)}")
        return int(value)

    return number


def above_zero(text: str) -> float:
    """Returns the finite number above 0 that an option gives.

    Raises ArgumentTypeError for anything else.
    """
    value = _value(parse_number, text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {excerpt(text)}")
    return value


def _value(parse: Callable[[str], float], text: str) -> float:
    """Returns NaN, which no limit takes, for a text that is no number."""
    try:
        return parse(text)
    except ValueError:
        return math.nan


def duration(text: str) -> float:
    """Returns the seconds of a duration such as 90s, 5m or 1h30m.

    Raises ArgumentTypeError for anything else, and for one of no length.
    """
    match = DURATION.fullmatch(text)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not (math.isfinite(total) and total > 0):
        raise argparse.ArgumentTypeError(f"must be a duration above 0 such as 90s, 5m or 1h30m, not {excerpt(text)}")
    return total


@dataclass(frozen=True)
class Rates:
    """The rates of a device; the defaults are an H100's in practice."""

    bandwidth: float = 3.0
    """Memory traffic, TB/s."""
    cuda_cores: float = 33.0
    """float32 arithmetic on CUDA cores, TFLOP/s (a multiply-add is two)."""
    tensor_cores: float = 480.0
    """bfloat16 matrix products, TFLOP/s."""

    def __str__(self) -> str:
        if self.cuda_cores == self.tensor_cores:
            return f"{1000 * self.bandwidth:.1f} GB/s, {1000 * self.cuda_cores:.0f} GFLOP/s"
        return f"{self.bandwidth:g} TB/s, {self.cuda_cores:g} TFLOP/s on CUDA cores, {self.tensor_cores:g} on tensor cores"


def add_rates(parser: argparse.ArgumentParser) -> None:
    """Adds options for the rates of a device."""
    parser.add_argument("--bandwidth", type=above_zero, default=Rates.bandwidth, help="memory traffic, TB/s")
    parser.add_argument("--cuda-cores", type=above_zero, default=Rates.cuda_cores, help="float32 on CUDA cores, TFLOP/s")
    parser.add_argument("--tensor-cores", type=above_zero, default=Rates.tensor_cores, help="matrix products, TFLOP/s")


def rates_of(options: argparse.Namespace) -> Rates:
    """Returns the rates that were given as options."""
    return Rates(options.bandwidth, options.cuda_cores, options.tensor_cores)
