"""Predictors on scores that are known, and the Gaussian process against its formulas."""

import math
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.predictors import Ensemble, GaussianProcess, Predictor, normal_scores
from supernet import get_space, list_spaces

PREDICTORS: dict[str, Callable[[int], Predictor]] = {"ensemble": Ensemble, "gp": lambda seed: GaussianProcess()}

every_predictor = pytest.mark.parametrize("name", PREDICTORS)


@cache
def part(place: int, column: int) -> float:
    return Random(f"{place} {column}").gauss(0, 1)


def additive(genome: Genome) -> float:
    """A number for each edge's operation."""
    return sum(part(place, column) for place, column in enumerate(genome))


def architectures(space: str, count: int, seed: int = 0) -> list[Genome]:
    encoding, random = Encoding(get_space(space)), Random(seed)
    return list({encoding.random(random): None for _ in range(count)})


def data(space: str, encoding: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    genomes = architectures(space, count, seed)
    return Encoding(get_space(space)).features[encoding](genomes), np.array([additive(genome) for genome in genomes])


# Scores


scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30).map(np.array)


@given(scores)
def test_normal_scores_keep_the_order_and_nothing_else(values: np.ndarray) -> None:
    found = normal_scores(values)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(np.sign(found[:, None] - found), np.sign(values[:, None] - values))
    order = np.unique(values, return_inverse=True)[1]
    np.testing.assert_array_equal(normal_scores(np.exp(order / 3.0)), found)


def test_normal_scores_are_quantiles_of_the_normal_distribution() -> None:
    np.testing.assert_allclose(normal_scores(np.array([0.5, 0.9, 0.6, 0.1])), norm.ppf([0.375, 0.875, 0.625, 0.125]))
    np.testing.assert_allclose(normal_scores(np.array([0.5, 0.9, 0.5, 0.1])), norm.ppf([0.5, 0.875, 0.5, 0.125]))


# Both


@every_predictor
@pytest.mark.parametrize("encoding", ["path", "one_hot"])
@pytest.mark.parametrize("space", list_spaces())
def test_what_it_has_not_seen_is_ranked(name: str, encoding: str, space: str) -> None:
    predictor = PREDICTORS[name](0)
    predictor.fit(*data(space, encoding, 100))
    features, scores = data(space, encoding, 200, seed=1)
    mean, deviation = predictor.predict(features)
    assert mean.shape == deviation.shape == scores.shape
    # What an operation brings by itself shows less in paths, of which the large cell has 11,200.
    bounds = {"nasbench201": {"one_hot": 0.9, "path": 0.4}, "darts": {"one_hot": 0.5, "path": 0.2}}
    assert spearmanr(mean, scores).statistic > bounds[space][encoding]


@every_predictor
def test_the_scale_of_scores_does_not_matter(name: str) -> None:
    features, scores = data("nasbench201", "one_hot", 60)
    first, second = PREDICTORS[name](0), PREDICTORS[name](0)
    first.fit(features, scores)
    second.fit(features, np.exp(scores))
    np.testing.assert_array_equal(first.predict(features), second.predict(features))


@every_predictor
def test_it_is_as_uncertain_as_it_is_wrong(name: str) -> None:
    """About the same share of held-out scores as of a normal distribution lies within one and two deviations."""
    features, scores = data("nasbench201", "one_hot", 260)
    noisy = scores + np.random.default_rng(0).normal(0, scores.std() / 2, len(scores))
    predictor = PREDICTORS[name](0)
    predictor.fit(features[:130], noisy[:130])
    mean, deviation = predictor.predict(features[130:])
    # The scale is that of the scores that were fitted.
    targets = np.interp(noisy[130:], np.sort(noisy[:130]), np.sort(normal_scores(noisy[:130])))
    errors = np.abs(targets - mean) / deviation
    assert 0.55 < (errors < 1).mean() < 0.85
    assert (errors < 2).mean() > 0.85


@every_predictor
def test_the_seed_alone_decides(name: str) -> None:
    features, scores = data("nasbench201", "path", 40)
    first = PREDICTORS[name](1)
    first.fit(features, scores)
    expected = first.predict(features)
    torch.manual_seed(7)
    np.random.seed(7)
    second = PREDICTORS[name](1)
    second.fit(features, scores)
    np.testing.assert_array_equal(second.predict(features), expected)
    first.fit(features, scores)
    np.testing.assert_array_equal(first.predict(features), expected)


