"""JSON from files: what is too large is refused before it takes time or memory."""

import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest

from base.checks import InputError
from base.plain_json import LARGEST, read_json
from training.run.history import HistoryEntry, read_history

LENGTH = LARGEST - 100
HOSTILE = {
    "lists": b"[" + b"[]," * (LENGTH // 3) + b"[]]",
    "mappings": b"[" + b"{}," * (LENGTH // 3) + b"{}]",
    "numbers": b"[" + b"1.5," * (LENGTH // 4) + b"1]",
    "as many numbers as may be": b"[" + b"1.5," * 2_999_998 + b"x]",
    "names": b"{" + b",".join(b'"%d":1' % number for number in range(LENGTH // 12)) + b"}",
    "as many names as may be": b"{" + b",".join(b'"%d":1' % number for number in range(399_999)) + b",}",
    "texts": b"[" + b'"ab",' * (LENGTH // 5) + b'""]',
    "a long text": b'"' + b"x" * LENGTH,
    "deep": b"[" * 100_000,
    "a long number": b"1" * LENGTH,
    "no UTF-8": b'"\xff"',
    "too large": b" " * (LARGEST + 1),
}


FAST = ("mappings", "deep", "no UTF-8", "too large")


@pytest.mark.parametrize("kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in HOSTILE])
def test_a_refusal_takes_little_time_and_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(HOSTILE[kind])
    for read in (lambda: read_json(path), lambda: read_history(tmp_path, HistoryEntry.from_plain)):
        began = time.process_time()
        with pytest.raises(InputError) as raised:
            read()
        assert time.process_time() - began < 1
        assert str(raised.value).startswith(f"{path}: ") and len(str(raised.value)) < len(str(path)) + 700
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read_json(path)
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_json(tmp_path / "absent")


@pytest.mark.slow
def test_the_results_for_a_thousand_classes_are_read(tmp_path: Path) -> None:

    content = {
        "confusion": [[0] * 1000] * 1000,
        "per_class": [{"precision": 0.1, "f1": None}] * 1000,
        "names": ["n: a, [b]"] * 1000,
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content, indent=2))
    assert read_json(tmp_path / "metrics.json") == content
