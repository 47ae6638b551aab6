"""Regularisers against the papers' equations, row by row, and against torch's own divergence of distributions."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import polygamma
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from base.checks import InputError
from search.differentiable.regularisers import (
    REGULARISERS,
    Penalty,
    Regulariser,
    RegulariserConfig,
    beta_decay,
    get_regulariser,
    kl_to_uniform,
    list_regularisers,
    register_regulariser,
)

KEEP = torch.tensor(
    [[True, True, True, True], [True, False, True, True], [False, False, True, False], [False, False, False, False]]
)
ALPHAS = torch.tensor(
    [[0.5, -1.0, 2.0, 0.1], [-0.3, 9.0, 1.2, 0.4], [0.2, 1.0, -2.0, 3.0], [1.0, 0.3, 0.1, -1.0]], dtype=torch.float64
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Alphas [edges, candidates] or [cells, edges, candidates], and any mask of candidates."""
    edges, candidates = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    kept = draw(st.lists(st.booleans(), min_size=edges * candidates, max_size=edges * candidates))
    cells = draw(st.sampled_from([(), (1,), (3,)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    scale = draw(st.sampled_from([1e-3, 1.0, 5.0]))
    alphas = scale * torch.randn(*cells, edges, candidates, generator=generator, dtype=torch.float64)
    return alphas, torch.tensor(kept).view(edges, candidates)


def rows_of(table: Tensor, keep: Tensor) -> list[list[Tensor]]:
    """Returns for each cell the kept entries [kept] of each edge that has any."""
    cells = table if table.ndim == 3 else table.unsqueeze(0)
    return [[row[kept] for row, kept in zip(cell, keep, strict=True) if kept.any()] for cell in cells]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables())
def test_beta_decay_is_the_mean_of_log_sum_exp(table: tuple[Tensor, Tensor]) -> None:
    """Over cells, and over the edges that have candidates; its gradient is the softmax over the number of edges and cells."""
    alphas, keep = table
    leaf = alphas.clone().requires_grad_()
    value = beta_decay(leaf, keep)
    rows = rows_of(alphas, keep)
    expected = mean([mean([math.log(sum(map(math.exp, row.tolist()))) for row in cell]) for cell in rows])
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    value.backward()
    assert leaf.grad is not None
    for cell, gradients in zip(rows, rows_of(leaf.grad, keep), strict=True):
        for row, gradient in zip(cell, gradients, strict=True):
            powers = [math.exp(alpha) for alpha in row.tolist()]
            share = [power / sum(powers) / len(cell) / len(rows) for power in powers]
            torch.testing.assert_close(gradient.tolist(), share, rtol=1e-12, atol=1e-16)
    assert (leaf.grad[~keep.expand(alphas.shape)] == 0).all()


def test_beta_decay_of_large_alphas_does_not_overflow() -> None:
    alphas = torch.tensor([[1000.0, 1000.0, -1000.0], [5.0, 0.0, 0.0]], requires_grad=True)
    value = beta_decay(alphas, torch.tensor([[True, True, True], [False, False, False]]))
    value.backward()
    assert value.item() == pytest.approx(1000 + math.log(2))
    torch.testing.assert_close(alphas.grad, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]), rtol=1e-4, atol=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables())
def test_kl_is_that_of_torch_summed_over_the_edges(table: tuple[Tensor, Tensor]) -> None:
    """Each edge's distribution is over its kept candidates, cells are averaged."""
    alphas, keep = table
    leaf = alphas.clone().requires_grad_()
    value = kl_to_uniform(leaf, keep)
    expected = []
    for cell in rows_of(alphas, keep):
        divergences = []
        for row in cell:
            concentrations = torch.stack([alpha + 1 if alpha > 0 else alpha.exp() for alpha in row])
            one = torch.ones_like(concentrations)
            # A distribution over a single candidate is no Dirichlet to torch; all of them are the same.
            divergences.append(kl_divergence(Dirichlet(concentrations), Dirichlet(one)).item() if len(row) > 1 else 0.0)
        expected.append(sum(divergences))
    assert value.item() == pytest.approx(mean(expected), rel=1e-9, abs=1e-10)
    value.backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert (leaf.grad[~keep.expand(alphas.shape)] == 0).all()


