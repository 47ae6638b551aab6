#!/usr/bin/env bash
# The gradient of torch.clamp where its input is the bound itself went from 1 to 0 in PyTorch 2.14.
#
# A good engineer expects the gradients of a program to be the same from one minor version to the next, and a smooth function
# that is put together from two parts at a clamp to have its own slope where they meet: elu(x) + 1 is relu(x) + exp(clamp(x,
# max=0)), and its slope is 1 on both sides of 0.
#
# Up to 2.13 clamp, clamp_min, clamp_max and clip hand the whole gradient on at a bound that is a number, to an input that is
# equal to it. From 2.14 on they hand on nothing there, as relu does at 0 (the subgradient of least norm, pytorch/pytorch pull
# request 191142): with relu(x) the sum above has slope 0 at x = 0, and a parameter that starts there stays for ever. With a
# tensor for the bound each side gets half of it, which all went to the input before. torch.where and masked_fill have said
# and say themselves to which side the bound belongs.
#
# Seen with torch 2.13.0 and 2.14.1 on the CPU. The script printed:
#
#   torch 2.13.0+cpu
#   slope at the bound: clamp 1, with a tensor as bound 1, masked_fill 1, relu 0
#   slope of elu(x) + 1 at 0: put together by clamp 1, by masked_fill 1
#   torch 2.14.1+cu130
#   slope at the bound: clamp 0, with a tensor as bound 0.5, masked_fill 1, relu 0
#   slope of elu(x) + 1 at 0: put together by clamp 0, by masked_fill 1
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cd "$folder"
cat > surprise.py <<'PYTHON'
import sys

import torch


def slope(function):
    x = torch.zeros((), requires_grad=True)
    function(x).backward()
    return x.grad.item()


def below(x):
    return x.masked_fill(x > 0, 0)


print(f"torch {torch.__version__}")
bound = [slope(f) for f in (lambda x: x.clamp(max=0), lambda x: x.clamp(max=torch.zeros(())), below, torch.relu)]
print("slope at the bound: clamp {:g}, with a tensor as bound {:g}, masked_fill {:g}, relu {:g}".format(*bound))
whole = [slope(lambda x, part=part: x.relu() + part(x).exp()) for part in (lambda x: x.clamp(max=0), below)]
print("slope of elu(x) + 1 at 0: put together by clamp {:g}, by masked_fill {:g}".format(*whole))
expected = {"2.13": [1, 1, 1, 0, 1, 1], "2.14": [0, 0.5, 1, 0, 0, 1]}[sys.argv[1]]
sys.exit(bound + whole != expected)
PYTHON
same=true
for version in 2.13.0 2.14.1; do
    venv/bin/python -m pip install --quiet "torch==$version" numpy==2.4.6
    venv/bin/python surprise.py "${version%.*}" || same=false
done
if $same; then echo "as described"; else echo "this is no longer as described"; exit 1; fi
