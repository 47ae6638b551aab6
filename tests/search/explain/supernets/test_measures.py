"""The measures of a trained supernet against their definitions, on a cell that is small enough to enumerate."""

import dataclasses
from collections.abc import Iterator
from itertools import repeat

import pytest
import torch

from search.attribution.players import Players
from search.attribution.shapley import exact_shapley
from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.method import DifferentiableRun, search
from search.explain.explanation import ExplainOptions
from search.explain.supernets.measures import agreement, alphas, gradient_times_weight, perturbation, shapley
from search.explain.supernets.trained import TrainedSupernet
from supernet.spaces.nasbench201 import NASBENCH201_SPACE
from supernet.spaces.space import SPACES, register_space
from training.images.data import DataConfig
from training.metrics import Batch
from training.run.config import RunOptions


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedSupernet]:
    """A cell of three edges with two candidates beside none, and weights that a short search has trained."""
    with SPACES.temporarily():
        register_space(dataclasses.replace(NASBENCH201_SPACE, name="small", nodes=2, concat=(2,)))
        path = tmp_path_factory.mktemp("small") / "run"
        config = SearchConfig(
            space="small", exclude=["skip_connect", "avg_pool_3x3"], channels=8, cells=1, epochs=3, batch_size=32,
            data=DataConfig(limit=384), alphas=AlphaConfig(scale=0.5), eigenvalue_every=0, validate_every=3, device="cpu",
            kernels="reference", threads=1,
        )  # fmt: skip
        search(config, RunOptions(path, False, False, pictures=False), "darts")
        yield TrainedSupernet(DifferentiableRun.open(path), ExplainOptions(torch.device("cpu")), log=lambda _: None)


def nothing(_: int) -> None:
    """Nobody counts."""


def test_sampled_shapley_values_come_to_those_of_all_sets(small: TrainedSupernet) -> None:
    (batch,) = small.valid.take(32).in_order(32).epoch(0)
    those = [one for one in small.candidates if small.operation(one) != "none"]
    table = torch.zeros_like(small.keep["cell"])
    for one in those:
        table[one.edge, one.column] = True
    players = Players({"cell": table})
    nones = {one: small.mixture["cell"][one.edge, one.column] for one in small.candidates if one not in those}

    def value(present: torch.Tensor) -> float:
        mixture = players.under(small.mixture, present)
        for one, weight in nones.items():
            mixture["cell"][one.edge, one.column] = weight
        return small.steps.score([batch], mixture)

    exact = exact_shapley(6, value)
    assert exact.abs().max() > 0.05
    values, estimate = shapley(small, repeat([batch], 40), torch.Generator().manual_seed(0), nothing, stop=0.0)
    error = estimate.sd / 40**0.5
    found = torch.tensor([values[one] for one in those], dtype=torch.float64)
    assert ((found - exact).abs() <= 4 * error + 1e-12).all()
    assert all(values[one] == 0 for one in nones)


def test_gradient_times_weight_is_the_slope_of_the_loss(small: TrainedSupernet) -> None:
    """By differences in float64: the loss with each weight a little larger and smaller."""
    network = small.steps.network.double()

    class Double:
        def epoch(self, number: int) -> Iterator[Batch]:
            for batch in small.valid.take(32).in_order(16).epoch(number):
                yield Batch(batch.inputs.double(), batch.targets)

    try:
        seen: list[int] = []
        found = gradient_times_weight(small, Double(), seen.append)  # type: ignore[arg-type]
        assert sum(seen) == 64  # a gradient costs two passes
        h = 1e-6  # so near that it meets no kink
        network.train()
        for one in small.candidates:
            losses = []
            for factor in (1 + h, 1 - h):
                mixture = {kind: table.double() for kind, table in small.mixture.items()}
                mixture[one.kind][one.edge, one.column] *= factor
                with torch.no_grad():
                    parts = [small.task.evaluation_loss(network(b.inputs, mixture), b) for b in Double().epoch(0)]
                losses.append(float(sum(parts) / 2))
            assert found[one] == pytest.approx(-(losses[0] - losses[1]) / (2 * h), abs=1e-5)
        assert max(abs(value) for value in found.values()) > 0.01
    finally:
        network.float()


def test_perturbation_is_the_fall_of_the_score_and_none_costs_nothing(small: TrainedSupernet) -> None:
    batches = small.first(64)
    seen: list[int] = []
    found = perturbation(small, batches, seen.append)
    whole = small.steps.score(batches.epoch(0), small.mixture)
    for one, fall in found.items():
        assert fall == whole - small.steps.score(batches.epoch(0), small.without([one]))
    assert seen == [64] * 7  # once whole, and once without each that can change something


def test_alphas_are_the_mixture(small: TrainedSupernet) -> None:
    found = alphas(small)
    for edge in range(3):
        assert sum(value for one, value in found.items() if one.edge == edge) == pytest.approx(1)
    assert len(found) == 9


def test_agreement_is_kendalls_tau() -> None:
    """By hand: of three pairs two are in the same order."""
    assert agreement([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert agreement([1, 2, 3], [3, 2, 1]) == -1
    assert agreement([1, 1, 1], [1, 2, 3]) is None and agreement([], []) is None