@pytest.mark.parametrize("cells", [(), (2,)])
@pytest.mark.parametrize("regulariser", [beta_decay, kl_to_uniform])
def test_gradients(regulariser: Penalty, cells: tuple[int, ...]) -> None:
    leaf = (ALPHAS + torch.linspace(0, 1, math.prod(cells), dtype=torch.float64).view(*cells, 1, 1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda alphas: regulariser(alphas, KEEP), leaf)


def test_the_gradient_of_kl_where_an_alpha_is_zero() -> None:
    """With c = elu(alpha) + 1, K of them, and S their sum it is c' ((c - 1) psi'(c) - (S - K) psi'(S)), psi' being trigamma."""
    alphas = torch.tensor([[0.0, 0.0, 0.9, -1.3], [0.4, 0.0, -0.2, 0.0]], dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[True, True, True, True], [True, True, True, False]])
    (found,) = torch.autograd.grad(kl_to_uniform(alphas, keep), alphas)
    for row, kept, gradient in zip(alphas.tolist(), keep.tolist(), found.tolist(), strict=True):
        concentrations = [alpha + 1 if alpha > 0 else math.exp(alpha) for alpha in row]
        present = [value for value, there in zip(concentrations, kept, strict=True) if there]
        common = (sum(present) - len(present)) * float(polygamma(1, sum(present)))
        expected = [
            there * min(1.0, math.exp(alpha)) * ((value - 1) * float(polygamma(1, value)) - common)
            for alpha, value, there in zip(row, concentrations, kept, strict=True)
        ]
        assert abs(common) > 0.01
        assert gradient == pytest.approx(expected, rel=1e-8, abs=1e-12)  # torch's trigamma is right to 9 digits


def test_kl_is_least_where_all_candidates_are_alike() -> None:
    """All concentrations are 1 at alpha = 0."""
    zero = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    value = kl_to_uniform(zero, KEEP)
    (gradient,) = torch.autograd.grad(value, zero)
    assert value.item() == pytest.approx(0, abs=1e-14) and gradient.abs().max() < 1e-14
    assert kl_to_uniform(ALPHAS, KEEP) > 1


@pytest.mark.parametrize("name", ["beta", "kl"])
def test_rows_without_candidates_count_for_nothing(name: str) -> None:
    regulariser = get_regulariser(name).penalty
    assert regulariser(ALPHAS, KEEP).item() == pytest.approx(regulariser(ALPHAS[:3], KEEP[:3]).item(), rel=1e-12)
    leaf = ALPHAS.clone().requires_grad_()
    value = regulariser(leaf, torch.zeros_like(KEEP))
    value.backward()
    assert value.item() == 0 and leaf.grad is not None and (leaf.grad == 0).all()


