"""The autoencoder of NAO: against direct computations, and that it learns what it is for."""

import itertools
import math
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.autoencoder import Autoencoder, Losses, entropy
from search.sampling.samplers.nao import NaoConfig, scaled, train
from supernet import get_space, list_spaces

every_space = pytest.mark.parametrize("space", list_spaces())


def encoding_of(space: str, *exclude: str) -> Encoding:
    return Encoding(get_space(space), exclude)


def drawn(encoding: Encoding, count: int, seed: int = 0) -> list[Genome]:
    random = Random(seed)
    return [encoding.random(random) for _ in range(count)]


def values_of(encoding: Encoding, genomes: list[Genome]) -> Tensor:
    return torch.tensor([encoding.values(genome) for genome in genomes])


def unit_states(model: Autoencoder, count: int, seed: int = 0) -> Tensor:
    """Some states anywhere in the latent space, of the model's type."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, *model.places.shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(states, dim=-1).to(model.places.dtype)


def scores_of(genomes: list[Genome]) -> list[float]:
    """A function of all edges: the number of one operation, less that of another."""
    return [sum(column == 3 for column in genome) - 0.5 * sum(column == 1 for column in genome) for genome in genomes]


def trained(encoding: Encoding, genomes: list[Genome], **options: Any) -> Autoencoder:
    targets = scaled(scores_of(genomes), "rank")
    return train(encoding.variables, values_of(encoding, genomes), targets, NaoConfig(**options), seed=0)


# What it is


@pytest.mark.parametrize(("space", "tokens"), [("nasbench201", 5), ("darts", 7 + 3 + 6 + 10)])
def test_variables_of_the_same_sort_share_their_tokens(space: str, tokens: int) -> None:
    """All operations; and the inputs of nodes that have equally many to choose from."""
    model = Autoencoder(encoding_of(space).variables, 8)
    assert model.tokens.num_embeddings == tokens
    for variable, first, foreign in zip(encoding_of(space).variables, model.firsts, model.foreign, strict=True):
        assert (~foreign).nonzero().flatten().tolist() == list(range(first, first + variable.options))


def test_two_directions_need_an_even_size() -> None:
    with pytest.raises(ValueError, match=r"^hidden: must be even, .*, not 7$"):
        Autoencoder(encoding_of("darts").variables, 7)


@every_space
def test_states_are_directions_and_scores_are_between_0_and_1(space: str) -> None:
    encoding = encoding_of(space)
    model = Autoencoder(encoding.variables, 8)
    states = model.encode(values_of(encoding, drawn(encoding, 20)))
    assert states.shape == (20, len(encoding.variables), 8)
    torch.testing.assert_close(states.norm(dim=-1), torch.ones(20, len(encoding.variables)))
    scores = model.predict(states)
    assert scores.shape == (20,) and ((scores > 0) & (scores < 1)).all()


def test_the_decoder_is_a_distribution_of_architectures() -> None:
    """The product over the variables, each given those before, sums to 1 over all architectures of a small space."""
    encoding = encoding_of("nasbench201", "none", "avg_pool_3x3", "skip_connect")
    model = Autoencoder(encoding.variables, 8).double()
    values = values_of(encoding, list(encoding.all()))
    for states in unit_states(model, 3):
        log_probs = model.log_probs(states.expand(len(values), -1, -1), values)
        chosen = log_probs.gather(-1, (values + model.firsts).unsqueeze(-1)).squeeze(-1)
        assert chosen.sum(-1).exp().sum().item() == pytest.approx(1, abs=1e-12)


@every_space
def test_foreign_tokens_are_impossible(space: str) -> None:
    encoding = encoding_of(space)
    model = Autoencoder(encoding.variables, 8)
    log_probs = model.log_probs(unit_states(model, 10), values_of(encoding, drawn(encoding, 10)))
    assert (log_probs.exp()[:, model.foreign] == 0).all() and log_probs.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(10, len(encoding.variables)))


@every_space
def test_decoding_is_greedy(space: str) -> None:
    """Fed with what it decoded, each value is the likeliest given the states and those before it."""
    model = Autoencoder(encoding_of(space).variables, 8)
    states = unit_states(model, 50)
    values = model.decode(states)
    assert torch.equal(model.log_probs(states, values).argmax(-1) - model.firsts, values)
    assert len(values.unique(dim=0)) > 1


@every_space
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_whatever_is_decoded_is_an_architecture(space: str, seed: int, scale: float) -> None:
    """It is one for any weights, from anywhere in the latent space."""
    encoding = encoding_of(space)
    torch.manual_seed(seed)
    model = Autoencoder(encoding.variables, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale)
    for values in model.decode(unit_states(model, 8, seed)).tolist():
        encoding.check(encoding.of_values(values))
        assert encoding.values(encoding.of_values(values)) == tuple(values)


# The loss


@every_space
def test_losses_against_a_direct_computation(space: str) -> None:
    encoding = encoding_of(space)
    model = Autoencoder(encoding.variables, 8).double()
    values = values_of(encoding, drawn(encoding, 5))
    targets = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    states = model.encode(values)
    log_probs, predicted = model.log_probs(states, values).tolist(), model.predict(states).tolist()
    surprises, entropies = [], []
    for row, variable in itertools.product(range(5), range(len(encoding.variables))):
        first, options = int(model.firsts[variable]), encoding.variables[variable].options
        own = [math.exp(value) for value in log_probs[row][variable][first : first + options]]
        surprises.append(-math.log(own[values[row, variable]]))
        entropies.append(-sum(share * math.log(share) for share in own))
    losses = model.losses(values, targets)
    squares = [(one - other) ** 2 for one, other in zip(predicted, targets.tolist(), strict=True)]
    assert losses.prediction.item() == pytest.approx(sum(squares) / 5, rel=1e-12)
    assert losses.reconstruction.item() == pytest.approx(sum(surprises) / len(surprises), rel=1e-12)
    assert losses.entropy.item() == pytest.approx(sum(entropies) / len(entropies), rel=1e-12)
    assert losses.total(0.7, 0.1).item() == pytest.approx(
        0.7 * losses.prediction.item() + 0.3 * losses.reconstruction.item() - 0.1 * losses.entropy.item(), rel=1e-12
    )


def test_entropy_of_known_distributions() -> None:
    uniform, certain = torch.full((4,), -math.log(4)), torch.tensor([0.0, *[torch.finfo(torch.float32).min] * 3])
    torch.testing.assert_close(entropy(torch.stack([uniform, certain])), torch.tensor([math.log(4), 0.0]))


def test_the_gradient_of_the_loss_is_finite_with_foreign_tokens() -> None:
    encoding = encoding_of("darts")
    model = Autoencoder(encoding.variables, 8)
    losses: Losses = model.losses(values_of(encoding, drawn(encoding, 5)), torch.rand(5))
    losses.total(0.5, 0.5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name


def test_a_higher_weight_of_the_entropy_leaves_a_higher_entropy() -> None:
    encoding = encoding_of("nasbench201")
    genomes = drawn(encoding, 20)
    values, targets = values_of(encoding, genomes), scaled(scores_of(genomes), "rank")
    found = []
    for weight in (-0.1, 0.0, 0.1, 0.3):
        model = trained(encoding, genomes, entropy=weight, updates=40, hidden=16)
        with torch.no_grad():
            found.append(model.losses(values, targets).entropy.item())
    assert found[0] < found[1] < found[2] < found[3]


# What it learns


@every_space
def test_it_learns_to_reproduce_a_small_set_exactly(space: str) -> None:
    encoding = encoding_of(space)
    genomes = drawn(encoding, 20)
    values = values_of(encoding, genomes)
    model = trained(encoding, genomes, updates=100)
    with torch.no_grad():
        states = model.encode(values)
        likelihood = model.log_probs(states, values).gather(-1, (values + model.firsts).unsqueeze(-1)).exp()
    assert likelihood.min() > 0.9
    assert torch.equal(model.decode(states), values)
    assert not torch.equal(trained(encoding, genomes, updates=1).decode(states), values)


@every_space
def test_the_predictor_ranks_architectures_that_it_has_not_seen(space: str) -> None:
    encoding = encoding_of(space)
    model = trained(encoding, drawn(encoding, 100))
    others = drawn(encoding, 300, seed=1)
    with torch.no_grad():
        predicted = model.predict(model.encode(values_of(encoding, others)))
    assert spearmanr(predicted.numpy(), scores_of(others)).statistic > 0.85


@every_space
def test_a_move_follows_the_gradient_of_the_predicted_score(space: str) -> None:
    """The gradient is held to central differences of the prediction, in float64."""
    encoding = encoding_of(space)
    model = Autoencoder(encoding.variables, 4).double()
    states = unit_states(model, 2)
    width, gradient = 1e-6, torch.zeros_like(states)
    with torch.no_grad():
        for place in itertools.product(*map(range, states.shape)):
            change = torch.zeros_like(states)
            change[place] = width
            difference = model.predict(states + change) - model.predict(states - change)
            gradient[place] = difference[place[0]] / (2 * width)
    for step in (0.5, 3.0):
        uphill = states + step * gradient
        expected = uphill / uphill.square().sum(-1, keepdim=True).sqrt()
        torch.testing.assert_close(model.move(states, step), expected, rtol=0, atol=1e-8)
    assert gradient.norm() > 1e-3


@every_space
def test_moves_raise_the_predicted_score(space: str) -> None:
    encoding = encoding_of(space)
    genomes = drawn(encoding, 50)
    model = trained(encoding, genomes)
    with torch.no_grad():
        states = model.encode(values_of(encoding, genomes))
        before, small, large = (model.predict(model.move(states, step)) for step in (0.0, 0.01, 2.0))
    torch.testing.assert_close(before, model.predict(states))
    assert (small > before).all() and (large > small).all()
