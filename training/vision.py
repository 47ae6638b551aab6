"""The import of torchvision next to a torch that was built without CUDA."""

import importlib
import sys
from types import ModuleType

import torch


def import_torchvision() -> ModuleType:
    """Returns the torchvision package, also beside a torch for the CPU.

    Call it before importing torchmetrics too, which imports torchvision itself.
    """
    if torch.version.cuda is None and "torchvision" not in sys.modules:
        # torchvision's wheel is built for CUDA: with a torch for the CPU its compiled operators do
        # not load, and these two modules, which only describe those operators, fail with "operator
        # torchvision::nms does not exist".
        for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
            sys.modules.setdefault(name, ModuleType(name))
    return importlib.import_module("torchvision")
