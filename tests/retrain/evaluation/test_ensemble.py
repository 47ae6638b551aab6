"""Tests of retrain/evaluation/ensemble.py."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.evaluation.ensemble import (
    LARGEST_GAP,
    ROUNDS,
    average_log_probabilities,
    fitted_weights,
    greedy_weights,
    majority_vote,
)


@st.composite
def logits(draw, entries):
    """Logits [K, B, classes] as nested lists."""
    networks, images, classes = (draw(st.integers(1, most)) for most in (5, 3, 4))
    one = st.lists(entries, min_size=classes, max_size=classes)
    return draw(st.lists(st.lists(one, min_size=images, max_size=images), min_size=networks, max_size=networks))


@settings(deadline=None)
@given(logits(st.floats(-30, 30, width=32)))
def test_probabilities_are_averaged(values):
    found = average_log_probabilities(torch.tensor(values)).exp()
    for image in range(len(values[0])):
        for kind in range(len(values[0][0])):
            shares = [math.exp(each[image][kind]) / sum(map(math.exp, each[image])) for each in values]
            assert math.isclose(found[image, kind].item(), sum(shares) / len(shares), rel_tol=1e-9)


def test_probabilities_too_small_for_a_number_are_kept_as_logarithms():
    sure = torch.tensor([[[1e4, 0.0]], [[2e4, 0.0]]])
    expected = torch.tensor([[0.0, -1e4 - math.log(2)]], dtype=torch.float64)
    torch.testing.assert_close(average_log_probabilities(sure), expected)


# Few values, so that votes and averages tie.
@settings(deadline=None)
@given(logits(st.integers(0, 2).map(float)))
def test_the_vote_is_that_of_a_count(values):
    found = majority_vote(torch.tensor(values))
    average = average_log_probabilities(torch.tensor(values))
    for image in range(len(values[0])):
        votes = [each[image].index(max(each[image])) for each in values]
        classes = range(len(values[0][0]))
        assert found[image] == max(classes, key=lambda kind: (votes.count(kind), average[image, kind].item(), -kind))


@settings(deadline=None)
@given(logits(st.floats(-30, 30, width=32)), st.randoms(use_true_random=False))
def test_the_order_of_the_networks_changes_no_bit(values, random):
    shuffled = random.sample(values, len(values))
    for combine in (average_log_probabilities, majority_vote):
        assert torch.equal(combine(torch.tensor(values)), combine(torch.tensor(shuffled)))


def test_the_majority_wins_against_the_average():
    values = torch.tensor([[[1.0, 0, 0]], [[1.0, 0, 0]], [[0.0, 9, 0]]])
    assert average_log_probabilities(values).argmax(1).tolist() == [1]
    assert majority_vote(values).tolist() == [0]


def test_of_tied_classes_the_more_probable_one_wins_then_the_first():
    # Two votes each for classes 1 and 2; class 0 has none, though the highest average of all in the third image.
    sure, torn = [0.0, 0, 5], [0.0, 1, 0]
    images = [
        [torn, torn, sure, sure],
        [[0.0, 4, 0], torn, [0.0, 0, 1], [0.0, 0, 2]],
        [[2.9, 3, 0], [2.9, 3, 0], [2.9, 0, 3.1], [2.9, 0, 3]],
        [[-1e4, 3, 1], [-1e4, 1, 3], [-1e4, 3, 1], [-1e4, 1, 3]],
    ]
    values = torch.tensor(images).transpose(0, 1)
    average = average_log_probabilities(values)
    assert average[2].argmax() == 0
    assert average[3, 1] == average[3, 2]
    assert majority_vote(values).tolist() == [2, 1, 2, 1]


# Weights


def probabilities_of(truth: list[float]) -> torch.Tensor:
    """Logits [1, N, 2] of a network that gives the label, class 0, these probabilities."""
    chances = torch.tensor(truth, dtype=torch.float64)
    return torch.stack([chances, 1 - chances], 1).log()[None]


def log_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    return torch.nn.functional.nll_loss(average_log_probabilities(logits, weights), labels).item()


@st.composite
def networks(draw):
    """Logits [K, N, classes] of networks of which some know more than others, and labels."""
    count, images, classes = draw(st.integers(1, 6)), draw(st.integers(1, 60)), draw(st.integers(2, 6))
    drawn = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    signal = torch.randn(images, classes, generator=drawn)
    noise = torch.randn(count, images, classes, generator=drawn) * 3 * torch.rand(count, 1, 1, generator=drawn)
    return draw(st.sampled_from([0.1, 1.0, 10.0, 100.0])) * (signal + noise), signal.argmax(1)


@settings(deadline=None, max_examples=40)
@given(networks())
def test_fitted_weights_hold_the_conditions_of_the_least_loss(given):
    """Karush, Kuhn and Tucker: the gain is 1 for each network with a weight, and at most 1 for the others."""
    logits, labels = given
    weights = fitted_weights(logits, labels)
    assert weights.min() >= 0 and math.isclose(weights.sum().item(), 1, rel_tol=1e-12)
    chances = logits.double().log_softmax(2)[:, torch.arange(len(labels)), labels]
    mixed = average_log_probabilities(logits, weights)[torch.arange(len(labels)), labels]
    gains = (chances - mixed).exp().mean(1)
    assert gains.max() <= 1 + LARGEST_GAP
    torch.testing.assert_close(weights * (gains - 1), torch.zeros_like(weights), rtol=0, atol=1e-5)
    least = log_loss(logits, labels, weights)
    for other in [*torch.eye(len(logits)).double(), torch.full((len(logits),), 1 / len(logits)).double()]:
        assert least <= log_loss(logits, labels, other) + LARGEST_GAP


def test_fitted_weights_of_a_known_optimum():
    """Of 4 images one network knows 3 and the other 1, each else certain of the wrong class but for 0.1: with w the loss is
    -3/4 log(0.1 + 0.8 w) - 1/4 log(0.9 - 0.8 w), which is least at 0.1 + 0.8 w = 3/4, w = 0.8125."""
    logits = torch.cat([probabilities_of([0.9, 0.9, 0.9, 0.1]), probabilities_of([0.1, 0.1, 0.1, 0.9])])
    weights = fitted_weights(logits, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(weights, torch.tensor([0.8125, 0.1875]).double(), rtol=0, atol=1e-4)


def test_fitted_weights_of_a_perfect_network_of_equal_ones_and_of_a_dominated_one():
    labels = torch.zeros(3, dtype=torch.int64)
    perfect, good, worse = (probabilities_of(truth) for truth in ([1 - 1e-12] * 3, [0.8, 0.7, 0.6], [0.7, 0.6, 0.5]))
    assert fitted_weights(torch.cat([good, perfect, worse]), labels).tolist() == [0, 1, 0]
    torch.testing.assert_close(fitted_weights(torch.cat([good] * 4), labels), torch.full((4,), 0.25).double())
    assert fitted_weights(torch.cat([worse, good]), labels).tolist() == [0, 1]
    assert fitted_weights(good, labels).tolist() == [1]


def test_weights_of_networks_that_are_sure_of_the_wrong_class():
    """Their probabilities of the label are no numbers in float64, and their logarithms are."""
    logits = torch.tensor([[[-1e4, 0.0]], [[-2e4, 0.0]]])
    assert fitted_weights(logits, torch.tensor([0])).tolist() == [1, 0]
    assert log_loss(logits, torch.tensor([0]), torch.tensor([1.0, 0])) == 1e4


def test_greedy_selection_is_that_of_the_paper_step_by_step():
    drawn = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(4, 30, 3, generator=drawn), torch.randint(3, (30,), generator=drawn)
    chances, bag = logits.double().softmax(2), []
    for _ in range(ROUNDS):
        means = [chances[[*bag, one]].mean(0) for one in range(4)]
        accuracies = [(mean.argmax(1) == labels).float().mean().item() for mean in means]
        losses = [-mean[torch.arange(30), labels].log().mean().item() for mean in means]
        bag.append(max(range(4), key=lambda one: (accuracies[one], -losses[one], -one)))
    expected = [bag.count(one) / ROUNDS for one in range(4)]
    assert greedy_weights(logits, labels).tolist() == expected
    assert sum(weight > 0 for weight in expected) > 1  # it does choose


def test_greedy_selection_takes_the_first_of_equals_and_no_dominated_network():
    labels = torch.zeros(3, dtype=torch.int64)
    good, wrong = probabilities_of([0.9, 0.8, 0.7]), probabilities_of([0.4, 0.3, 0.2])
    assert greedy_weights(torch.cat([wrong, good, good]), labels).tolist() == [0, 1, 0]


def test_a_network_without_weight_has_no_part_in_the_average():
    nothing = torch.full((1, 2, 3), torch.nan)
    one = torch.randn(1, 2, 3)
    weights = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(average_log_probabilities(torch.cat([nothing, one]), weights), one[0].double().log_softmax(1))
    equal = torch.tensor([0.5, 0.5])
    both = torch.randn(2, 4, 3)
    torch.testing.assert_close(average_log_probabilities(both, equal), average_log_probabilities(both))