def precise_divergence(alphas: list[float]) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    """KL(Dirichlet(elu(alpha) + 1) || Dirichlet(1)) and its gradient by the alphas, to 60 digits."""
    with mpmath.workdps(60):
        values = [mpmath.mpf(alpha) + 1 if alpha > 0 else mpmath.exp(mpmath.mpf(alpha)) for alpha in alphas]
        total = mpmath.fsum(values)
        value = mpmath.loggamma(total) - mpmath.fsum(map(mpmath.loggamma, values)) - mpmath.loggamma(len(values))
        value += mpmath.fsum((c - 1) * (mpmath.digamma(c) - mpmath.digamma(total)) for c in values)
        common = (total - len(values)) * mpmath.polygamma(1, total)
        slopes = [1 if alpha > 0 else c for alpha, c in zip(alphas, values, strict=True)]
        return value, [s * ((c - 1) * mpmath.polygamma(1, c) - common) for s, c in zip(slopes, values, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "alphas",
    [
        [math.log(1e-12)] * 4,
        [math.log(1e-12), math.log(1e-3), 0.5],
        [math.log(1e-6), 999.0],
        [999.0] * 8,
        [1e-3, -2e-3, 5e-4],
        [-1e-6, 1e-6, 3e-6, 0.0],
        [math.log(1e-12)],
        [3.0],
    ],
)
def test_kl_at_concentrations_of_any_size(alphas: list[float], dtype: torch.dtype) -> None:
    """From 1e-12 to 1e3, and next to 1 where searches begin and it is almost 0; beside a candidate that is gone."""
    table = torch.tensor([*alphas, 1.7], dtype=dtype)
    leaf = table.unsqueeze(0).clone().requires_grad_()
    value = kl_to_uniform(leaf, torch.tensor([[True] * len(alphas) + [False]]))
    value.backward()
    expected, slopes = precise_divergence(table[:-1].tolist())
    precise = 1e-6 if dtype == torch.float32 else 1e-9
    assert value.dtype == dtype and value.item() == pytest.approx(float(expected), rel=precise, abs=1e-14)
    assert leaf.grad is not None
    assert leaf.grad[0].tolist() == pytest.approx([*map(float, slopes), 0.0], rel=max(precise, 1e-8), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_decay_of_alphas_of_any_size(dtype: torch.dtype) -> None:
    """log(1 + e) is the difference of the first row to 1e4; the largest alpha alone is that of the second, and the last has no
    candidate."""
    leaf = torch.tensor([[1e4, 1e4 + 1, 2e4], [-1e30, -3.0, 7.0], [1e30, -1e30, 0.0], [1.0, 2.0, 3.0]], dtype=dtype)
    leaf.requires_grad_()
    keep = torch.tensor([[True, True, False], [True, True, False], [False, True, True], [False, False, False]])
    value = beta_decay(leaf, keep)
    value.backward()
    assert value.item() == pytest.approx((1e4 + math.log(1 + math.e) - 3 + 0) / 3, rel=1e-6)
    share = math.e / (1 + math.e)
    expected = [[1 - share, share, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert leaf.grad is not None
    # The gradient is exp(alpha - value), to which the value brings its rounding.
    rounding = 1e4 * torch.finfo(dtype).eps
    torch.testing.assert_close(leaf.grad, torch.tensor(expected, dtype=dtype) / 3, rtol=rounding, atol=0)


@pytest.mark.parametrize("name", ["beta", "kl"])
def test_small_alphas_are_finite_in_single_precision(name: str) -> None:
    leaf = torch.tensor([[-8.0, -8.0, 0.0], [-20.0, 1.0, -20.0]], requires_grad=True)
    value = get_regulariser(name).penalty(leaf, torch.tensor([[True, True, False], [True, True, True]]))
    value.backward()
    assert value.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "l2", "weight": 1.0}, "name: unknown regulariser 'l2'; known: none, beta, kl"),
        ({"name": "beta", "weight": -1.0}, r"weight: must be at least 0, not -1.0"),
        ({"name": "beta", "weight": math.nan}, r"weight: must be at least 0, not nan"),
        ({"name": "beta", "weight": 1.0, "weight_end": math.inf}, r"weight_end: must be at most 1000000.0, not inf"),
        ({"name": "beta"}, r"takes a name and a weight \(or weight_end\) above 0, or neither"),
        ({"name": "beta", "weight_end": 0.0}, r"takes a name and a weight"),
        ({"weight": 0.5}, r"takes a name and a weight"),
        ({"weight_end": 0.5}, r"takes a name and a weight"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegulariserConfig(**options)


def test_a_weight_may_begin_at_zero() -> None:
    assert RegulariserConfig("beta", 0.0, 50.0).weight_end == 50.0
    assert RegulariserConfig().name == "none"


def test_a_regulariser_of_ones_own() -> None:
    def mine(alphas: Tensor, keep: Tensor) -> Tensor:
        return (alphas * keep).square().sum()

    with REGULARISERS.temporarily():
        register_regulariser("square", mine, needs_relaxation="softmax")
        register_regulariser("square", mine, needs_relaxation="softmax")
        assert get_regulariser("square") == Regulariser(mine, "softmax")
        assert list_regularisers() == ["none", "beta", "kl", "square"]
        assert RegulariserConfig("square", 1.0).name == "square"
        for name in ("none", "beta", "square"):
            with pytest.raises(InputError, match=f"regulariser '{name}' is registered already"):
                register_regulariser(name, lambda alphas, keep: alphas.sum())
        assert get_regulariser("square").penalty is mine
        with pytest.raises(InputError, match="unknown regulariser 'l1'; known: none, beta, kl, square"):
            RegulariserConfig("l1", 1.0)
    with pytest.raises(InputError, match=r"unknown regulariser 'square'; known: none, beta, kl$"):
        get_regulariser("square")
