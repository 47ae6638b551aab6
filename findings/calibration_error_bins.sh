#!/usr/bin/env bash
# The calibration error of torchmetrics has one bin more than n_bins says, for confidences of exactly 1.
#
# A good engineer expects n_bins bins, as the documentation and Guo et al. (2017, arXiv:1706.04599) have it: with a single bin
# the error is the difference of accuracy and mean confidence.
#
# Bins are [m / n, (m + 1) / n), closed on the left, so that a confidence of 1 lies in none of them and gets a bin of its own.
# Softmax in float32 is exactly 1 from a margin of about 17 between the logits, which confident networks reach, so that an
# error is reported that depends on it: a gap at 1 no longer cancels an opposite one just below it.
#
# Seen with torchmetrics 1.9.0 and torch 2.13.0 for the CPU. Two images, one bin: the first is recognised with confidence 0.5
# and the second is not, with confidence 1 or almost 1. Accuracy is 0.5 and mean confidence 0.75, so the error is 0.25. The
# script printed:
#
#   torchmetrics 1.9.0, torch 2.13.0+cpu
#   second confidence 0.9999999: calibration error 0.250
#   second confidence 1.0000000: calibration error 0.750
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
cd "$folder"
cat > surprise.py <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics.classification import MulticlassCalibrationError

LABELS = torch.tensor([0, 1])

print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
found = []
for second in (1 - 1e-7, 1.0):
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [second, 1 - second, 0.0]])
    error = MulticlassCalibrationError(3, n_bins=1)(probabilities, LABELS)
    print(f"second confidence {probabilities[1, 0]:.7f}: calibration error {error:.3f}")
    found.append(f"{error:.3f}")
same = found == ["0.250", "0.750"]
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
