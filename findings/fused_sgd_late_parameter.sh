#!/usr/bin/env bash
# PyTorch's fused SGD with momentum cannot go on once a parameter gets its first gradient after the others.
#
# A good engineer expects fused=True to change the speed alone: SGD makes the momentum buffer of a parameter at the first step
# in which it has a gradient, as it does for an operation that is sampled late or a layer that is unfrozen.
#
# The fused step makes buffers only where none of its parameters has one. Where a parameter that has none meets one that has,
# it raises a TypeError, and so does every step after it; a step that fails changes no parameter. The plain step and
# foreach=True do what is expected. Buffers of zeros from the start avoid the error and lead to the same values.
#
# Seen with torch 2.13.0 for the CPU. The script printed:
#
#   torch 2.13.0+cpu
#   plain:   early 0.710, late 0.900
#   foreach: early 0.710, late 0.900
#   fused:   TypeError: expected Tensor as element 1 in argument 2, but got NoneType
#            again:     expected Tensor as element 1 in argument 2, but got NoneType
#            early 0.900, late 1.000
#   fused with buffers of zeros: early 0.710, late 0.900
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
from torch import nn
from torch.optim import SGD


def begun(buffers=False, **options):
    """Two parameters and their optimiser after a step in which only the first had a gradient; then both have one."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = SGD(parameters, lr=0.1, momentum=0.9, **options)
    if buffers:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    parameters[0].grad = torch.ones(1)
    optimizer.step()
    parameters[1].grad = torch.ones(1)
    return parameters, optimizer


def shown(parameters):
    return "early {:.3f}, late {:.3f}".format(*(parameter.item() for parameter in parameters))


def error_of(optimizer):
    try:
        optimizer.step()
    except TypeError as error:
        return str(error)
    return None


print(f"torch {torch.__version__}")
stepped = "early 0.710, late 0.900"
same = True
for name, options in (("plain:  ", {"foreach": False}), ("foreach:", {"foreach": True})):
    parameters, optimizer = begun(**options)
    optimizer.step()
    print(name, shown(parameters))
    same = same and shown(parameters) == stepped

parameters, optimizer = begun(fused=True)
first, second = error_of(optimizer), error_of(optimizer)
print(f"fused:   TypeError: {first}")
print(f"         again:     {second}")
print(f"         {shown(parameters)}")
same = same and None not in (first, second) and "NoneType" in first and shown(parameters) == "early 0.900, late 1.000"

parameters, optimizer = begun(buffers=True, fused=True)
optimizer.step()
print("fused with buffers of zeros:", shown(parameters))
same = same and shown(parameters) == stepped

print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
