#!/usr/bin/env bash
# torch's Dirichlet and Beta draw exactly uniform vectors at small concentrations, in float64 as well.
#
# A good engineer expects a symmetric Dirichlet distribution of a small concentration to draw vectors that are nearly one-hot:
# with two entries of concentration 0.001 one draw in 218 has both entries between 0.01 and 0.99. Where numbers get too small,
# one expects an entry to be rounded to 0.
#
# Instead a quarter of the draws is exactly (0.5, 0.5). A Gamma variable of so small a concentration is below the smallest
# normal number of float64 in half of its draws (2.2e-308 ** 0.001 = 0.49); torch raises it to that number, and where this
# befalls all entries their quotients by the sum are equal. Beta, which draws from a Dirichlet of two entries, says 0.5 as often.
# float32 and float64 do alike, as the draw is made in float64 for both. At a concentration of 0.0001 it is seven draws in
# eight. Drawn in logarithms (log Gamma(c + 1) + log(U) / c, then a softmax) none is; numpy has no such draws either.
#
# Seen with torch 2.13.0 on the CPU. The script printed:
#
#   torch 2.13.0+cpu, 100,000 draws of two entries
#   concentration 0.001: uniform in float32 0.245, float64 0.242, Beta 0.242; drawn in logarithms 0.000, by numpy 0.000
#   concentration 0.0001: uniform in float32 0.869, float64 0.868, Beta 0.867; drawn in logarithms 0.000, by numpy 0.000
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cd "$folder"
venv/bin/python -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > surprise.py <<'PYTHON'
import sys

import numpy
import torch
from torch.distributions import Beta, Dirichlet

COUNT = 100_000
torch.manual_seed(0)
print(f"torch {torch.__version__}, {COUNT:,} draws of two entries")
right = True
for concentration, least in ((0.001, 0.2), (0.0001, 0.8)):
    shares = []
    for dtype in (torch.float32, torch.float64):
        both = torch.full((2,), concentration, dtype=dtype)
        shares.append((Dirichlet(both).sample((COUNT,)) == 0.5).all(-1).double().mean().item())
    both = torch.full((), concentration, dtype=torch.float64)
    shares.append((Beta(both, both).sample((COUNT,)) == 0.5).double().mean().item())
    logs = torch._standard_gamma(torch.full((COUNT, 2), 1 + concentration, dtype=torch.float64)).log()
    logs += torch.rand(COUNT, 2, dtype=torch.float64).log() / concentration
    in_logarithms = (logs.softmax(-1) == 0.5).all(-1).double().mean().item()
    drawn = numpy.random.default_rng(0).dirichlet([concentration] * 2, COUNT)
    in_numpy = (drawn == 0.5).all(-1).mean()
    print(
        f"concentration {concentration}: uniform in float32 {shares[0]:.3f}, float64 {shares[1]:.3f}, Beta {shares[2]:.3f}; "
        f"drawn in logarithms {in_logarithms:.3f}, by numpy {in_numpy:.3f}"
    )
    right = right and min(shares) > least and in_logarithms == in_numpy == 0
print("as described" if right else "this is no longer as described")
sys.exit(not right)
PYTHON
venv/bin/python surprise.py
