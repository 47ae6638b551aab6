#!/usr/bin/env bash
# PyTorch's scaled_dot_product_attention on the CPU has no second derivative, though the same attention by hand has one.
#
# A good engineer expects a function of torch.nn.functional to choose, among its ways to compute, one that can do what is asked:
# on a GPU and on the CPU alike it picks one of several by the inputs. So a gradient with create_graph=True, as second-order
# architecture search, meta-learning and gradient penalties take it, should lead to the way that has derivatives of all orders.
#
# On the CPU the fused way is chosen whatever the gradient is for. The first gradient is computed, with create_graph=True, too;
# the second ends with a RuntimeError that names an internal function, in float32 and in float64. Under
# sdpa_kernel(SDPBackend.MATH) it works, and has the value that the attention by hand has.
#
# Seen with torch 2.13.0 for the CPU, and with 2.14.1. The script printed:
#
#   torch 2.13.0+cpu
#   as it is, float32: refused: derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented
#   as it is, float64: refused: derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented
#   MATH, float64:     works, within 1e-12 of the attention by hand
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > surprise.py <<'PYTHON'
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

print(f"torch {torch.__version__}")


def by_hand(query, key, value):
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1) @ value


def second(attend, dtype):
    """The gradient with respect to the keys of the squared gradient with respect to the queries."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 9, 8, generator=generator, dtype=dtype).requires_grad_() for _ in range(3))
    (first,) = torch.autograd.grad(attend(query, key, value).square().sum(), query, create_graph=True)
    return torch.autograd.grad(first.square().sum(), key)[0]


def refusal(dtype):
    try:
        second(scaled_dot_product_attention, dtype)
    except RuntimeError as error:
        return str(error).split(".")[0]
    return None


refusals = [refusal(torch.float32), refusal(torch.float64)]
for name, said in zip(("float32", "float64"), refusals):
    print(f"as it is, {name}: {'works' if said is None else f'refused: {said}'}")
with sdpa_kernel(SDPBackend.MATH):
    gap = (second(scaled_dot_product_attention, torch.float64) - second(by_hand, torch.float64)).abs().max().item()
print(f"MATH, float64:     works, {'within 1e-12 of' if gap < 1e-12 else f'{gap:.1e} from'} the attention by hand")
same = all(said is not None and "not implemented" in said for said in refusals) and gap < 1e-12
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
