"""Tests of search/differentiable/measures.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from search.differentiable.measures import dominant_eigenvalue, entropy, largest_entropy, skip_share
from supernet import Genotype, Supernet, get_space


def seed(number):
    return torch.Generator().manual_seed(number)


def gradient_of(loss):
    """The gradient of a loss of tensors, by autograd."""

    def gradient(point):
        leaves = [tensor.requires_grad_() for tensor in point]
        return list(torch.autograd.grad(loss(*leaves), leaves))

    return gradient


def dominant_by_autograd(loss, point):
    """The eigenvalue of largest magnitude of the whole Hessian, of a double backward in float64."""
    sizes = [tensor.numel() for tensor in point]

    def of_vector(vector):
        return loss(*(part.view(tensor.shape) for part, tensor in zip(vector.split(sizes), point, strict=True)))

    vector = torch.cat([tensor.detach().double().flatten() for tensor in point])
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(of_vector, vector))
    return float(eigenvalues[eigenvalues.abs().argmax()])


def test_the_entropy_is_the_mean_over_the_rows() -> None:
    found = entropy({"normal": torch.full((14, 8), 1 / 8), "reduce": torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])})
    assert found == pytest.approx({"normal": math.log(8), "reduce": math.log(2) / 2}, rel=1e-6)
    assert found["normal"] == pytest.approx(
        largest_entropy({"normal": torch.ones(14, 8, dtype=torch.bool)})["normal"], rel=1e-6
    )


def test_the_entropy_of_rows_that_sum_to_one_is_that_of_the_formula() -> None:
    table = torch.randn(3, 14, 8, dtype=torch.float64).softmax(-1)
    rows = table.flatten(0, 1).tolist()
    expected = sum(-sum(p * math.log(p) for p in row) for row in rows) / len(rows)
    assert entropy({"normal": table})["normal"] == pytest.approx(expected, rel=1e-12)


def test_the_entropy_of_a_row_does_not_depend_on_its_sum() -> None:
    table = torch.randn(2, 6, 5, dtype=torch.float64).softmax(-1)
    weights = torch.rand(2, 6, 1, dtype=torch.float64) + 0.01
    assert entropy({"cell": weights * table}) == pytest.approx(entropy({"cell": table}), rel=1e-12)


def test_edges_that_were_taken_away_have_no_entropy() -> None:
    table = torch.randn(6, 5, dtype=torch.float64).softmax(-1)
    gone = torch.tensor([True, False, False, True, False, False])
    kept = entropy({"cell": table[~gone]})
    assert entropy({"cell": table.masked_fill(gone[:, None], 0.0)}) == pytest.approx(kept, rel=1e-12)
    assert entropy({"cell": torch.zeros(6, 5)}) == {"cell": 0.0}


def test_a_mixture_with_nan_has_the_entropy_nan() -> None:
    table = torch.full((6, 5), 0.2)
    table[2] = math.nan
    assert math.isnan(entropy({"cell": table})["cell"])


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("|skip_connect~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|", 2 / 4),
        ("|skip_connect~0|+|skip_connect~0|none~1|+|none~0|none~1|none~2|", 1.0),
        ("|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|none~0|none~1|none~2|", 0.0),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", 0.0),
    ],
)
def test_the_share_of_skips_leaves_none_out(text: str, share: float) -> None:
    assert skip_share(Genotype.parse(text)) == {"cell": share}


def test_the_share_of_skips_is_that_of_each_kind_of_cell() -> None:
    genotype = Genotype.parse(
        "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 1)], "
        "normal_concat=[2, 3], reduce=[('max_pool_3x3', 0), ('skip_connect', 1), ('sep_conv_5x5', 0), ('dil_conv_3x3', 2)], "
        "reduce_concat=[2, 3])"
    )
    assert skip_share(genotype) == {"normal": 0.75, "reduce": 0.25}


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 60), number=st.integers(0, 2**20), sign=st.sampled_from([-1, 1]), scale=st.floats(1e-3, 1e3))
def test_the_dominant_eigenvalue_of_a_quadratic(size: int, number: int, sign: int, scale: float) -> None:
    """The others are at most 0.7 of it, so that 12 steps are enough for any size."""
    generator = seed(number)
    spectrum = 1.4 * torch.rand(size, generator=generator, dtype=torch.float64) - 0.7
    spectrum[0] = sign
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    hessian = scale * basis @ spectrum.diag() @ basis.T
    slope = torch.randn(size, generator=generator, dtype=torch.float64)
    point = list(torch.randn(size, generator=generator, dtype=torch.float64).tensor_split([size // 3]))

    def loss(*parts):
        vector = torch.cat(parts)
        return vector @ hessian @ vector / 2 + slope @ vector

    expected = dominant_by_autograd(loss, point)
    assert expected == pytest.approx(sign * scale)
    # As many steps as it takes whatever the start.
    assert dominant_eigenvalue(gradient_of(loss), point, generator, steps=size) == pytest.approx(expected, rel=1e-3)


class Problem:
    """The cross entropy of a tiny supernet, in float64 or float32, as a function of its alphas."""

    def __init__(self, number: int, training: bool):
        torch.manual_seed(number)
        self.network = Supernet(get_space("nasbench201"), channels=2, cells=1, classes=4).double().train(training)
        self.images, self.labels = torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.arange(8) % 4
        self.alphas = 0.5 * torch.randn(6, 5, dtype=torch.float64)

    def loss(self, alphas):
        """Returns the loss in the precision of the alphas; running statistics stay as they are."""
        alphas = alphas.view(6, 5)
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        state = {name: (tensor.to(alphas) if tensor.is_floating_point() else tensor).clone() for name, tensor in tensors}
        logits = functional_call(self.network, state, (self.images.to(alphas), {"cell": alphas.softmax(-1)}))
        return F.cross_entropy(logits, self.labels)


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
@pytest.mark.parametrize("training", [True, False])
def test_the_dominant_eigenvalue_of_a_supernet(training: bool, number: int) -> None:
    """The length is so short that no ReLU has its kink in between, which a double backward does not see."""
    problem = Problem(number, training)
    expected = dominant_by_autograd(problem.loss, [problem.alphas])
    found = dominant_eigenvalue(gradient_of(problem.loss), [problem.alphas], seed(0), length=1e-5)
    assert found == pytest.approx(expected, rel=1e-3)
    rounded = dominant_eigenvalue(gradient_of(problem.loss), [problem.alphas.float()], seed(0), length=1e-4)
    assert rounded == pytest.approx(expected, rel=0.02)


def smooth_loss(normal, reduce):
    """Returns the loss of two tables through a layer of tanh, the same in any precision."""
    inputs = torch.randn(16, normal.numel() + reduce.numel(), generator=seed(5), dtype=torch.float64).to(normal)
    mixed = torch.cat([normal.softmax(-1).flatten(), reduce.softmax(-1).flatten()])
    return F.cross_entropy(3 * (inputs * mixed).tanh().view(16, 4, -1).sum(-1), torch.arange(16) % 4)


@pytest.fixture
def tables() -> list[torch.Tensor]:
    return [torch.randn(14, 8, generator=seed(1)), torch.randn(14, 8, generator=seed(2))]


def test_gradients_in_float32_are_good_enough(tables: list[torch.Tensor]) -> None:
    expected = dominant_by_autograd(smooth_loss, [table.double() for table in tables])
    assert dominant_eigenvalue(gradient_of(smooth_loss), tables, seed(0)) == pytest.approx(expected, rel=0.02)


def test_a_seed_gives_the_same_eigenvalue(tables: list[torch.Tensor]) -> None:
    def found(number):
        return dominant_eigenvalue(gradient_of(smooth_loss), tables, seed(number), steps=3)

    assert found(0) == found(0) != found(1)


def test_the_gradient_is_asked_for_at_new_tensors_like_the_point(tables: list[torch.Tensor]) -> None:
    point = [tables[0].requires_grad_(), tables[1].double()]
    before, lengths = [tensor.detach().clone() for tensor in point], []

    def gradient(shifted):
        assert [(t.shape, t.dtype, t.requires_grad) for t in shifted] == [(t.shape, t.dtype, False) for t in before]
        moves = [tensor.double() - start.double() for tensor, start in zip(shifted, before, strict=True)]
        lengths.append(float(torch.linalg.vector_norm(torch.cat([move.flatten() for move in moves]))))
        return [tensor**3 for tensor in shifted]

    dominant_eigenvalue(gradient, point, seed(0), steps=5, length=0.03)
    assert lengths == pytest.approx([0.03] * 10, rel=1e-4)
    assert all(torch.equal(tensor, start) for tensor, start in zip(point, before, strict=True))


@pytest.mark.parametrize(
    ("eigenvalues", "calls"),
    [
        ([0.0] * 30, 2),
        ([-2.0] * 30, 2),
        ([5.0] + [0.0] * 29, 4),
        ([5.0] * 4 + [-7.0] * 26, 4),
        ([1.0, 2.0, -3.0], 6),
        ([1.0, 1.01, 1.02], 6),
    ],
)
def test_it_stops_when_the_krylov_space_is_exhausted(eigenvalues: list[float], calls: int) -> None:
    diagonal, asked = torch.tensor(eigenvalues, dtype=torch.float64), []

    def gradient(point):
        asked.append(point)
        return [diagonal * point[0] + 1]

    found = dominant_eigenvalue(gradient, [torch.ones(len(diagonal), dtype=torch.float64)], seed(0))
    assert found == pytest.approx(max(eigenvalues, key=abs), abs=1e-9)
    assert len(asked) == calls


def test_the_basis_stays_orthogonal_where_eigenvalues_nearly_coincide() -> None:
    """The rest of a product is then almost rounding; a basis with parallel vectors would count an eigenvalue twice."""
    diagonal = 1 + 1e-9 * torch.arange(20, dtype=torch.float64)
    for number in range(10):
        point = [torch.ones(20, dtype=torch.float64)]
        found = dominant_eigenvalue(lambda point: [diagonal * point[0]], point, seed(number), steps=20)
        assert found == pytest.approx(1, rel=1e-6)


def test_the_curvature_in_kinks_is_seen() -> None:
    """The mean of |x - b| over a dense grid of b in -1 .. 1 has curvature 1, though each has none where autograd looks."""
    kinks = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    scales = torch.tensor([1.0, -4.0, 2.0], dtype=torch.float64)
    point = [torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)]

    def loss(vector):
        return scales @ (vector[:, None] - kinks).abs().mean(-1)

    assert dominant_by_autograd(loss, point) == 0
    assert dominant_eigenvalue(gradient_of(loss), point, seed(0), length=0.1) == pytest.approx(-4, rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("call", [1, 2, 6])
def test_a_gradient_that_is_not_finite_gives_nan(bad: float, call: int) -> None:
    asked = []

    def gradient(point):
        asked.append(point)
        gradient = point[0] ** 3
        gradient[1] = bad if len(asked) == call else gradient[1]
        return [gradient]

    assert math.isnan(dominant_eigenvalue(gradient, [torch.randn(10)], seed(0)))
    assert len(asked) == call + call % 2, "and nothing more is asked for"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_entropy_of_decided_edges_is_zero_without_a_sign(dtype: torch.dtype) -> None:
    """One-hot rows, also where the weight of the edge is tiny; and a row with a share that is next to nothing."""
    for scale in (1.0, 1e-30):
        found = entropy({"cell": scale * torch.eye(4, dtype=dtype)})["cell"]
        assert found == 0 and math.copysign(1, found) == 1
    found = entropy({"cell": torch.tensor([[1.0, 1e-12, 0.0]], dtype=dtype)})["cell"]
    # That of (1, e) is e (1 - log(e)) but for e ** 2; float32 has no 1 - e.
    assert found == pytest.approx(1e-12 * (-math.log(1e-12) + (dtype == torch.float64)), rel=1e-3)
    assert entropy({"cell": torch.zeros(3, 4, dtype=dtype)}) == {"cell": 0.0}
