"""Draws of the Dirichlet relaxation at concentrations from 1e-12 to 1e3 against closed forms: values, and gradients of
expectations."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.special import betainc, gammaincinv
from torch import Tensor

from search.differentiable.relaxations import (
    DIRECT,
    LEAST_ALPHA,
    concentration,
    dirichlet,
    dirichlet_mean,
    log_gamma,
    masked_softmax,
)

SIGMAS = 5
ANY = torch.tensor(1.0)
EVERY = torch.ones(1, 8, dtype=torch.bool)
CONCENTRATIONS = (1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 30.0, 1e3)
KEEP = torch.tensor(
    [[True] * 4, [True, False, True, True], [False, True, True, False], [False, False, True, False], [False] * 4]
)


def alphas_of(concentrations: list[float], dtype: torch.dtype) -> Tensor:
    """The alphas with elu(alpha) + 1 = concentration."""
    return torch.tensor([math.log(c) if c < 1 else c - 1 for c in concentrations], dtype=torch.float64).to(dtype)


def moment(concentrations: Tensor, powers: list[int]) -> Tensor:
    """E[prod of x_i ** powers_i]: rising factorials of the concentrations over that of their sum."""
    above = [value + step for value, power in zip(concentrations, powers, strict=True) for step in range(power)]
    return torch.stack(above).prod() / torch.stack([concentrations.sum() + step for step in range(sum(powers))]).prod()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("candidates", "alpha"), [(8, -6.0), (5, -6.0), (8, -5.0), (2, -7.0), (8, -2.0), (3, -27.63)])
def test_as_many_draws_as_there_should_be_have_no_entry_above_a_half(candidates: int, alpha: float, dtype: torch.dtype) -> None:
    """Two entries cannot both be above a half, so that the share is 1 less that of each entry, which has a beta
    distribution."""
    torch.manual_seed(0)
    count, c = 50_000, math.exp(alpha)
    drawn = dirichlet(torch.full((count, 1, candidates), alpha, dtype=dtype), EVERY[:, :candidates], ANY)[:, 0]
    expected = 1 - candidates * (1 - float(betainc(c, (candidates - 1) * c, 0.5)))
    found = (drawn.amax(-1) <= 0.5).double().mean().item()
    assert abs(found - expected) <= SIGMAS * math.sqrt(expected * (1 - expected) / count) + 1.5 / count
    assert not (drawn == 1 / candidates).all(-1).any(), "exactly uniform"
    torch.testing.assert_close(drawn.sum(-1), torch.ones(count, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", CONCENTRATIONS)
def test_moments_at_concentrations_of_any_size(scale: float, dtype: torch.dtype) -> None:
    """E[x_i], E[x_i ** 2] and E[x_i x_j] on every set of candidates, within five standard errors."""
    torch.manual_seed(1)
    count = 20_000
    alphas = alphas_of([scale * factor for factor in (1.0, 0.5, 3.0, 1.5)], dtype)
    drawn = dirichlet(alphas.expand(count, len(KEEP), -1), KEEP, ANY).double()
    assert (drawn[:, ~KEEP] == 0).all() and drawn.isfinite().all()
    for row, keep in enumerate(KEEP[:4]):
        concentrations, values = concentration(alphas)[keep], drawn[:, row, keep]
        kept = len(concentrations)
        unit = torch.eye(kept, dtype=torch.int64)
        for powers in [*unit, *2 * unit, *([unit[0] + unit[1]] if kept > 1 else [])]:
            mean, square = (moment(concentrations, (factor * powers).tolist()).item() for factor in (1, 2))
            found = values.pow(powers).prod(-1).mean().item()
            error = math.sqrt(max(0.0, square - mean**2) / count)
            assert abs(found - mean) <= SIGMAS * error + 2 / count * (mean < 1e-3) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.02, 0.1, 1.0, 30.0, 1e3])
def test_the_gradient_of_an_expectation(scale: float, dtype: torch.dtype) -> None:
    """d E[f] / d alpha by the closed form of E[f], for f = x_0, x_0 ** 2 and x_0 x_2, with a candidate that is gone."""
    torch.manual_seed(2)
    count, keep = 60_000, KEEP[1]
    alphas = alphas_of([scale * factor for factor in (1.0, 0.5, 3.0, 1.5)], dtype)
    for powers in ([1, 0, 0], [2, 0, 0], [1, 1, 0]):
        exact = alphas.double().clone().requires_grad_()
        moment(concentration(exact)[keep], powers).backward()
        assert exact.grad is not None
        leaf = alphas.expand(count, 1, -1).clone().requires_grad_()
        drawn = dirichlet(leaf, keep.unsqueeze(0), ANY)[:, 0, keep]
        drawn.pow(torch.tensor(powers)).prod(-1).sum().backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all() and (leaf.grad[..., ~keep] == 0).all()
        gradients = leaf.grad[:, 0].double()
        error = gradients.std(0) / math.sqrt(count)
        # torch's derivative of a Gamma variable is an approximation.
        assert ((gradients.mean(0) - exact.grad).abs() <= SIGMAS * error + 1e-3 * exact.grad.abs() + 1e-9).all()
        assert (exact.grad[keep].abs() > 8 * error[keep]).any()


def near(alphas: Tensor, count: int, span: float = 60.0) -> tuple[Tensor, Tensor, Tensor]:
    """Variables of two candidates whose logarithms differ by less than `span`, uniformly, as those of few draws do at a small
    concentration: above and exponential [count, 2], and the weight [count] that makes means over them expectations of what
    vanishes elsewhere."""
    first, second = concentration(alphas)
    above = torch._standard_gamma(1 + concentration(alphas).expand(count, 2))
    difference = span * (2 * torch.rand(count, dtype=torch.float64) - 1)
    one = torch.empty(count, dtype=torch.float64).exponential_()
    other = second * (above[:, 1].log() - above[:, 0].log() + one / first + difference)
    weight = torch.where(other >= 0, (-other).exp() * second * 2 * span, 0)
    return above, torch.stack((one, other.clamp_min(0)), dim=-1), weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ratio", [1.0, 7.0])
@pytest.mark.parametrize("scale", [1e-12, 1e-9, 1e-6, 1e-4, 1e-2])
def test_the_gradient_of_an_expectation_at_small_concentrations(scale: float, ratio: float, dtype: torch.dtype) -> None:
    """Draws in which two candidates are near one another have all of it, so that those are drawn, with weights."""
    torch.manual_seed(3)
    count = 20_000
    alphas = alphas_of([scale, ratio * scale, 1.0], dtype)
    keep = torch.tensor([True, True, False])
    above, exponential, weight = near(alphas[:2], count)
    above, exponential = (torch.cat((part, torch.ones(count, 1, dtype=torch.float64)), dim=-1) for part in (above, exponential))
    for power in (1, 2):
        exact = alphas.double().clone().requires_grad_()
        moment(concentration(exact)[keep], [power, 0]).backward()
        assert exact.grad is not None
        leaf = alphas.expand(count, -1).clone().requires_grad_()
        drawn = masked_softmax(log_gamma(concentration(leaf), above, exponential), keep).to(dtype)
        drawn[:, 0].pow(power).sum().backward()
        assert leaf.grad is not None and (leaf.grad[:, 2] == 0).all()
        gradients = leaf.grad.double() * weight.unsqueeze(-1)
        error = gradients.std(0) / math.sqrt(count)
        assert ((gradients.mean(0) - exact.grad).abs() <= SIGMAS * error + 1e-9).all()
        assert (exact.grad[:2].abs() > 15 * error[:2]).all()


def slope(point: float, logarithm: Callable[[float], float]) -> float:
    step = 1e-4 * point
    return (logarithm(point + step) - logarithm(point - step)) / (2 * step)


@pytest.mark.parametrize("quantile", [0.03, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("c", [1e-12, 1e-6, 1e-3, 0.02, 0.05, 0.3, 1.0, 4.0, 50.0, 1e3])
def test_the_gradient_of_a_logarithm_is_that_at_fixed_quantiles(c: float, quantile: float) -> None:
    """That of both parts at their own quantiles below DIRECT, and that of the variable itself from there on."""
    exponential = -math.log(0.4)
    if c < DIRECT:
        above = float(gammaincinv(c + 1, quantile))
        expected = slope(c + 1, lambda shape: math.log(gammaincinv(shape, quantile))) + exponential / c**2
    else:
        variable = float(gammaincinv(c, quantile))
        above = variable * math.exp(exponential / c)
        expected = slope(c, lambda shape: math.log(gammaincinv(shape, quantile)))
    leaf = torch.tensor([c], dtype=torch.float64, requires_grad=True)
    value = log_gamma(leaf, *(torch.tensor([part], dtype=torch.float64) for part in (above, exponential)))
    assert value.item() == pytest.approx(math.log(above) - exponential / c, rel=1e-12)
    value.sum().backward()
    assert leaf.grad is not None and leaf.grad.item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("c", [1e-12, 1e-3, 0.05, 1.0, 1e3])
@pytest.mark.parametrize("exponential", [0.0, 5e-324, 36.8, 745.0])
def test_no_uniform_number_gives_nan(exponential: float, c: float) -> None:
    """U = 1, the next numbers below it, and the smallest that there are."""
    keep = torch.tensor([True, True, True, False])
    for others in (exponential, 1.0):
        leaf = torch.full((4,), c, dtype=torch.float64, requires_grad=True)
        drawn = torch.tensor([exponential, others, exponential, others], dtype=torch.float64)
        weights = masked_softmax(log_gamma(leaf, torch.tensor([2.3e-308, 1.0, 1.0, 1.0], dtype=torch.float64), drawn), keep)
        weights[0].backward()
        assert weights.isfinite().all() and weights.sum().item() == pytest.approx(1)
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad[3] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [-1e30, -800.0, 2.0 * LEAST_ALPHA, -110.0, -90.0, 1e4, 1e30])
def test_no_alpha_gives_nan(alpha: float, dtype: torch.dtype) -> None:
    """Means and draws of one edge where all alphas are that, and of one where another is 0."""
    leaf = torch.full((500, len(KEEP), 4), alpha, dtype=dtype)
    leaf[250:, :, 2] = 0
    leaf.requires_grad_()
    for weights in (dirichlet(leaf, KEEP, ANY), dirichlet_mean(leaf, KEEP)):
        leaf.grad = None
        weights.square().sum().backward()
        assert weights.isfinite().all() and leaf.grad is not None and leaf.grad.isfinite().all()
        torch.testing.assert_close(weights.sum(-1), KEEP.any(-1).to(dtype).expand(500, -1))


def test_the_mean_is_right_where_no_concentration_is_a_float32() -> None:
    """exp(-120) to exp(-118), of which the shares are those of 1, e and e ** 2."""
    mean = dirichlet_mean(torch.tensor([[-120.0, -119.0, -118.0]]), torch.ones(1, 3, dtype=torch.bool))
    expected = torch.tensor([[0.0, 1.0, 2.0]]).softmax(-1)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("candidates", [2, 8])
def test_the_implicit_gradient_varies_less_than_that_of_both_parts(candidates: int) -> None:
    """At the concentration 1, where searches begin; and both have the same mean."""
    torch.manual_seed(4)
    count = 40_000
    ones = torch.ones(count, candidates, dtype=torch.float64)
    above, exponential = torch._standard_gamma(ones + 1), torch.empty_like(ones).exponential_()
    weights = (above.log() - exponential).softmax(-1)
    leaf = ones.clone().requires_grad_()
    masked_softmax(log_gamma(leaf, above, exponential), ones.bool())[:, 0].sum().backward()
    assert leaf.grad is not None
    direct = torch._standard_gamma_grad(ones + 1, above) / above + exponential
    both = (direct * weights * ((torch.arange(candidates) == 0).double() - weights[:, :1]))[:, 0], leaf.grad[:, 0]
    means, variances = [part.mean().item() for part in both], [part.var().item() for part in both]
    assert means == pytest.approx([(candidates - 1) / candidates**2] * 2, rel=0.02)
    assert variances[0] / variances[1] == pytest.approx({2: 1.22, 8: 1.38}[candidates], abs=0.08)
