"""The compiled kernels: built by the system's C++ compiler at their first use, then kept.

They are built where they run, so that they use all of the processor's instructions and one wheel
serves every system and every version of Python; Triton and torch.compile need the same compiler. A
kept library ends with its own SHA-256: one that is cut off or altered is built anew.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from array import array
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from base.texts import one_line

SOURCES = [
    Path(__file__).parent / name
    for name in ("kernels.cpp", "cell.h", "convolution.h", "entrance.h", "flat.h", "team.h", "vectors.h", "weights.h")
]
TYPES = {torch.float32: "float", torch.float64: "double"}
"""The types of values that the kernels are built for, as C++ has them."""
DIGEST = hashlib.sha256().digest_size
PATIENCE = 300
"""Seconds after which a compiler is given up."""

_building = threading.Lock()


class CannotBuild(Exception):
    """The reason why there are no compiled kernels, in one line."""


def cache_directory() -> Path:
    """Returns the folder of kept libraries: $FUSENAS_CACHE, or fusenas in the user's cache."""
    named = os.environ.get("FUSENAS_CACHE")
    if named:
        return Path(named)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "fusenas"


@cache
def load(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Returns the kernels for values of `dtype`; None, after one warning, if they cannot be
    built."""
    with _building:
        # Threads that waited here find what the first of them has made.
        return _load(dtype)


@cache
def _load(dtype: torch.dtype) -> ctypes.CDLL | None:
    try:
        compiler = find_compiler()
        key = _key(compiler, dtype)
        try:
            return _kept(compiler, dtype, cache_directory() / f"cells-{TYPES[dtype]}-{key}.so")
        except OSError as error:
            warnings.warn(
                f"compiled kernels cannot be kept, so that each process compiles them again: {one_line(error)}; "
                "set FUSENAS_CACHE to a folder that can be written",
                stacklevel=4,
            )
        with tempfile.TemporaryDirectory() as directory:
            return _kept(compiler, dtype, Path(directory) / "cells.so")
    except (CannotBuild, OSError) as error:
        warnings.warn(
            f"no compiled CPU kernels here, plain torch runs instead, several times slower: {one_line(error)}", stacklevel=4
        )
        return None


def call(function: str, dtype: torch.dtype, numbers: Sequence[int], *kept: ctypes.Array) -> None:
    """Calls a function of the kernels for values of `dtype`: with arrays that are the same for each
    call, then with `numbers`, int64."""
    # A ctypes array of some hundred numbers takes three times as long to fill.
    last = array("q", numbers)
    getattr(load(dtype), function)(*kept, ctypes.c_void_p(last.buffer_info()[0]))


def find_compiler() -> str:
    """Returns the C++ compiler: $CXX, or the first of c++, g++ and clang++.

    Raises CannotBuild if there is none.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    if named:
        raise CannotBuild(f"CXX names {named}, which is not there")
    raise CannotBuild("there is no C++ compiler; install one (Debian, Ubuntu: apt install g++; macOS: xcode-select --install)")


def _flags() -> list[str]:
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    return ["-O3", native, "-std=c++20", "-fPIC", "-fno-math-errno", "-pthread"]


def _run(command: list[str], task: str) -> bytes:
    """Returns what a command prints. Raises CannotBuild if it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{task}: {one_line(error)}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        problem = next((line for line in lines if "error" in line), f"status {done.returncode}")
        raise CannotBuild(f"{task}: {one_line(problem)}")
    return done.stdout


def _key(compiler: str, dtype: torch.dtype) -> str:
    """Returns a name for everything that decides the library: sources, flags, compiler, and the
    instructions that this processor has, which are among the compiler's own macros."""
    macros = _run([compiler, *_flags(), "-dM", "-E", "-x", "c++", os.devnull], compiler)
    digest = hashlib.sha256()
    for part in (*(source.read_bytes() for source in SOURCES), " ".join(_flags()).encode(), TYPES[dtype].encode(), macros):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _kept(compiler: str, dtype: torch.dtype, path: Path) -> ctypes.CDLL:
    """Returns the library at `path`, built first if it is not there or not whole."""
    if not _is_whole(path):
        _build(compiler, dtype, path)
    return ctypes.CDLL(str(path))


def _is_whole(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for; the build takes its place
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _build(compiler: str, dtype: torch.dtype, path: Path) -> None:
    """Compiles the library to `path`. Raises CannotBuild, or OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, beside its place, so that several processes may build at the same time.
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        built = Path(directory) / "built.so"
        print("compiling the CPU kernels for this processor, once (10 to 20 seconds)", file=sys.stderr, flush=True)
        _run([compiler, *_flags(), "-shared", f"-DVALUE={TYPES[dtype]}", str(SOURCES[0]), "-o", str(built)], compiler)
        content = built.read_bytes()
        built.write_bytes(content + hashlib.sha256(content).digest())
        os.replace(built, path)
