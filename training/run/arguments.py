"""Arguments of the commands that take a finished run rather than a configuration."""

import argparse
from typing import Any, NoReturn

from base.checks import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as those of the other commands."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return text == "true"


TRUTH: dict[str, Any] = {"type": truth, "nargs": "?", "const": True, "metavar": "true|false"}
"""Options of `add_argument` for an argument that is true if it is named without a value."""
