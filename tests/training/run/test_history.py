"""Tests of training/run/history.py."""

import json
from pathlib import Path

from training.run.history import HISTORY_FILE, write_history


def test_a_line_holds_an_entry_and_the_order_of_its_names_does_not_matter(tmp_path: Path) -> None:
    write_history(tmp_path, [{"b": 1, "a": [0.1, None]}])
    write_history(tmp_path, [{"a": [0.1, None], "b": 1}, {"a": "ü\n", "b": 1e-9}])
    lines = (tmp_path / HISTORY_FILE).read_text().split("\n")
    assert lines[0] == '{"a": [0.1, null], "b": 1}' and lines[2] == ""
    assert json.loads(lines[1]) == {"a": "ü\n", "b": 1e-9}
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_a_history_without_entries_is_an_empty_file(tmp_path: Path) -> None:
    write_history(tmp_path, [])
    assert (tmp_path / HISTORY_FILE).read_bytes() == b""
