#!/usr/bin/env bash
# PyTorch's ONNX exporter writes the paths and lines of the source code on the exporting machine into the file.
#
# A good engineer expects a file for others to hold the graph and its weights, at most with names of the modules.
#
# torch.onnx.export with dynamo=True (the default) notes at every node the Python stack by which it came about: the absolute
# paths of files, with the user's folders in them, and the source lines themselves with their comments (metadata_props,
# "pkg.torch.onnx.stack_trace"), even with verbose=False. Of a network with small layers they are half of the file. Clearing
# metadata_props of each node removes them.
#
# Seen with torch 2.13.0 for the CPU, onnx 1.23.2 and onnxscript 0.7.2. The script printed:
#
#   torch 2.13.0+cpu, onnx 1.23.2, onnxscript 0.7.2
#   in the file: absolute path True, source line True; of 50 kB 51% are notes
#   without metadata_props: absolute path False, source line False
#   as described
#
# The numbers depend a little on where the temporary folder is.
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2
mkdir "$folder/private_project"
cd "$folder/private_project"
cat > surprise.py <<'PYTHON'
import logging
import os
import sys
import warnings

import onnx
import onnxscript
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(20))

    def forward(self, images):
        for layer in self.layers:
            images = layer(images).relu()  # a remark of the author
        return images


logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
program = torch.onnx.export(Network().eval(), (torch.zeros(1, 8, 4, 4),), dynamo=True, verbose=False)
model = program.model_proto
content = model.SerializeToString()
for node in model.graph.node:
    node.ClearField("metadata_props")
cleared = model.SerializeToString()
onnx.checker.check_model(model)
path, line = os.path.abspath("surprise.py").encode(), b"images = layer(images).relu()  # a remark of the author"
share = 1 - len(cleared) / len(content)
print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxscript {onnxscript.__version__}")
print(f"in the file: absolute path {path in content}, source line {line in content}; ", end="")
print(f"of {len(content) / 1000:.0f} kB {share:.0%} are notes")
print(f"without metadata_props: absolute path {path in cleared}, source line {line in cleared}")
same = path in content and line in content and share > 0.25 and path not in cleared and line not in cleared
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
../venv/bin/python surprise.py
