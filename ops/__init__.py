"""Floor 1: operations that a cell may be made of, and their banks, which compute one operation on
many edges at once."""

from ops import images as _images  # registers operations, as the line below does
from ops.attention import Attending, attention_maps
from ops.registry import build_op, list_ops, register_op

__all__ = ["Attending", "attention_maps", "build_op", "list_ops", "register_op"]

del _images
