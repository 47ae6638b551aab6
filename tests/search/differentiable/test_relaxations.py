"""Relaxations against the papers' equations, written out entry by entry, and against what is known of their distributions."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from base.checks import InputError
from search.differentiable.relaxations import (
    RELAXATIONS,
    Relaxation,
    RelaxationConfig,
    concentration,
    dirichlet,
    dirichlet_mean,
    get_relaxation,
    gumbel,
    list_relaxations,
    masked_softmax,
    register_relaxation,
    straight_through,
)
from search.testing import check_relaxation

DRAWS = 100_000
SIGMAS = 5
KEEP = torch.tensor(
    [[True, True, True, True], [True, False, True, True], [False, False, True, False], [False, False, False, False]]
)
ALPHAS = torch.tensor(
    [[0.5, -1.0, 2.0, 0.0], [-0.3, 9.0, 1.2, 0.4], [0.0, 1.0, -2.0, 3.0], [1.0, 0.0, 0.0, -1.0]], dtype=torch.float64
)
TEMPERATURE = torch.tensor(0.7, dtype=torch.float64)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Alphas [edges, candidates] or [cells, edges, candidates], and any mask of candidates."""
    edges, candidates = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    kept = draw(st.lists(st.booleans(), min_size=edges * candidates, max_size=edges * candidates))
    cells = draw(st.sampled_from([(), (1,), (3,)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    alphas = scale * torch.randn(*cells, edges, candidates, generator=generator, dtype=torch.float64)
    return alphas, torch.tensor(kept).view(edges, candidates)


def by_row(rule: Callable[[list[float]], list[float]], table: Tensor, keep: Tensor) -> Tensor:
    """`rule` on the kept entries of each row, 0 at the others."""
    result = torch.zeros_like(table)
    keep = keep.expand(table.shape)
    for place in torch.cartesian_prod(*map(torch.arange, table.shape[:-1])).view(-1, table.ndim - 1).tolist():
        columns = [column for column in range(table.shape[-1]) if keep[*place, column]]
        values = rule([table[*place, column].item() for column in columns])
        for column, value in zip(columns, values, strict=True):
            result[*place, column] = value
    return result


def plain_softmax(scores: list[float]) -> list[float]:
    """exp(score_k) / sum of exp(score_j) (DARTS, equation 2)."""
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def plain_softmax_gradient(weights: Tensor, upstream: Tensor) -> Tensor:
    """Returns the gradient by d p_j / d score_k = p_j (1[j = k] - p_k)."""
    result = torch.zeros_like(weights)
    for k in range(weights.shape[-1]):
        for j in range(weights.shape[-1]):
            result[..., k] += upstream[..., j] * weights[..., j] * (float(j == k) - weights[..., k])
    return result


def plain_gumbel(alphas: Tensor, keep: Tensor, temperature: float, seed: int) -> Tensor:
    """softmax((alpha + G) / temperature), G = -log of an exponential variable (SNAS)."""
    noise = [-math.log(value) for value in noise_of(alphas, seed).flatten().tolist()]
    scores = (alphas + torch.tensor(noise, dtype=alphas.dtype).view(alphas.shape)) / temperature
    return by_row(plain_softmax, scores, keep)


def noise_of(alphas: Tensor, seed: int) -> Tensor:
    """The exponential variables that a draw with this seed is made of."""
    torch.manual_seed(seed)
    return torch.empty(alphas.shape, dtype=alphas.dtype).exponential_()


def plain_mean(alphas: list[float]) -> list[float]:
    """Concentration over the sum of concentrations."""
    values = [plain_concentration(alpha) for alpha in alphas]
    return [value / sum(values) for value in values]


def plain_concentration(alpha: float) -> float:
    """elu(alpha) + 1, elu(x) = x above 0 and exp(x) - 1 below."""
    return alpha + 1 if alpha > 0 else math.exp(alpha)


def assert_frequencies(counts: Tensor, expected: Tensor, draws: int) -> None:
    """Each count is within five standard deviations of a binomial variable's mean."""
    deviation = SIGMAS * (draws * expected * (1 - expected)).sqrt()
    assert ((counts - draws * expected).abs() <= deviation + 1e-9).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables())
def test_softmax_is_over_the_kept_candidates(table: tuple[Tensor, Tensor]) -> None:
    alphas, keep = table
    leaf = alphas.clone().requires_grad_()
    weights = get_relaxation("softmax").sample(leaf, keep, torch.tensor(1.0))
    expected = by_row(plain_softmax, alphas, keep)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(get_relaxation("softmax").mean(leaf, keep), weights)
    upstream = torch.randn(weights.shape, dtype=torch.float64)
    weights.backward(upstream)
    torch.testing.assert_close(leaf.grad, plain_softmax_gradient(expected, upstream), rtol=1e-10, atol=1e-12)
    gone = ~keep.expand(alphas.shape)
    assert leaf.grad is not None
    assert (weights[gone] == 0).all() and (leaf.grad[gone] == 0).all()


@pytest.mark.parametrize("name", list_relaxations())
def test_every_relaxation_keeps_the_contract(name: str) -> None:
    check_relaxation(get_relaxation(name))


@pytest.mark.parametrize("name", list_relaxations())
@pytest.mark.parametrize("cells", [(), (3,)])
def test_weights_of_an_edge_sum_to_one_where_a_candidate_is_left(name: str, cells: tuple[int, ...]) -> None:
    relaxation, alphas = get_relaxation(name), ALPHAS.expand(*cells, -1, -1)
    for weights in (relaxation.sample(alphas, KEEP, TEMPERATURE), relaxation.mean(alphas, KEEP)):
        torch.testing.assert_close(weights.sum(-1), KEEP.any(-1).double().expand(alphas.shape[:-1]))


def test_softmax_of_large_alphas_does_not_overflow() -> None:
    weights = masked_softmax(torch.tensor([[3e38, -3e38, 3e38]]), torch.tensor([[True, True, False]]))
    assert weights.tolist() == [[1.0, 0.0, 0.0]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables(), st.sampled_from([0.1, 1.0, 10.0]), st.integers(0, 1000))
def test_gumbel_is_the_softmax_of_alphas_and_noise(table: tuple[Tensor, Tensor], temperature: float, seed: int) -> None:
    alphas, keep = table
    expected = plain_gumbel(alphas, keep, temperature, seed)
    torch.manual_seed(seed)
    drawn = gumbel(alphas, keep, torch.tensor(temperature, dtype=torch.float64))
    torch.testing.assert_close(drawn, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 10.0])
def test_gradient_of_gumbel_at_fixed_noise(temperature: float) -> None:
    def draw(alphas: Tensor) -> Tensor:
        torch.manual_seed(5)
        return gumbel(alphas, KEEP, torch.tensor(temperature, dtype=torch.float64))

    assert torch.autograd.gradcheck(draw, ALPHAS.clone().requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("name", ["gumbel", "straight_through"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_the_strongest_candidate_of_a_draw_is_distributed_as_the_softmax(name: str, temperature: float) -> None:
    alphas = ALPHAS[:2].float()
    drawn = get_relaxation(name).sample(alphas.expand(DRAWS, -1, -1), KEEP[:2], torch.tensor(temperature))
    chosen = drawn.argmax(-1)
    counts = torch.stack([(chosen == column).sum(0) for column in range(4)], dim=-1).double()
    assert_frequencies(counts, by_row(plain_softmax, ALPHAS[:2], KEEP[:2]), DRAWS)


def test_edges_and_cells_have_noise_of_their_own() -> None:
    chosen = gumbel(torch.zeros(DRAWS, 2, 2), torch.ones(2, 2, dtype=torch.bool), torch.tensor(1.0)).argmax(-1)
    counts = torch.bincount(2 * chosen[:, 0] + chosen[:, 1], minlength=4).double()
    assert_frequencies(counts, torch.full((4,), 0.25, dtype=torch.float64), DRAWS)


def test_a_cold_draw_is_one_hot_and_a_hot_one_uniform() -> None:
    alphas, keep = ALPHAS.expand(500, -1, -1), KEEP
    cold = gumbel(alphas, keep, torch.tensor(1e-5, dtype=torch.float64))
    assert ((cold < 1e-6) | (cold > 1 - 1e-6)).double().mean() > 0.998
    hot = gumbel(alphas, keep, torch.tensor(1e7, dtype=torch.float64))
    uniform = by_row(lambda scores: [1 / len(scores) for _ in scores], ALPHAS, keep)
    torch.testing.assert_close(hot, uniform.expand(500, -1, -1), rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables(), st.sampled_from([0.1, 1.0, 10.0]), st.integers(0, 1000))
def test_straight_through_is_one_hot_with_the_gradient_of_the_soft_draw(
    table: tuple[Tensor, Tensor], temperature: float, seed: int
) -> None:
    alphas, keep = table
    soft = plain_gumbel(alphas, keep, temperature, seed)
    leaf = alphas.clone().requires_grad_()
    torch.manual_seed(seed)
    drawn = straight_through(leaf, keep, torch.tensor(temperature, dtype=torch.float64))
    one_hot = by_row(lambda row: [float(value == max(row)) for value in row], soft, keep)
    torch.testing.assert_close(drawn, one_hot, rtol=0, atol=1e-14)
    assert (drawn[one_hot == 0] == 0).all()
    upstream = torch.randn(drawn.shape, dtype=torch.float64)
    drawn.backward(upstream)
    torch.testing.assert_close(leaf.grad, plain_softmax_gradient(soft, upstream) / temperature, rtol=1e-8, atol=1e-12)


def test_straight_through_is_one_hot_in_single_precision() -> None:
    drawn = straight_through(ALPHAS.float().expand(10_000, -1, -1), KEEP, torch.tensor(1.0))
    assert (drawn.abs().minimum((drawn - 1).abs()) < 1e-6).all()
    torch.testing.assert_close(drawn.sum(-1), KEEP.any(-1).float().expand(10_000, -1), rtol=0, atol=1e-6)


def test_only_straight_through_runs_one_path() -> None:
    assert [name for name in list_relaxations() if get_relaxation(name).one_path] == ["straight_through"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables())
def test_the_mean_of_dirichlet_is_the_share_of_the_concentrations(table: tuple[Tensor, Tensor]) -> None:
    alphas, keep = table
    torch.testing.assert_close(dirichlet_mean(alphas, keep), by_row(plain_mean, alphas, keep), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_concentration_is_elu_plus_one_and_stays_above_zero(dtype: torch.dtype) -> None:
    values = torch.tensor([-40.0, -17.0, -8.0, -1.0, 0.0, 1e-3, 1.0, 30.0], dtype=dtype, requires_grad=True)
    expected = [plain_concentration(value) for value in values.tolist()]
    concentrations = concentration(values)
    torch.testing.assert_close(concentrations.tolist(), expected, rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(concentrations.sum(), values)
    torch.testing.assert_close(slope.tolist(), [min(1.0, math.exp(value)) for value in values.tolist()], rtol=1e-5, atol=0)


def test_the_slope_of_the_concentration_at_zero_is_that_of_both_sides() -> None:
    """Alphas start at 0 where their scale is 0; next to 0 the slope is min(1, exp(alpha))."""
    around = [-1e-9, -0.0, 0.0, 1e-9]
    alphas = torch.tensor(around, dtype=torch.float64, requires_grad=True)
    concentrations = concentration(alphas)
    torch.testing.assert_close(concentrations.tolist(), [1 + value for value in around], rtol=1e-15, atol=0)
    (slope,) = torch.autograd.grad(concentrations.sum(), alphas)
    torch.testing.assert_close(slope.tolist(), [min(1.0, math.exp(value)) for value in around], rtol=1e-15, atol=0)


def test_the_mean_of_dirichlet_moves_from_zero() -> None:
    """With c = elu(alpha) + 1, S their sum: d(c_i / S) / d alpha_j = c'_j (delta_ij - c_i / S) / S; some alphas are 0."""
    alphas = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.7, -0.4]], dtype=torch.float64)
    keep = torch.ones(2, 3, dtype=torch.bool)
    found = torch.autograd.functional.jacobian(lambda table: dirichlet_mean(table, keep), alphas)
    for row, values in enumerate(alphas.tolist()):
        concentrations = [plain_concentration(value) for value in values]
        total = sum(concentrations)
        expected = [
            [min(1.0, math.exp(value)) * ((i == j) - concentrations[i] / total) / total for j, value in enumerate(values)]
            for i in range(3)
        ]
        torch.testing.assert_close(found[row, :, row].tolist(), expected, rtol=1e-12, atol=1e-16)


DIRICHLET_ALPHAS = torch.tensor([[0.5, -1.0, 2.0, 0.0], [-0.3, 9.0, 1.2, 0.4]], dtype=torch.float64)
DIRICHLET_KEEP = KEEP[:2]


def moment(alphas: list[float], powers: list[int]) -> float:
    """E[prod of x_i ** powers_i] under Dirichlet(elu(alpha) + 1): rising factorials of the concentrations over that of their
    sum."""
    values = [plain_concentration(alpha) for alpha in alphas]
    above = math.prod(value + step for value, power in zip(values, powers, strict=True) for step in range(power))
    return above / math.prod(sum(values) + step for step in range(sum(powers)))


def powers_up_to_second_order(candidates: int) -> list[list[int]]:
    """Those of x_i, x_i ** 2 and x_i x_j, which means, variances and covariances are made of."""
    unit = [[int(column == other) for other in range(candidates)] for column in range(candidates)]
    pairs = [[a + b for a, b in zip(unit[i], unit[j], strict=True)] for i in range(candidates) for j in range(i, candidates)]
    return unit + pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dirichlet_has_the_moments_of_the_distribution_over_the_kept_candidates(dtype: torch.dtype) -> None:
    drawn = dirichlet(DIRICHLET_ALPHAS.to(dtype).expand(DRAWS, -1, -1), DIRICHLET_KEEP, torch.tensor(1.0))
    torch.testing.assert_close(drawn.sum(-1), torch.ones(DRAWS, 2, dtype=dtype))
    for row, keep in enumerate(DIRICHLET_KEEP):
        alphas, values = DIRICHLET_ALPHAS[row, keep].tolist(), drawn[:, row, keep].double()
        for powers in powers_up_to_second_order(len(alphas)):
            mean, square = moment(alphas, powers), moment(alphas, [2 * power for power in powers])
            found = torch.stack([value**power for value, power in zip(values.unbind(-1), powers, strict=True)]).prod(0).mean()
            assert abs(found.item() - mean) < SIGMAS * math.sqrt((square - mean**2) / DRAWS)


def test_variance_of_dirichlet() -> None:
    """a_i (a0 - a_i) / (a0^2 (a0 + 1)), within five standard deviations of a sample variance."""
    drawn = dirichlet(DIRICHLET_ALPHAS.expand(DRAWS, -1, -1), DIRICHLET_KEEP, TEMPERATURE)
    for row, keep in enumerate(DIRICHLET_KEEP):
        values = [plain_concentration(alpha) for alpha in DIRICHLET_ALPHAS[row, keep].tolist()]
        total = sum(values)
        for value, sample in zip(values, drawn[:, row, keep].unbind(-1), strict=True):
            expected = value * (total - value) / (total**2 * (total + 1))
            fourth = (sample - sample.mean()).pow(4).mean().item()
            assert abs(sample.var().item() - expected) < SIGMAS * math.sqrt((fourth - expected**2) / DRAWS)


@pytest.mark.parametrize("row", [0, 1])
def test_the_pathwise_gradient_of_dirichlet_is_that_of_closed_form_expectations(row: int) -> None:
    """Averaged over draws, d f(x) / d alpha is d E[f(x)] / d alpha, by finite differences of E[f] through elu."""
    keep = DIRICHLET_KEEP[row]
    alphas = DIRICHLET_ALPHAS[row, keep].tolist()
    resolved = 0
    for powers in powers_up_to_second_order(len(alphas)):
        leaf = DIRICHLET_ALPHAS[row].expand(DRAWS, 1, -1).clone().requires_grad_()
        drawn = dirichlet(leaf, keep.unsqueeze(0), TEMPERATURE)[:, 0, keep]
        terms = torch.stack([value**power for value, power in zip(drawn.unbind(-1), powers, strict=True)])
        terms.prod(0).sum().backward()
        assert leaf.grad is not None
        gradients = leaf.grad[:, 0, keep]
        error = gradients.std(0) / math.sqrt(DRAWS)
        for column in range(len(alphas)):
            higher, lower = ([a + h * (i == column) for i, a in enumerate(alphas)] for h in (1e-5, -1e-5))
            expected = (moment(higher, powers) - moment(lower, powers)) / 2e-5
            assert abs(gradients[:, column].mean().item() - expected) < SIGMAS * error[column].item() + 1e-9
            resolved += abs(expected) > 20 * error[column].item()
    assert resolved > 2 * len(alphas), "most derivatives are well above the noise"


@pytest.mark.parametrize("others", [-8.0, 2.0])
def test_very_small_concentrations_stay_finite_in_single_precision(others: float) -> None:
    for lowest in (-8.0, -20.0):
        leaf = torch.full((5000, 4, 4), lowest)
        leaf[..., 2] = others
        leaf.requires_grad_()
        drawn = dirichlet(leaf, KEEP, torch.tensor(1.0))
        drawn.square().sum().backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all()
        torch.testing.assert_close(drawn.sum(-1), KEEP.any(-1).float().expand(5000, -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sotfmax"}, r"name: unknown relaxation 'sotfmax'; did you mean softmax\? known: softmax, "),
        ({"temperature": 0.0}, r"temperature: must be above 0, not 0.0"),
        ({"temperature": math.inf}, r"temperature: must be at most 10000.0, not inf"),
        ({"temperature": math.nan}, r"temperature: must be above 0, not nan"),
        ({"temperature_end": -1.0}, r"temperature_end: must be above 0, not -1.0"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelaxationConfig(**options)


def test_a_relaxation_of_ones_own() -> None:
    mine = Relaxation(lambda alphas, keep, temperature: alphas.sigmoid() * keep, lambda alphas, keep: alphas.sigmoid() * keep)
    with RELAXATIONS.temporarily():
        register_relaxation("sigmoid", mine)
        register_relaxation("sigmoid", mine)
        assert get_relaxation("sigmoid") is mine and list_relaxations()[-1] == "sigmoid"
        assert RelaxationConfig("sigmoid").name == "sigmoid"
        with pytest.raises(InputError, match="relaxation 'sigmoid' is registered already"):
            register_relaxation("sigmoid", Relaxation(dirichlet, dirichlet_mean))
        with pytest.raises(InputError, match="relaxation 'softmax' is registered already"):
            register_relaxation("softmax", mine)
        assert get_relaxation("sigmoid") is mine
        for get in (RelaxationConfig, get_relaxation):
            with pytest.raises(
                InputError, match="unknown relaxation 'relu'; known: softmax, gumbel, straight_through, dirichlet, sigmoid"
            ):
                get("relu")


@pytest.mark.parametrize("temperature", [0.01, 0.03, 1.0])
@pytest.mark.parametrize("name", ["gumbel", "straight_through"])
def test_cold_draws_in_single_precision(name: str, temperature: float) -> None:
    """Weights and gradients are those of the same draw in float64, but for the rounding of (alpha + G) / temperature."""
    torch.manual_seed(6)
    count, keep = 2000, KEEP
    alphas = (3 * torch.randn(count, len(keep), 4)).clamp(-8, 8)
    noise = torch.empty_like(alphas).exponential_().log().neg().double()
    exact = alphas.double().requires_grad_()
    soft = masked_softmax((exact + noise) / temperature, keep)
    torch.manual_seed(6)
    torch.randn(count, len(keep), 4)
    leaf = alphas.clone().requires_grad_()
    drawn = get_relaxation(name).sample(leaf, keep, torch.tensor(temperature))
    rounding = 30 / temperature * torch.finfo(torch.float32).eps
    expected = soft if name == "gumbel" else torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0) * keep
    clear = soft.detach().topk(2, dim=-1).values.diff(dim=-1).abs() > 1e-2  # no tie but for rounding
    torch.testing.assert_close((drawn * clear).double(), expected * clear, rtol=0, atol=rounding)
    upstream = torch.randn_like(drawn)
    drawn.backward(upstream)
    soft.backward(upstream.double())
    assert leaf.grad is not None and exact.grad is not None and (leaf.grad[:, ~keep] == 0).all()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0, atol=8 * rounding / temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_softmax_of_masked_rows_at_any_size_of_scores(dtype: torch.dtype) -> None:
    """A candidate that is gone has no part in it, however large its score; differences of up to 600 keep their digits in
    float64."""
    scores = torch.tensor([[-1e30, -2e30, 1e30], [5.0, 5.0 - 80.0, 3e38], [-3e38, -3e38, 0.0], [1.0, 2.0, 3.0]], dtype=dtype)
    keep = torch.tensor([[True, True, False], [True, True, False], [True, True, False], [False, False, False]])
    leaf = scores.clone().requires_grad_()
    weights = masked_softmax(leaf, keep)
    small = math.exp(-80)
    expected = torch.tensor([[1.0, 0.0, 0.0], [1.0, small, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=0)
    weights[:, 1].sum().backward()
    slopes = torch.tensor([[0.0, 0.0, 0.0], [-small, small, 0.0], [-0.25, 0.25, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(leaf.grad, slopes, rtol=1e-5, atol=0)
