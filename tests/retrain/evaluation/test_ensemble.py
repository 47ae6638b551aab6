"""Tests of retrain/evaluation/ensemble.py."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.evaluation.ensemble import average_log_probabilities, majority_vote


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
