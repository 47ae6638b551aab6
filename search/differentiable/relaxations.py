"""Relaxations: functions of architecture parameters to weights of the candidates.

A search mixes the candidates by these weights instead of choosing.

Each works on one table of alphas [..., edges, candidates] and `keep` [edges, candidates], which
says what candidates there still are: the others weigh 0, and so does an edge without any.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from base.checks import FieldError, above_zero
from base.registry import Registry

LEAST_ALPHA = -300
"""The alpha below which a concentration stays the same, 5e-131: its inverse has a square."""
DIRECT = 0.03
"""The concentration below which `log_gamma` has the gradient of its two parts."""

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
        above_zero(self, "temperature", "temperature_end", least=1e-4, most=1e4)


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
    Chen et al. 2021).

    They are float64, whatever the alphas are. Below alpha = `LEAST_ALPHA` they stay the same.
    """
    # Logarithms as large as 1 / concentration are compared, of which float32 has no digit behind
    # the point from 1e-7 on: ties would be frequent. So small a table costs as little in float64.
    alphas = alphas.double()
    # F.elu(alphas) + 1 is the same function, but loses digits below 1. The slope at 0, where alphas
    # may start, is 1 on either side; that of clamp_max(0) there is 0 from torch 2.14 on
    # (findings/clamp_gradient_at_bound.sh).
    return F.relu(alphas) + alphas.masked_fill(alphas > 0, 0).clamp_min(LEAST_ALPHA).exp()


def dirichlet(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    """Draws from Dirichlet(elu(alpha) + 1) over the candidates that there are, with the pathwise
    gradient (DrNAS).

    The draw is Gamma variables over their sum, so that a candidate that is gone is just left out.
    They are drawn in logarithms, as Gamma(c + 1) times U ** (1 / c) with U uniform (Marsaglia &
    Tsang 2000, section 6): at a small concentration c most are below every floating number, and
    those of torch are then all alike (findings/dirichlet_small_concentration.sh). The gradient is
    that of `log_gamma`.
    """
    concentrations = concentration(alphas)
    raised = concentrations.detach()
    exponential = torch.empty_like(raised).exponential_()
    logarithms = log_gamma(concentrations, torch._standard_gamma(raised + 1), exponential)
    return masked_softmax(logarithms, keep).to(alphas.dtype)


def log_gamma(concentrations: Tensor, above: Tensor, exponential: Tensor) -> Tensor:
    """Returns the logarithms of variables from Gamma(c, 1), made of those `above` from Gamma(c + 1,
    1) and of `exponential` ones, which are the negative logarithms of uniform ones; all float64.

    The gradient by the concentrations c is unbiased at every c above 0. From `DIRECT` on it is the
    implicit one (Figurnov, Mohamed & Mnih 2018, equation 5): -(dF / dc) / (x f) with the variable
    x, its distribution function F and its density f. Below, where x underflows, it is that of both
    parts, d log(above) / dc + exponential / c ** 2, of which the implicit one is the mean at given
    x. There the two hardly differ: with E[x_1] of two equal candidates the variance of the direct
    one is 1.00 times that of the implicit one at c = 0.1, but 1.22 times at 1, and with eight
    candidates 1.16 and 1.38 times. At small c either is 1 / c in a share c of the draws, by the
    alphas, and almost 0 in the others.
    """
    return _LogGamma.apply(concentrations, above, exponential)


class _LogGamma(torch.autograd.Function):
    """Maps (concentrations, above, exponential) to the logarithms of `log_gamma`."""

    @staticmethod
    def forward(ctx: Any, concentrations: Tensor, above: Tensor, exponential: Tensor) -> Tensor:
        ctx.save_for_backward(concentrations, above, exponential)
        return above.log() - exponential / concentrations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        concentrations, above, exponential = ctx.saved_tensors
        direct = torch._standard_gamma_grad(concentrations + 1, above) / above + exponential / concentrations.square()
        # From DIRECT on one variable in 10 ** 9 is below exp(-700), which is far from 0 all the same.
        drawn = (above.log() - exponential / concentrations).clamp_min(-700).exp()
        implicit = torch._standard_gamma_grad(concentrations, drawn) / drawn
        return gradient * torch.where(concentrations < DIRECT, direct, implicit), None, None


def dirichlet_mean(alphas: Tensor, keep: Tensor) -> Tensor:
    """Returns the mean of that distribution: the concentrations over their sum."""
    # As a softmax of log(elu(alpha) + 1), which no alpha makes 0 or infinite.
    logarithms = F.relu(alphas).log1p() + alphas.masked_fill(alphas > 0, 0)
    return masked_softmax(logarithms, keep)


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
