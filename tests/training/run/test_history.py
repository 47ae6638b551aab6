"""Tests of training/run/history.py."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from base.checks import InputError
from training.run.history import HISTORY_FILE, HistoryEntry, read_history, write_history


@dataclass(frozen=True, kw_only=True)
class Entry(HistoryEntry):
    """An entry with something that is always measured or said to be none, and something that is there at times."""

    measured: float | None
    text: str | None = None


def test_a_line_holds_an_entry_with_its_readings_beside_its_fields(tmp_path: Path) -> None:
    write_history(tmp_path, [Entry(epoch=7, readings={}, measured=1.0)])
    history = [
        Entry(epoch=1, readings={"train/loss": 0.1}, measured=None),
        Entry(epoch=2, readings={"a": 1e-9}, measured=0.5, text="ü\n"),
    ]
    write_history(tmp_path, history)
    first, second, end = (tmp_path / HISTORY_FILE).read_text().split("\n")
    assert first == '{"epoch": 1, "measured": null, "train/loss": 0.1}' and end == ""
    assert json.loads(second) == {"epoch": 2, "a": 1e-9, "measured": 0.5, "text": "ü\n"}
    assert read_history(tmp_path, Entry.from_plain) == history
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_a_history_without_entries_is_an_empty_file(tmp_path: Path) -> None:
    assert read_history(tmp_path, Entry.from_plain) == []
    write_history(tmp_path, [])
    assert (tmp_path / HISTORY_FILE).read_bytes() == b"" and read_history(tmp_path, Entry.from_plain) == []


GOOD: dict[str, Any] = {"epoch": 1, "measured": 0.5}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[1]", "is no mapping"),
        (json.dumps({"measured": 0.5}), "epoch is missing"),
        (json.dumps({"epoch": 1}), "measured is missing"),
        (json.dumps(GOOD | {"epoch": "1"}), "epoch is no number but '1'"),
        (json.dumps(GOOD | {"train/loss": [1]}), r"train/loss is no number but \[1\]"),
        ("[" * 100_000, "recursion"),
        ("\udcff", "codec can't decode"),
    ],
)
def test_a_damaged_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    content = f"{json.dumps(GOOD)}\n{line}\n"
    (tmp_path / HISTORY_FILE).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=reason) as raised:
        read_history(tmp_path, Entry.from_plain)
    assert str(raised.value).startswith(f"{tmp_path / HISTORY_FILE}: line 2 is no entry of such a history (")
    assert "\n" not in str(raised.value)
