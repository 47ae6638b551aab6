"""Every kernel builds for a GPU that is not here, and a build that is not as it should be is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]

FAULTY = """
import torch
from benchmarks.aot import BATCH, measure, specialise
from ops.kernels.launch import jit, launch, recording, tl

@jit
def even_channels(maps, out):
    channels = tl.arange(0, 128)
    tl.store(out + channels, tl.load(maps + 2 * channels).to(tl.float32))

@jit
def large(maps, out):
    rows, channels = tl.arange(0, 128)[:, None], tl.arange(0, 128)[None, :]
    total = tl.zeros([128, 128], tl.float32)
    for image in range(BATCH):
        values = tl.load(maps + image * 128 * 128 + rows * 128 + channels).to(tl.float32)
        total = tl.cumsum(total + values, 0)
    tl.store(out + rows * 128 + channels, total)

@jit
def on_cuda_cores(maps, out):
    rows, channels = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    values = tl.load(maps + rows * 16 + channels).to(tl.float32)
    tl.store(out + rows * 16 + channels, tl.dot(values, values, input_precision="ieee"))

@jit
def missing(maps, out):
    tl.store(out, absent)

BATCH: tl.constexpr = tl.constexpr(BATCH)
if __name__ == "__main__":
    maps = torch.empty(BATCH.value, 8, 16, 128, dtype=torch.bfloat16, device="meta")
    with recording() as launches:
        for kernel in (even_channels, large, on_cuda_cores, missing):
            launch(kernel, (1,), maps, torch.empty(128 * 128, device="meta"), warps=1)
    for launched in launches:
        print(launched.kernel.fn.__name__, *measure(specialise(launched)).problems)
"""


def run(*command: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process that compiles, which this one does not where it interprets kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_every_kernel_is_built_as_it_should_be(tmp_path: Path) -> None:
    ended = run("-m", "benchmarks.aot", "--table", str(tmp_path / "table.md"), cache=tmp_path / "cache")
    assert ended.returncode == 0, ended.stderr
    header, *rows = (line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| "))
    columns = [name.strip() for name in header.split("|")]
    builds = [dict(zip(columns, row.split("|"), strict=True)) for row in rows]
    assert builds and all(0 < int(build["registers"]) <= 255 and int(build["stack"]) == 0 for build in builds)


def test_faults_of_a_build_are_told(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    ended = run(str(tmp_path / "faulty.py"), cache=tmp_path / "cache")
    assert ended.returncode == 0, ended.stderr
    narrow, large, scalar, missing = ended.stdout.splitlines()
    assert narrow == "even_channels loads 2 bytes at a time from maps"
    assert large.startswith("large spills: ") and large.endswith(" bytes of stack")
    assert scalar == "on_cuda_cores has a matrix product but no matrix instruction"
    assert missing.startswith("missing does not compile: ") and "absent" in missing
