#!/usr/bin/env bash
# group_norm on the CPU loses all digits in channels_last where the same values in the usual layout keep four.
#
# A good engineer expects the memory format of a tensor to change the speed of an operation and the last digit of its result:
# statistics are of the same numbers. For numbers whose mean is a thousand standard deviations from 0 (a sensor, a dim image,
# features with an offset) float32 leaves a normalised value four right digits.
#
# In the usual layout it has them. In channels_last the variance of a group is the mean of the squares less the square of the
# mean, both in float32, and 1,000 squared takes all the digits that a variance of 1 would need: values are wrong by up to three
# standard deviations. At a mean of 10,000 the difference comes out as 0 or below, and values of about 1,000 take the place of
# values between -4 and 4. No NaN, no warning. An image with pixels from 200 to 201 (scale 0..255) is enough. batch_norm and
# torch.var keep their digits in either layout.
#
# Seen with torch 2.13.0 on the CPU, one thread; with torch 2.14.1 likewise. The script printed:
#
#   torch 2.13.0+cpu; largest error of a normalised value, in standard deviations
#   mean 10: 0.0000 in the usual layout, 0.0002 in channels_last
#   mean 100: 0.0000 in the usual layout, 0.0214 in channels_last
#   mean 1,000: 0.0001 in the usual layout, 2.9600 in channels_last
#   mean 10,000: 0.0015 in the usual layout, 1383.4911 in channels_last
#   pixels from 200 to 201: 0.0000 in the usual layout, 2.3068 in channels_last
#   batch_norm, mean 1,000: 0.0001 in the usual layout, 0.0013 in channels_last
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

import torch
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(0)
print(f"torch {torch.__version__}; largest error of a normalised value, in standard deviations")


def errors(x, norm):
    """Returns the largest error in the usual layout and in channels_last, against float64."""
    right = norm(x.double())
    layouts = (torch.contiguous_format, torch.channels_last)
    return [(norm(x.contiguous(memory_format=layout)) - right).abs().max().item() for layout in layouts]


def groups(x):
    return F.group_norm(x, x.shape[1] // 2)


def batch(x):
    return F.batch_norm(x, None, None, training=True)


noise = torch.randn(8, 64, 16, 16)
found = {f"mean {mean:,}": errors(noise + mean, groups) for mean in (10, 100, 1_000, 10_000)}
found["pixels from 200 to 201"] = errors(torch.rand(8, 4, 32, 32) + 200, groups)
found["batch_norm, mean 1,000"] = errors(noise + 1_000, batch)
for name, (usual, last) in found.items():
    print(f"{name}: {usual:.4f} in the usual layout, {last:.4f} in channels_last")
usual = max(pair[0] for pair in found.values())
right = usual < 0.01 and found["mean 1,000"][1] > 0.1 and found["mean 10,000"][1] > 100
right = right and found["pixels from 200 to 201"][1] > 0.1 and found["batch_norm, mean 1,000"][1] < 0.01
print("as described" if right else "this is no longer as described")
sys.exit(not right)
PYTHON
venv/bin/python surprise.py
