#!/usr/bin/env bash
# The death of a process of a DataLoader is raised wherever the program is.
#
# A good engineer expects that the RuntimeError about a dead worker comes out of the loader: where a batch is asked for.
#
# It comes out of whatever the main thread is doing at that moment, even where nothing of the loader is used, as a handler of
# SIGCHLD raises it: in the midst of a step, in a write of a file, or in a callback of the garbage collector, which loses it.
# The loader itself finds the death, too, when it next waits for a batch: it looks every 5 seconds.
#
# Seen with torch 2.13.0 for the CPU and Python 3.11 on Linux. The script printed:
#
#   torch 2.13.0+cpu: RuntimeError out of time.sleep
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
import multiprocessing
import sys
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

iterator = iter(DataLoader(TensorDataset(torch.zeros(64, 8)), num_workers=2))
next(iterator)
multiprocessing.active_children()[0].kill()
found = "nothing"
try:
    time.sleep(1)
except RuntimeError:
    found = "RuntimeError"
print(f"torch {torch.__version__}: {found} out of time.sleep")
print("as described" if found == "RuntimeError" else "this is no longer as described")
sys.exit(found != "RuntimeError")
PYTHON
venv/bin/python surprise.py
