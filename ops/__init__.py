"""Floor 1: operations that a cell may be made of, and their banks, which compute one operation on
many edges at once."""

from ops import images as _candidates  # registers the operations that ship with the project
from ops.registry import build_op, list_ops, register_op

__all__ = ["build_op", "list_ops", "register_op"]

del _candidates
