#!/usr/bin/env bash
# Triton 3.8 reads one element at a time where an address was chosen from two pointers by a tensor.
#
# A good engineer expects a block whose rows are contiguous and aligned to be read 16 bytes at a time, whichever of two arrays
# each row comes from, as Triton does up to 3.7: in where(row < count, first + row * LENGTH, second + ...) both addresses are
# multiples of 16 bytes, and so is the one that is chosen.
#
# From 3.8 on the compiler knows nothing of the alignment of a choice whose condition differs from neighbour to neighbour, as
# one of shape [4] or [4, 1] does, with a row each: all reads from the chosen address are of one element, eight times as many
# for bfloat16. Where the offsets along the row are added to both pointers before the choice, neighbours in a row of [4, 512]
# share the condition, and reads have 16 bytes again.
#
# Seen with Triton 3.7.1 and 3.8.0 (and 3.9.0 as 3.8.0), built for sm_90 on a machine without a GPU. The script printed:
#
#   triton 3.7.1: offsets added after the choice 16 bytes a read, before it 16
#   triton 3.8.0: offsets added after the choice 2 bytes a read, before it 16
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TRITON_CACHE_DIR=$folder/cache
python3 -m venv "$folder/venv"
cd "$folder"
cat > surprise.py <<'PYTHON'
import re
import sys

import triton
import triton.language as tl


@triton.jit
def after(first, second, out, count, LENGTH: tl.constexpr):
    row = tl.program_id(0) * 4 + tl.arange(0, 4)
    place = tl.arange(0, LENGTH)[None, :]
    chosen = tl.where(row < count, first + row * LENGTH, second + (row - count) * LENGTH)
    tl.store(out + row[:, None] * LENGTH + place, tl.load(chosen[:, None] + place))


@triton.jit
def before(first, second, out, count, LENGTH: tl.constexpr):
    row = tl.program_id(0) * 4 + tl.arange(0, 4)[:, None]
    place = tl.arange(0, LENGTH)[None, :]
    chosen = tl.where(row < count, first + row * LENGTH + place, second + (row - count) * LENGTH + place)
    tl.store(out + row * LENGTH + place, tl.load(chosen))


def narrowest(kernel):
    """Returns the bytes of the narrowest read of global memory."""
    types = {"first": "*bf16", "second": "*bf16", "out": "*bf16", "count": "i32", "LENGTH": "constexpr"}
    aligned = {(number,): [["tt.divisibility", 16]] for number in range(3)}
    source = triton.compiler.ASTSource(kernel, types, {(4,): 512}, aligned)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    ptx = triton.compile(source, target=target, options={"num_warps": 1}).asm["ptx"]
    reads = re.findall(r"\bld\.global(?:\.v(\d))?\.b(\d+)", ptx)
    return min(int(count or 1) * int(bits) // 8 for count, bits in reads)


widths = [narrowest(after), narrowest(before)]
print("triton {}: offsets added after the choice {} bytes a read, before it {}".format(triton.__version__, *widths))
sys.exit(widths != {"3.7": [16, 16], "3.8": [2, 16]}[sys.argv[1]])
PYTHON
same=true
for version in 3.7.1 3.8.0; do
    venv/bin/python -m pip install --quiet "triton==$version"
    venv/bin/python surprise.py "${version%.*}" || same=false
done
if $same; then echo "as described"; else echo "this is no longer as described"; exit 1; fi
