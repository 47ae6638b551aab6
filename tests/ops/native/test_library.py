"""The compiled kernels are built once, kept whole, and done without where they cannot be built."""

import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from ops.native import library

RUN = """
import torch
from supernet import Supernet, get_space
torch.manual_seed(0)
network = Supernet(get_space("nasbench201"), 4, 1, 10)
mixture = {kind: alpha.softmax(-1) for kind, alpha in network.space.new_alphas().items()}
print(network(torch.randn(2, 3, 8, 8), mixture).sum().item())
print(*{type(executor).__name__ for cell in network.mixed_cells() for executor in cell.executors.values()})
"""


def run(**environment: str | Path) -> tuple[str, str, str]:
    """Sum of the logits, executors, and what was told, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", RUN],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        check=True,
    )
    value, executors = done.stdout.split("\n")[:2]
    return value, executors, done.stderr


@pytest.mark.slow
def test_a_kept_library_is_loaded_and_a_damaged_one_built_anew(tmp_path: Path) -> None:
    first = run(FUSENAS_CACHE=tmp_path)
    assert first[1] == "NativeCell" and "compiling" in first[2]
    [kept] = tmp_path.iterdir()
    content = kept.read_bytes()
    assert run(FUSENAS_CACHE=tmp_path) == (*first[:2], "")
    for damaged in (b"", content[:1000], content[:-1], content[:5000] + b"?" + content[5001:]):
        kept.write_bytes(damaged)
        value, executors, told = run(FUSENAS_CACHE=tmp_path)
        assert (value, executors) == first[:2] and "compiling" in told and "Traceback" not in told
        assert kept.stat().st_size == len(content), "it is whole again"
        assert [kept] == list(tmp_path.iterdir()), "nothing is left behind"


def test_without_a_compiler_plain_torch_runs_after_one_warning(tmp_path: Path) -> None:
    value, executors, told = run(FUSENAS_CACHE=tmp_path, PATH=tmp_path, CXX="")
    assert executors == "ReferenceCell" and told.count("plain torch runs instead") == 1
    assert "there is no C++ compiler; install one" in told and "Traceback" not in told
    other = run()
    assert float(value) == pytest.approx(float(other[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'cells.h:1: error: unknown type' >&2; exit 1", "cells.h:1: error: unknown type"),
        ("exit 3", "status 3"),
        ('case "$*" in *-dM*) exit 0;; esac; while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"', "invalid ELF"),
    ],
)
def test_a_broken_compiler_is_told_and_done_without(script: str, words: str, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    _, executors, told = run(FUSENAS_CACHE=tmp_path / "cache", CXX=compiler)
    assert executors == "ReferenceCell" and "plain torch runs instead" in told and "Traceback" not in told
    assert words in told or (words == "invalid ELF" and "file too short" in told)


def test_a_compiler_that_is_named_and_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(library.CannotBuild, match="CXX names no-such-compiler, which is not there"):
        library.find_compiler()


def test_the_cache_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUSENAS_CACHE", str(tmp_path))
    assert library.cache_directory() == tmp_path
    monkeypatch.delenv("FUSENAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.cache_directory() == tmp_path / "fusenas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert library.cache_directory() == tmp_path / ".cache" / "fusenas"


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_told_and_the_kernels_run(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    _, executors, told = run(FUSENAS_CACHE=blocked / "cache")
    assert executors == "NativeCell" and "set FUSENAS_CACHE to a folder that can be written" in told
    assert "Traceback" not in told


def test_loading_twice_gives_the_same_library() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.load(torch.float32) is library.load(torch.float32)
