"""What is read of a build, and what cannot be built; end_to_end/test_aot.py builds."""

import pytest

from benchmarks import aot
from ops.kernels import launch

pytest.importorskip("triton")

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
