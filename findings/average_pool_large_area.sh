#!/usr/bin/env bash
# PyTorch's average pooling of a large area in float32 on the CPU is off by more than half a grey level.
#
# A good engineer expects the mean of equal numbers to be that number up to the last digits, as torch.mean gives it (which
# adds in parts), and that an image of white pixels (255) stays white when it is made small with mode="area".
#
# avg_pool2d, adaptive_avg_pool2d and interpolate(mode="area") add the pixels of an area one by one to a float32, whose error
# grows with the area: a mean of 250,000 white pixels rounds to 256, which is no uint8 any more. From 2^32 on the sum stands
# still, as another 255 is less than half of its last digit, and avg_pool2d of 6000x6000 gives less than half of the value.
# An adaptive pool to 1x1 is right, because it is computed as a mean. In float64 all of them are right.
#
# Seen with torch 2.13.0 for the CPU. The script printed, for images whose pixels are all 255:
#
#   torch 2.13.0+cpu
#   mean of 1000x1000:                  255.000
#   adaptive_avg_pool2d to 1x1:         255.000
#   adaptive_avg_pool2d to 2x2:         255.737
#   interpolate(mode="area") to 2x2:    255.737, in float64 255.000
#   mean of 6000x6000:                  255.000
#   avg_pool2d of 6000x6000:            119.305
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
import torch.nn.functional as F

print(f"torch {torch.__version__}")
white = torch.full((1, 1, 1000, 1000), 255.0)
large = torch.full((1, 1, 6000, 6000), 255.0)
mean = white.mean().item()
one = F.adaptive_avg_pool2d(white, 1).item()
two = F.adaptive_avg_pool2d(white, 2).flatten()[0].item()
area = F.interpolate(white, (2, 2), mode="area").flatten()[0].item()
double = F.interpolate(white.double(), (2, 2), mode="area").flatten()[0].item()
large_mean = large.mean().item()
large_pool = F.avg_pool2d(large, 6000).item()
print(f"mean of 1000x1000:                  {mean:.3f}")
print(f"adaptive_avg_pool2d to 1x1:         {one:.3f}")
print(f"adaptive_avg_pool2d to 2x2:         {two:.3f}")
print(f'interpolate(mode="area") to 2x2:    {area:.3f}, in float64 {double:.3f}')
print(f"mean of 6000x6000:                  {large_mean:.3f}")
print(f"avg_pool2d of 6000x6000:            {large_pool:.3f}")
same = all(abs(value - 255) < 0.01 for value in (mean, one, double, large_mean))
same = same and round(two) == round(area) == 256 and large_pool < 128
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
