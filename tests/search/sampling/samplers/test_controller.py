"""The controller against an LSTM written out, and as the probability distribution that it says it is."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor

from search.sampling.encoding import Encoding
from search.sampling.samplers.controller import Controller
from supernet import SearchSpace, get_space, list_spaces

NODES = {"nasbench201": 3, "darts": 2}
SIGNIFICANT = 1e-4


@cache
def small_space(name: str) -> tuple[list[int], Tensor]:
    """The options of each variable and all architectures [n, variables] of a space with two operations and few nodes."""
    space, nodes = get_space(name), NODES[name]
    last = space.inputs + nodes - 1
    encoding = Encoding(SearchSpace("small", space.skeleton, nodes, space.candidates[-2:], (last,), {}, space.derived_inputs))
    return [variable.options for variable in encoding.variables], torch.tensor([*map(encoding.values, encoding.all())])


def decided(
    options: list[int], hidden: int = 6, scale: float = 20.0, temperature: float = 1.0, tanh: float = 2.5
) -> Controller:
    """A controller in double precision with weights so large that it prefers some architectures."""
    controller = Controller(options, hidden, temperature, tanh, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.mul_(scale)
    return controller


def written_out(controller: Controller, options: list[int], values: list[int]) -> tuple[float, float]:
    """Log-probability and sum of entropies of one architecture, decision by decision (Hochreiter & Schmidhuber's cell)."""
    read, recur, bias, again = controller.cell.parameters()
    hidden = torch.zeros(controller.cell.hidden_size, dtype=torch.float64)
    memory, inputs = hidden, controller.start
    log_prob, entropy = 0.0, 0.0
    for number, value in enumerate(values):
        enter, forget, new, leave = (read @ inputs + bias + recur @ hidden + again).chunk(4)
        memory = forget.sigmoid() * memory + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * memory.tanh()
        scores = []
        for option in range(options[number]):
            logit = float(controller.heads[number, option] @ hidden + controller.biases[number, option])
            scores.append(math.exp(controller.tanh_constant * math.tanh(logit / controller.temperature)))
        chances = [score / sum(scores) for score in scores]
        log_prob += math.log(chances[value])
        entropy -= sum(chance * math.log(chance) for chance in chances)
        if number + 1 < len(values):
            inputs = controller.embeddings[number, value]
    return log_prob, entropy


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.sampled_from([1.0, 5.0]),
    st.sampled_from([1.1, 2.5]),
)
@torch.no_grad()
def test_it_is_an_lstm_with_tempered_and_bounded_logits(options: list[int], seed: int, temperature: float, tanh: float) -> None:
    controller = decided(options, temperature=temperature, tanh=tanh)
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack([torch.randint(count, (3,), generator=generator) for count in options], 1)
    log_prob, entropy = controller(values)
    expected = torch.tensor([written_out(controller, options, row) for row in values.tolist()], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([log_prob, entropy], 1), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(controller.log_prob(values), log_prob)


@pytest.mark.parametrize("space", list_spaces())
@torch.no_grad()
def test_the_probabilities_of_all_architectures_add_up_to_one(space: str) -> None:
    options, everything = small_space(space)
    log_prob, _ = decided(options)(everything)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert log_prob.exp().max() > 5 / len(everything), "it is far from uniform"


@pytest.mark.parametrize("space", list_spaces())
@torch.no_grad()
def test_the_mean_entropy_of_the_decisions_is_the_entropy_of_the_distribution(space: str) -> None:
    options, everything = small_space(space)
    log_prob, entropy = decided(options)(everything)
    exact = -(log_prob.exp() * log_prob).sum()
    assert exact < 0.8 * math.log(len(everything))
    torch.testing.assert_close((log_prob.exp() * entropy).sum(), exact, rtol=1e-12, atol=1e-12)


def test_a_variable_with_fewer_options_than_others_has_no_weights_that_count() -> None:
    controller = decided([2, 5, 1])
    log_prob, entropy = controller(torch.tensor([[0, 3, 0], [1, 0, 0]]))
    (log_prob + entropy).sum().backward()
    for parameter, row, used in ((controller.heads, 0, 2), (controller.heads, 2, 1), (controller.embeddings, 0, 2)):
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert (parameter.grad[row, used:] == 0).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 1000))
@settings(max_examples=25)
def test_samples_are_in_range_and_depend_on_the_generator_alone(options: list[int], count: int, seed: int) -> None:
    controller = decided(options)
    first = controller.sample(count, torch.Generator().manual_seed(seed))
    torch.manual_seed(seed + 1)
    assert torch.equal(controller.sample(count, torch.Generator().manual_seed(seed)), first)
    assert first.shape == (count, len(options)) and first.dtype == torch.long
    assert (first >= 0).all() and (first < torch.tensor(options)).all()


def test_samples_follow_the_probabilities() -> None:
    draws = 60_000
    options, everything = small_space("nasbench201")
    controller = decided(options, scale=12.0)
    expected = draws * controller.log_prob(everything).detach().exp()
    radix = torch.tensor([2**place for place in reversed(range(len(options)))])
    assert torch.equal(everything @ radix, torch.arange(len(everything)))
    counts = torch.bincount(controller.sample(draws, torch.Generator().manual_seed(1)) @ radix, minlength=len(everything))
    assert expected.min() > 5 and expected.max() > 20 * expected.min()
    assert chisquare(counts, expected).pvalue > SIGNIFICANT


@torch.no_grad()
def test_the_tanh_bounds_how_sure_it_gets_and_the_temperature_flattens() -> None:
    one, two = torch.arange(4).unsqueeze(1), torch.tensor([[0, value] for value in range(4)])
    for tanh in (1.1, 2.5):
        for options, values in (([4], one), ([1, 4], two)):
            log_probs = decided(options, scale=1e6, tanh=tanh).log_prob(values)
            assert log_probs.max() - log_probs.min() == pytest.approx(2 * tanh, abs=1e-6)
    flat = decided([4], temperature=1e9).log_prob(one).exp()
    torch.testing.assert_close(flat, torch.full((4,), 0.25, dtype=torch.float64))


def test_weights_begin_uniform_between_minus_and_plus_a_tenth() -> None:
    controller = Controller([5] * 6, 64, 1.0, 2.5, torch.Generator().manual_seed(3))
    for parameter in controller.parameters():
        values = parameter.detach().flatten().numpy()
        assert kstest(values, "uniform", args=(-0.1, 0.2)).pvalue > SIGNIFICANT
    again = Controller([5] * 6, 64, 1.0, 2.5, torch.Generator().manual_seed(3))
    assert all(torch.equal(one, other) for one, other in zip(controller.parameters(), again.parameters(), strict=True))
