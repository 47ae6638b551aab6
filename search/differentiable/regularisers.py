"""Penalties on the architecture parameters, added to the loss that these descend."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from base.checks import InputError
from search.differentiable.relaxations import concentration

Regulariser = Callable[[Tensor, Tensor], Tensor]
"""Alphas [..., edges, candidates] of one kind of cell and what candidates there are [edges, candidates], to a scalar."""


@dataclass
class RegulariserConfig:
    """A penalty on the alphas, beside their weight decay; summed over the kinds of cell."""

    name: str = "none"
    """none, beta (beta-DARTS), kl (DrNAS; with the dirichlet relaxation, in place of alphas.weight_decay), or one that was
    registered."""
    weight: float = 0.0
    """Its weight in the first epoch."""
    weight_end: float | None = None
    """In the last epoch, linearly from epoch to epoch; null: it stays the same."""

    def __post_init__(self) -> None:
        if self.name != "none" and self.name not in _REGULARISERS:
            known = ", ".join(["none", *_REGULARISERS])
            raise InputError(f"regulariser.name: unknown regulariser {self.name!r}; known: {known}")
        for name, value in (("weight", self.weight), ("weight_end", self.weight_end)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"regulariser.{name}: must be at least 0, not {value}")
        if (self.name == "none") != (self.weight == 0 and not self.weight_end):
            raise InputError("regulariser: takes a name and a weight (or weight_end) above 0, or neither")


def beta_decay(alphas: Tensor, keep: Tensor) -> Tensor:
    """Mean over the edges of log sum exp alpha, which holds the values and the variance of the softmax's inputs down
    (beta-DARTS, Ye et al. 2022)."""
    present = keep.any(-1)
    values = alphas.masked_fill(~keep, torch.finfo(alphas.dtype).min).logsumexp(-1) * present
    return values.sum(-1).div(present.sum().clamp_min(1)).mean()


def kl_to_uniform(alphas: Tensor, keep: Tensor) -> Tensor:
    """KL(Dirichlet(elu(alpha) + 1) || Dirichlet(1)), summed over the edges (DrNAS, Chen et al. 2021)."""
    concentrations = torch.where(keep, concentration(alphas), 1.0)
    total, count = (concentrations * keep).sum(-1), keep.sum(-1).to(alphas.dtype)
    present = keep.any(-1)
    total, count = torch.where(present, total, 1.0), torch.where(present, count, 1.0)
    # A candidate that is gone has concentration 1: lgamma(1) = 0, and its factor 1 - 1 = 0.
    spread = ((concentrations - 1) * (concentrations.digamma() - total.digamma().unsqueeze(-1))).sum(-1)
    divergence = total.lgamma() - concentrations.lgamma().sum(-1) - count.lgamma() + spread
    return (divergence * present).sum(-1).mean()


_REGULARISERS: dict[str, Regulariser] = {"beta": beta_decay, "kl": kl_to_uniform}


def register_regulariser(name: str, regulariser: Regulariser) -> None:
    """Makes `regulariser` known by its name to `--regulariser.name`. Raises ValueError if another one has it."""
    if name == "none" or _REGULARISERS.setdefault(name, regulariser) is not regulariser:
        raise InputError(f"regulariser {name!r} is registered already")


def get_regulariser(name: str) -> Regulariser:
    """The regulariser of that name."""
    return _REGULARISERS[name]


def list_regularisers() -> list[str]:
    """Names of all registered regularisers."""
    return list(_REGULARISERS)
