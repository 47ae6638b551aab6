#!/usr/bin/env bash
# captum's integrated gradients by the trapezoidal rule miss one part in n_steps even of a linear function, and those of a
# float64 network are rounded to float32 by every rule.
#
# A good engineer expects the trapezoidal rule to be exact for a linear function, whose gradient is the same all along the path:
# the attributions add up to f(x) - f(baseline), which is what integrated gradients are used for. And that a network in float64
# gives attributions that are right to some 1e-15.
#
# With method="riemann_trapezoid" the n points lie 1 / (n - 1) apart, but are weighted as if they lay 1 / n apart: the weights
# add up to 1 - 1 / n, and so do the attributions; 5.88 instead of 6 with the default of 50 steps, and the error falls as
# 1 / n, not as 1 / n^2. The other rules have weights that add up to 1. All of them turn the weights into float32 whatever the
# type of the inputs is, so that sums are off by 1e-9 to 1e-7 of their size. The convergence delta, which would tell, is only
# returned if it is asked for.
#
# Seen with captum 0.9.0 and torch 2.13.0 for the CPU. The script printed, for f(x) = x1 + 2 x2 + 3 x3, all in float64:
#
#   captum 0.9.0, torch 2.13.0+cpu
#   f(1, 1, 1) - f(0, 0, 0) = 6
#   riemann_trapezoid,  10 steps: 5.4000000805
#   riemann_trapezoid,  50 steps: 5.8799998686
#   riemann_trapezoid, 100 steps: 5.9399998672
#   riemann_middle,     50 steps: 5.9999998659
#   gausslegendre,      50 steps: 6.0000000042
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 captum==0.9.0
cd "$folder"
cat > surprise.py <<'PYTHON'
import sys

import captum
import torch
from captum.attr import IntegratedGradients

print(f"captum {captum.__version__}, torch {torch.__version__}")
slope = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
ones = torch.ones(1, 3, dtype=torch.float64)


def sum_of(method, steps):
    gradients = IntegratedGradients(lambda inputs: inputs @ slope)
    found = gradients.attribute(ones, torch.zeros_like(ones), n_steps=steps, method=method).sum().item()
    print(f"{method + ',':18} {steps:3} steps: {found:.10f}")
    return found


print(f"f(1, 1, 1) - f(0, 0, 0) = {slope.sum().item():.0f}")
trapezoid = {steps: sum_of("riemann_trapezoid", steps) for steps in (10, 50, 100)}
others = [sum_of("riemann_middle", 50), sum_of("gausslegendre", 50)]
same = all(abs(found - 6 * (1 - 1 / steps)) < 1e-5 for steps, found in trapezoid.items())
same = same and all(1e-12 < abs(found - 6) < 1e-5 for found in others)
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
