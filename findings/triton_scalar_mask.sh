#!/usr/bin/env bash
# The interpreter of Triton 3.9 refuses a single condition as the mask of a block.
#
# A good engineer expects TRITON_INTERPRET=1 to run what the compiler builds. A read of a block whose mask is one condition for
# all of it, such as tl.load(flag) != 0, is built, and the documentation of tl.load says that a mask is broadcast to the shape
# of the pointers. Up to 3.8 the interpreter runs it as well.
#
# From 3.9 on the interpreter ends it with "mask has unsupported dtype": it spreads the one condition with the type of what was
# compared, 32-bit integers, and no longer takes them as truth values. A flag that is spread over the block first and compared
# there, tl.broadcast_to(tl.load(flag), [8]) != 0, is taken by all.
#
# Seen with Triton 3.8.0 and 3.9.0, torch 2.13.0 for the CPU and Python 3.11 on Linux, without a GPU. The script printed:
#
#   triton 3.8.0: compared, then spread: built for sm_90, interpreted; spread, then compared: built for sm_90, interpreted
#   triton 3.9.0: compared, then spread: built for sm_90, ValueError: mask has unsupported dtype; spread, then compared: built for sm_90, interpreted
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TRITON_CACHE_DIR=$folder/cache
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > surprise.py <<'PYTHON'
import os
import subprocess
import sys

import torch
import triton
import triton.language as tl


@triton.jit
def compared_first(flag, source, out, LENGTH: tl.constexpr):
    place = tl.arange(0, LENGTH)
    tl.store(out + place, tl.load(source + place, mask=tl.load(flag) != 0, other=0))


@triton.jit
def spread_first(flag, source, out, LENGTH: tl.constexpr):
    place = tl.arange(0, LENGTH)
    tl.store(out + place, tl.load(source + place, mask=tl.broadcast_to(tl.load(flag), [LENGTH]) != 0, other=0))


def build(kernel):
    types = {"flag": "*i32", "source": "*fp32", "out": "*fp32", "LENGTH": "constexpr"}
    source = triton.compiler.ASTSource(kernel, types, {(3,): 8}, {})
    triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", 90, 32))
    return "built for sm_90"


def interpret(kernel):
    flag, source, out = torch.ones(1, dtype=torch.int32), torch.arange(8.0), torch.zeros(8)
    try:
        kernel[(1,)](flag, source, out, 8)
    except Exception as error:
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {cause}"
    return "interpreted" if torch.equal(out, source) else "wrong values"


kernels = {"compared": compared_first, "spread": spread_first}
if len(sys.argv) > 1:
    print((interpret if os.environ.get("TRITON_INTERPRET") else build)(kernels[sys.argv[1]]))
    sys.exit()
found = {}
for name in kernels:
    for interpreted in ("", "1"):
        environment = os.environ | {"TRITON_INTERPRET": interpreted}
        if not interpreted:
            del environment["TRITON_INTERPRET"]
        done = subprocess.run([sys.executable, __file__, name], env=environment, capture_output=True, text=True, check=True)
        found.setdefault(name, []).append(done.stdout.strip())
compared, spread = (", ".join(found[name]) for name in kernels)
print(f"triton {triton.__version__}: compared, then spread: {compared}; spread, then compared: {spread}")
right = "built for sm_90, interpreted"
refused = "built for sm_90, ValueError: mask has unsupported dtype"
sys.exit((compared, spread) != (refused if triton.__version__ >= "3.9" else right, right))
PYTHON
same=true
for version in 3.8.0 3.9.0; do
    venv/bin/python -m pip install --quiet "triton==$version"
    venv/bin/python surprise.py || same=false
done
if $same; then echo "as described"; else echo "this is no longer as described"; exit 1; fi
