#!/usr/bin/env bash
# PyTorch's batch norm on the CPU gives a wrong gradient of a channels_last input when its weight is strided.
#
# A good engineer expects that strides do not matter: a weight that is a column of a matrix, or a scalar expanded to all
# channels, gives the same results as a contiguous copy of it.
#
# For an input in channels_last memory the output and the gradient of the weight are right, but the backward pass reads the
# weight as if it were contiguous, so that the input's gradient is that of the values which happen to lie behind the first
# one. It does so in training and in evaluation, in float32 as in the float64 used below, without an error or a warning.
# Inputs in NCHW memory get the right gradient. (An expanded scalar is read behind the end of its memory; the weight below
# is not.)
#
# Seen with torch 2.13.0 for the CPU. The script printed:
#
#   torch 2.13.0+cpu
#   NCHW          training    output is right, weight gradient is right, input gradient is right
#   NCHW          evaluation  output is right, weight gradient is right, input gradient is right
#   channels_last training    output is right, weight gradient is right, input gradient is of the weight read as contiguous
#   channels_last evaluation  output is right, weight gradient is right, input gradient is of the weight read as contiguous
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
from torch.nn.functional import batch_norm

CHANNELS = 16
RIGHT, MISREAD = "right", "of the weight read as contiguous"


def results(images, weight, gradient, training):
    """The output and the gradients of the weight and of the images."""
    images = images.detach().requires_grad_()
    weight = weight.detach().requires_grad_()
    mean, variance = torch.zeros(CHANNELS, dtype=images.dtype), torch.ones(CHANNELS, dtype=images.dtype)
    output = batch_norm(images, mean, variance, weight, None, training)
    return output.detach(), *torch.autograd.grad(output, (weight, images), gradient)


def outcome(memory, training):
    """What the output and the two gradients for a strided weight are, in words."""
    torch.manual_seed(0)
    images, gradient = (
        torch.randn(4, CHANNELS, 6, 6, dtype=torch.float64).contiguous(memory_format=memory) for _ in range(2)
    )
    table = 0.5 + torch.rand(CHANNELS, 2, dtype=torch.float64)
    weight = table[:, 0]
    found = results(images, weight, gradient, training)
    right = results(images, weight.contiguous(), gradient, training)
    misread = results(images, table.flatten()[:CHANNELS].clone(), gradient, training)
    return [
        RIGHT if torch.allclose(f, r) else MISREAD if torch.allclose(f, m) else "something else"
        for f, r, m in zip(found, right, misread)
    ]


print(f"torch {torch.__version__}")
same = True
for name, memory, expected in (("NCHW", torch.contiguous_format, RIGHT), ("channels_last", torch.channels_last, MISREAD)):
    for mode in ("training", "evaluation"):
        output, weight, images = outcome(memory, mode == "training")
        print(f"{name:13} {mode:10}  output is {output}, weight gradient is {weight}, input gradient is {images}")
        same = same and (output, weight, images) == (RIGHT, RIGHT, expected)
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
