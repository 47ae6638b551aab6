"""Arguments of the commands that take a finished run rather than a configuration."""

import argparse
import re
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from base.checks import InputError
from base.numbers import parse_number, parse_whole
from base.texts import excerpt, show


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as those of the other commands."""

    def error(self, message: str) -> NoReturn:
        # argparse quotes what was given in full.
        for quoted in (r"(?<=unrecognized arguments: ).*", r"(?<=invalid choice: ).*(?= \(choose from )"):
            message = re.sub(quoted, lambda found: excerpt(found[0]), message, flags=re.DOTALL)
        raise InputError(message.removeprefix("argument "))


def whole_number(text: str) -> int:
    """Returns the whole number that an argument gives.

    Raises ArgumentTypeError for anything else.
    """
    return _read(parse_whole, "a whole number", text)


def number(text: str) -> float:
    """Returns the number that an argument gives.

    Raises ArgumentTypeError for anything else.
    """
    return _read(parse_number, "a number", text)


def _read(parse: Callable[[str], Any], kind: str, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        reason = f" ({error})" if str(error) else ""
        raise argparse.ArgumentTypeError(f"must be {kind}, not {show(text)}{reason}") from None


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """Returns the type of an argument that is one of `names`."""

    def choice(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(names)}, not {show(text)}")
        return text

    return choice


def truth(text: str) -> bool:
    """Returns the truth value that an argument gives.

    Raises ArgumentTypeError for anything else.
    """
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {show(text)}")
    return text == "true"


TRUTH: dict[str, Any] = {"type": truth, "nargs": "?", "const": True, "metavar": "true|false"}
"""Options of `add_argument` for an argument that is true if it is named without a value."""
