"""JSON from files, read within limits: what is refused takes neither a second nor much memory."""

import json
from pathlib import Path
from typing import Any

from base.checks import InputError
from base.files import read_limited
from base.texts import one_line

LARGEST = 48 * 2**20
"""Bytes of a file: several times the results for a thousand classes, or the history of thousands of
epochs."""
# A sign of each part that takes memory once it is read, with the number of them that a file may
# have: lists and mappings, their entries, entries with names, and (two each) texts.
_MOST = {b"[": 500_000, b"{": 500_000, b",": 3_000_000, b":": 400_000, b'"': 2_000_000}


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises InputError, which names the path, for a file that cannot be read, is too large, or is no
    JSON.
    """
    content = read_json_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({one_line(error)})") from error


def read_json_bytes(path: Path) -> bytes:
    """Returns the bytes of a file of JSON, in one piece or a line each, that is small enough to be
    read.

    Raises InputError, which names the path, for any other one.
    """
    content = read_limited(path, LARGEST)
    for sign, most in _MOST.items():
        if content.count(sign) > most:
            raise InputError(f"{path}: is too large, with more than {most:,} {sign.decode()}")
    return content
