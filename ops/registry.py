"""Operations by name; `@register_op` adds one, and no other file has to know."""

from collections.abc import Callable

from torch import nn

from base.checks import InputError
from base.registry import Registry

Factory = Callable[[int, int, bool], nn.Module]

OPERATIONS: Registry[Factory] = Registry("operation", alphabetical=True)


def register_op(name: str) -> Callable[[Factory], Factory]:
    """Registers a factory `(channels, stride, affine) -> nn.Module` as the operation `name`.

    The module maps [B, channels, H, W] to [B, channels, ceil(H / stride), ceil(W / stride)], stride
    1 or 2; `affine` says whether its batch norms have weights (in the supernet they have not).
    Raises ValueError for a name that is taken or is not an identifier.
    """
    if not name.isidentifier():
        raise InputError(f"operation name {name!r}: use letters, digits and underscores only")
    return OPERATIONS.register(name)


def build_op(name: str, channels: int, stride: int, affine: bool = True, batch_statistics: bool = False) -> nn.Module:
    """Returns the operation `name` as a module.

    With `batch_statistics` its batch norms keep no running statistics and use the batch's own in
    evaluation, too. Raises ValueError for an unknown name, a stride other than 1 and 2, or fewer
    than one channel.
    """
    OPERATIONS.check(name)
    if stride not in (1, 2):
        raise InputError(f"operation {name}: stride must be 1 or 2, not {stride}")
    if channels < 1:
        raise InputError(f"operation {name}: channels must be at least 1, not {channels}")
    module = OPERATIONS[name](channels, stride, affine)
    if not isinstance(module, nn.Module):
        raise InputError(f"operation {name}: its factory returned {type(module).__name__}, not an nn.Module")
    if batch_statistics:
        drop_running_statistics(module)
    return module


def drop_running_statistics(module: nn.Module) -> None:
    """Makes every batch norm inside `module` normalise with the statistics of the batch, in
    evaluation as in training."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None


def list_ops() -> list[str]:
    """Returns the names of all registered operations, sorted."""
    return OPERATIONS.names()
