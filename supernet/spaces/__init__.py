"""The search spaces that ship with the project, one file each; importing this package registers them."""

from supernet.spaces.darts import DARTS_SPACE
from supernet.spaces.nasbench201 import NASBENCH201_SPACE

__all__ = ["DARTS_SPACE", "NASBENCH201_SPACE"]
