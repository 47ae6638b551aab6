"""Every kernel builds for a GPU that is not here, and a build that is not as it should be is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import aot
from ops.kernels import launch

pytest.importorskip("triton")

ROOT = Path(__file__).parent.parent.parent

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
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False
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


PTX = """
	ld.param.b64 	%rd1, [kernel_param_0];
	ld.param.b64 	%rd2, [kernel_param_1];
	ld.param.b64 	%rd9, [kernel_param_3];
	ld.param.b32 	%r1, [kernel_param_2];
	mov.b64 	%rd4, %rd3;
	add.s64 	%rd3, %rd4, 16;
	mad.wide.s32 	%rd4, %r1, 4, %rd1;
	@%p1 ld.global.L1::evict_last.v4.b32 { %r2, %r3, %r4, %r5 }, [ %rd3 + 0 ];
	ld.global.nc.b16 	%rs1, [%rd4+2];
	cp.async.cg.shared.global [ %r9 + 0 ], [ %rd5 + 0 ], 0x8, %r10;
	selp.b64 	%rd5, %rd2, %rd4, %p1;
	@%p1 st.global.v2.b64 [ %rd2 + 0 ], { %rd6, %rd7 };
	ld.global.b64 	%rd8, [%rd2];
	ld.global.f32 	%f1, [%rd8];
"""


def test_each_load_and_store_is_traced_to_its_arguments() -> None:
    assert list(aot.accesses(PTX, ["maps", "out", "rows"])) == [
        ("load", 16, {"maps"}),
        ("load", 2, {"maps"}),
        ("load", 8, {"maps", "out"}),
        ("store", 16, {"out"}),
        ("load", 8, {"out"}),
        ("load", 4, set()),
    ]


@pytest.mark.skipif(not launch.INTERPRETED, reason="needs Triton's interpreter")
def test_where_kernels_are_interpreted_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert aot.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.aot: error: TRITON_INTERPRET=1 replaces the compiler; unset it\n"


def test_without_triton_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "triton", None)
    assert aot.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.aot: error: Triton is not installed\n"
