"""Relaxations: functions of architecture parameters to weights of the candidates.

A search mixes the candidates by these weights instead of choosing.

Each works on one table of alphas [..., edges, candidates] and `keep` [edges, candidates], which
says what candidates there still are: the others weigh 0, and so does an edge without any.
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
    """A way from alphas to weights.

    `sample(alphas, keep, temperature)` is one draw, for one step, differentiable in the alphas; the
    temperature is a scalar tensor. `mean(alphas, keep)` has nothing random: a genotype is derived
    and alphas are watched by it. If `one_path`, a sample has one candidate an edge, and that alone
    runs. If not `tempered`, the temperature plays no part.
    """

    sample: Callable[[Tensor, Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]
    one_path: bool = False
    tempered: bool = True


@dataclass
class RelaxationConfig:
    """The way from alphas to weights of the candidates."""

    name: str = "softmax"
    """softmax (DARTS), gumbel (SNAS), straight_through (GDAS), dirichlet (DrNAS), or one that was
    registered."""
    temperature: float = 1.0
    """Temperature of gumbel and straight_through in the first epoch."""
    temperature_end: float | None = None
    """Temperature in the last epoch, linearly from epoch to epoch; null: it stays the same."""

    def __post_init__(self) -> None:
        if self.name not in RELAXATIONS:
            raise FieldError("name", RELAXATIONS.unknown(self.name))
        above_zero(self, "temperature", "temperature_end")


def masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Returns the softmax over the candidates that each edge has (DARTS, equation 2)."""
    # The lowest number: a row without candidates would make NaN of -inf.
    return scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1) * keep


def gumbel(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    """Draws from the concrete distribution: softmax((alpha + G) / temperature), G from Gumbel(0, 1)
    (SNAS, Xie et al. 2019)."""
    noise = -torch.empty_like(alphas).exponential_().log()
    return masked_softmax((alphas + noise) / temperature, keep)


def straight_through(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    """Returns the largest entry of a `gumbel` draw as a one-hot, with the gradient of the draw
    itself (GDAS, Dong & Yang 2019)."""
    soft = gumbel(alphas, keep, temperature)
    hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0) * keep
    return hard - soft.detach() + soft


def concentration(alphas: Tensor) -> Tensor:
    """Returns the concentrations of the Dirichlet distribution: elu(alpha) + 1, above 0 (DrNAS,
    Chen et al. 2021)."""
    # F.elu(alphas) + 1 is the same function, but 0 in float32 below alpha = -17, and a
    # concentration of 0 makes NaN. The slope at 0, where alphas may start, is 1 on either side;
    # that of clamp_max(0) there is 0 from torch 2.14 on (findings/clamp_gradient_at_bound.sh).
    return F.relu(alphas) + alphas.masked_fill(alphas > 0, 0).exp()


def dirichlet(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    """Draws from Dirichlet(elu(alpha) + 1) over the candidates that there are, with the pathwise
    gradient (DrNAS).

    The draw is Gamma variables over their sum, so that a candidate that is gone is just left out.
    """
    distribution = torch.distributions.Gamma(concentration(alphas), torch.ones_like(alphas), validate_args=False)
    draws = distribution.rsample() * keep
    return draws / (draws.sum(-1, keepdim=True) + ~keep.any(-1, keepdim=True))


def dirichlet_mean(alphas: Tensor, keep: Tensor) -> Tensor:
    """Returns the mean of that distribution: the concentrations over their sum."""
    concentrations = concentration(alphas) * keep
    return concentrations / (concentrations.sum(-1, keepdim=True) + ~keep.any(-1, keepdim=True))


RELAXATIONS: Registry[Relaxation] = Registry("relaxation")


def register_relaxation(name: str, relaxation: Relaxation) -> None:
    """Makes `relaxation` known by its name to `--relaxation.name`.

    Raises InputError if another one has it.
    """
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
