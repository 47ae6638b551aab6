"""From architecture parameters to weights of the candidates: what a search mixes instead of choosing.

Each works on one table of alphas [..., edges, candidates] and `keep` [edges, candidates], which says what candidates there
still are: the others weigh 0, and so does a whole edge of which none is left.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from base.checks import FieldError, above_zero
from base.registry import Registry

Mixture = dict[str, Tensor]
"""Weights of the candidates for each kind of cell, [..., edges, candidates]."""


@dataclass(frozen=True)
class Relaxation:
    """How alphas become weights.

    `sample(alphas, keep, temperature)` is one draw, for one step, differentiable in the alphas; the temperature is a scalar
    tensor. `mean(alphas, keep)` has nothing random: a genotype is derived and alphas are watched by it. Where `one_path`, a
    sample has one candidate an edge, and only that runs. Where it is not `tempered`, the temperature plays no part.
    """

    sample: Callable[[Tensor, Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]
    one_path: bool = False
    tempered: bool = True


@dataclass
class RelaxationConfig:
    """From alphas to weights of the candidates."""

    name: str = "softmax"
    """softmax (DARTS), gumbel (SNAS), straight_through (GDAS), dirichlet (DrNAS), or one that was registered."""
    temperature: float = 1.0
    """Of gumbel and straight_through in the first epoch."""
    temperature_end: float | None = None
    """In the last epoch, linearly from epoch to epoch; null: it stays the same."""

    def __post_init__(self) -> None:
        if self.name not in RELAXATIONS:
            raise FieldError("name", RELAXATIONS.unknown(self.name))
        above_zero(self, "temperature", "temperature_end")


def masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Softmax over those candidates of each edge that there are (DARTS, equation 2)."""
    # The lowest number and not -inf, of which a row without candidates would make NaN.
    return scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1) * keep


def gumbel(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    """A draw of the concrete distribution: softmax((alpha + G) / temperature), G of Gumbel(0, 1) (SNAS, Xie et al. 2019)."""
    noise = -torch.empty_like(alphas).exponential_().log()
    return masked_softmax((alphas + noise) / temperature, keep)


def straight_through(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    """The largest entry of such a draw as a one-hot, with the gradient of the draw itself (GDAS, Dong & Yang 2019)."""
    soft = gumbel(alphas, keep, temperature)
    hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0) * keep
    return hard - soft.detach() + soft


def concentration(alphas: Tensor) -> Tensor:
    """Of the Dirichlet distribution that alphas stand for: elu(alpha) + 1, above 0 (DrNAS, Chen et al. 2021)."""
    # The same function, but F.elu(alphas) + 1 is 0 in float32 below alpha = -17, and a concentration of 0 makes NaN.
    return F.relu(alphas) + alphas.clamp_max(0).exp()


def dirichlet(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    """A draw from Dirichlet(elu(alpha) + 1) over the candidates that there are, with the pathwise gradient (DrNAS).

    Gamma variables over their sum, as a candidate that is gone is then just left out.
    """
    distribution = torch.distributions.Gamma(concentration(alphas), torch.ones_like(alphas), validate_args=False)
    draws = distribution.rsample() * keep
    return draws / (draws.sum(-1, keepdim=True) + ~keep.any(-1, keepdim=True))


def dirichlet_mean(alphas: Tensor, keep: Tensor) -> Tensor:
    """The mean of that distribution: the concentrations over their sum."""
    concentrations = concentration(alphas) * keep
    return concentrations / (concentrations.sum(-1, keepdim=True) + ~keep.any(-1, keepdim=True))


RELAXATIONS: Registry[Relaxation] = Registry("relaxation")


def register_relaxation(name: str, relaxation: Relaxation) -> None:
    """Makes `relaxation` known by its name to `--relaxation.name`. Raises InputError if another one has it."""
    RELAXATIONS.add(name, relaxation)


def get_relaxation(name: str) -> Relaxation:
    """Returns the relaxation of that name. Raises InputError for an unknown one."""
    return RELAXATIONS[name]


def list_relaxations() -> list[str]:
    """Returns the names of all registered relaxations."""
    return RELAXATIONS.names()


register_relaxation("softmax", Relaxation(lambda alphas, keep, _: masked_softmax(alphas, keep), masked_softmax, tempered=False))
register_relaxation("gumbel", Relaxation(gumbel, masked_softmax))
register_relaxation("straight_through", Relaxation(straight_through, masked_softmax, one_path=True))
register_relaxation("dirichlet", Relaxation(dirichlet, dirichlet_mean, tempered=False))