@every_predictor
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("same", [False, True])
def test_few_or_equal_scores_will_do(name: str, count: int, same: bool) -> None:
    features, scores = data("nasbench201", "path", count)
    predictor = PREDICTORS[name](0)
    predictor.fit(features, 0 * scores if same else scores)
    mean, deviation = predictor.predict(data("nasbench201", "path", 50, seed=1)[0])
    assert np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()


# The ensemble


def test_each_network_learns_from_its_own_part() -> None:
    """Scores that are noise: where a network has not seen them, its error is no smaller than that of the mean of all."""
    features, _ = data("nasbench201", "one_hot", 100)
    predictor = Ensemble(0)
    predictor.fit(features, np.random.default_rng(0).normal(size=len(features)))
    _, deviation = predictor.predict(features)
    assert (deviation > 0.95).all()


def test_its_networks_differ_with_the_seed_and_with_the_data() -> None:
    features, scores = data("nasbench201", "one_hot", 41)
    found = []
    for seed, count in ((0, 41), (1, 41), (0, 40)):
        predictor = Ensemble(seed)
        predictor.fit(features[:count], scores[:count])
        found.append(predictor.predict(features)[0])
    assert len({tuple(mean) for mean in found}) == 3


# The Gaussian process


def hamming(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one[:, None] - other[None]).sum(-1)


@pytest.mark.parametrize("encoding", ["path", "one_hot"])
def test_the_gaussian_process_is_that_of_the_hamming_distance(encoding: str) -> None:
    """Mean and variance by the formulas (Rasmussen & Williams 2006, equations 2.23 and 2.24), with its own parameters."""
    features, scores = data("nasbench201", encoding, 50)
    others, _ = data("nasbench201", encoding, 80, seed=1)
    assert encoding == "one_hot" or others[:, ~features.any(0)].any(), "some have paths that no data has"
    predictor = GaussianProcess()
    predictor.fit(features, scores)
    amplitude, length, noise = np.exp(predictor.state_dict()["theta"])

    def covariance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return amplitude * np.exp(-hamming(one, other) / (2 * length**2))

    inverse = np.linalg.inv(covariance(features, features) + noise * np.eye(len(features)))
    cross = covariance(others, features)
    mean, deviation = predictor.predict(others)
    np.testing.assert_allclose(mean, cross @ inverse @ normal_scores(scores), rtol=1e-6, atol=1e-8)
    variance = amplitude + noise - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-6)


def test_the_gaussian_process_knows_less_away_from_the_data() -> None:
    features, scores = data("darts", "one_hot", 60)
    predictor = GaussianProcess()
    predictor.fit(features, scores)
    near, _ = data("darts", "one_hot", 200, seed=1)
    mean, deviation = predictor.predict(np.concatenate([features, near]))
    distance = hamming(np.concatenate([features, near]), features).min(1)
    assert deviation[distance == 0].max() < deviation[distance > 0].min()
    assert spearmanr(distance[60:], deviation[60:]).statistic > 0.3
    far = np.full((1, features.shape[1]), 50, np.float32)
    amplitude, _, noise = np.exp(predictor.state_dict()["theta"])
    (mean,), (deviation,) = predictor.predict(far)
    assert mean == pytest.approx(0, abs=1e-6) and deviation == pytest.approx(math.sqrt(amplitude + noise))


def test_its_parameters_are_sought_when_the_data_has_grown_by_half() -> None:
    features, scores = data("nasbench201", "one_hot", 60)
    predictor, found = GaussianProcess(), []
    for count in (20, 21, 29, 30, 44, 45):
        predictor.fit(features[:count], scores[:count])
        found.append(tuple(predictor.state_dict()["theta"]))
    assert found[0] == found[1] == found[2] != found[3] == found[4] != found[5]


@pytest.mark.parametrize("count", [29, 30, 31])
def test_it_goes_on_bit_for_bit_from_its_state(count: int) -> None:
    features, scores = data("nasbench201", "path", 60)
    first = GaussianProcess()
    first.fit(features[:20], scores[:20])
    first.fit(features[:count], scores[:count])
    resumed = GaussianProcess()
    resumed.load_state_dict(first.state_dict())
    for predictor in (first, resumed):
        predictor.fit(features[:32], scores[:32])
    np.testing.assert_array_equal(first.predict(features), resumed.predict(features))
