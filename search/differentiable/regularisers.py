"""Penalties on the architecture parameters, added to the loss that these descend."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from base.checks import FieldError, at_least
from base.registry import Registry
from search.differentiable.relaxations import concentration

Penalty = Callable[[Tensor, Tensor], Tensor]
"""A function of the alphas [..., edges, candidates] of one kind of cell, and of the candidates that
there are, bool [edges, candidates], to a scalar."""


@dataclass(frozen=True)
class Regulariser:
    """A penalty and the parts of a search that it needs."""

    penalty: Penalty
    needs_relaxation: str | None = None
    """Name of the only relaxation that it goes with; None: it goes with any."""
    because: str = "takes the alphas for those of one relaxation"
    """The reason for that, a verb and its object, for the message that refuses another
    relaxation."""


@dataclass
class RegulariserConfig:
    """A penalty on the alphas, beside their weight decay; summed over the kinds of cell."""

    name: str = "none"
    """none, beta (beta-DARTS), kl (DrNAS; with the dirichlet relaxation, in place of
    alphas.weight_decay), or one that was registered."""
    weight: float = 0.0
    """Weight of the penalty in the first epoch."""
    weight_end: float | None = None
    """Weight in the last epoch, linearly from epoch to epoch; null: it stays the same."""

    def __post_init__(self) -> None:
        if self.name not in REGULARISERS:
            raise FieldError("name", REGULARISERS.unknown(self.name))
        at_least(0, self, "weight", "weight_end", most=1e6)
        if (self.name == "none") != (self.weight == 0 and not self.weight_end):
            raise FieldError("", "takes a name and a weight (or weight_end) above 0, or neither")


def no_penalty(alphas: Tensor, keep: Tensor) -> Tensor:
    """Returns 0 whatever the alphas are."""
    return alphas.new_zeros(())


def beta_decay(alphas: Tensor, keep: Tensor) -> Tensor:
    """Returns the mean over the edges of log sum exp alpha (beta-DARTS, Ye et al. 2022).

    It holds the values and the variance of the softmax's inputs down.
    """
    present = keep.any(-1)
    values = alphas.masked_fill(~keep, torch.finfo(alphas.dtype).min).logsumexp(-1) * present
    return values.sum(-1).div(present.sum().clamp_min(1)).mean()


def kl_to_uniform(alphas: Tensor, keep: Tensor) -> Tensor:
    """Returns KL(Dirichlet(elu(alpha) + 1) || Dirichlet(1)), summed over the edges (DrNAS, Chen et
    al. 2021)."""
    concentrations = torch.where(keep, concentration(alphas), 1.0)
    total, count = (concentrations * keep).sum(-1), keep.sum(-1).to(concentrations.dtype)
    present = keep.any(-1)
    total, count = torch.where(present, total, 1.0), torch.where(present, count, 1.0)
    # A candidate that is gone has concentration 1: lgamma(1) = 0, and its factor 1 - 1 = 0.
    spread = ((concentrations - 1) * (concentrations.digamma() - total.digamma().unsqueeze(-1))).sum(-1)
    divergence = total.lgamma() - concentrations.lgamma().sum(-1) - count.lgamma() + spread
    return (divergence * present).sum(-1).mean().to(alphas.dtype)


REGULARISERS: Registry[Regulariser] = Registry("regulariser")


def register_regulariser(
    name: str, penalty: Penalty, needs_relaxation: str | None = None, because: str = Regulariser.because
) -> None:
    """Makes `penalty` known by its name to `--regulariser.name`; `Regulariser` explains the other
    arguments.

    Raises InputError if another one has the name.
    """
    REGULARISERS.add(name, Regulariser(penalty, needs_relaxation, because))


def get_regulariser(name: str) -> Regulariser:
    """Returns the regulariser of that name. Raises InputError for an unknown one."""
    return REGULARISERS[name]


def list_regularisers() -> list[str]:
    """Returns the names of all registered regularisers, "none" among them."""
    return REGULARISERS.names()


register_regulariser("none", no_penalty)
register_regulariser("beta", beta_decay)
register_regulariser("kl", kl_to_uniform, needs_relaxation="dirichlet", because="compares Dirichlet distributions")
