"""The step along Shapley values, against the equations of Shapley-NAS written out, and on a supernet small enough to be
enumerated."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from search.attribution.players import Players
from search.attribution.shapley import ShapleyEstimate, exact_shapley, sample_shapley
from search.attribution.update import ShapleyConfig, ShapleyUpdate
from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.trainer import BilevelSearch
from training.hardware import Hardware
from training.images.data import DataConfig
from training.metrics import Batch
from training.run.directory import RunDirectory
from training.tasks.classification import Classification
from training.tasks.images import ImageData

KEEP = torch.tensor([[True, True, False], [True, True, True]])


@pytest.fixture(scope="module")
def images() -> ImageData:
    """Forty digits."""
    return Classification.open(DataConfig(limit=40), Hardware.of(SearchConfig(device="cpu"))).train


def new_update(images: ImageData, seed: int = 0, **settings: Any) -> ShapleyUpdate:
    alphas = {"normal": torch.zeros(2, 3), "reduce": torch.zeros(2, 3)}
    return ShapleyUpdate(ShapleyConfig(**settings), images, alphas, seed, 1e-3)


def estimate(contributions: Tensor) -> ShapleyEstimate:
    return ShapleyEstimate(contributions, contributions != 0, torch.ones(len(contributions)).double(), 0)


# The step


def test_alphas_move_as_the_equations_say(images: ImageData) -> None:
    """Xiao et al. 2022: mean less deviation, standardised in each kind, averaged, times the step; candidates that are gone
    stay as they are."""
    update, players = new_update(images, momentum=0.7, step=0.2), Players({"normal": KEEP, "reduce": KEEP})
    average = {kind: table.clone().numpy() for kind, table in update.average.items()}
    alphas = {kind: torch.randn(2, 3, generator=torch.Generator().manual_seed(1)) for kind in players.keep}
    expected = {kind: table.double().numpy() for kind, table in alphas.items()}
    there = KEEP.numpy()
    for seed in (2, 3):
        found = torch.rand(4, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        update.move(alphas, players, estimate(found))
        worths = found.numpy().mean(0) - found.numpy().std(0)
        for kind, worth in zip(players.keep, np.split(worths, 2), strict=True):
            average[kind][there] = 0.7 * average[kind][there] + 0.3 * (worth - worth.mean()) / worth.std(ddof=1)
            expected[kind] = expected[kind] + 0.2 * average[kind] * there
    for kind in players.keep:
        assert np.allclose(update.average[kind].numpy(), average[kind])
        assert np.allclose(alphas[kind].numpy(), expected[kind], atol=1e-6)


@pytest.mark.parametrize("contributions", [torch.zeros(3, 10), torch.full((3, 10), 0.1), torch.full((3, 10), 1 / 3 + 1e-3)])
def test_candidates_that_are_all_worth_the_same_move_by_the_average_alone(images: ImageData, contributions: Tensor) -> None:
    update, players = new_update(images), Players({"normal": KEEP, "reduce": KEEP})
    before = {kind: table.clone() for kind, table in update.average.items()}
    alphas = {kind: torch.zeros(2, 3) for kind in players.keep}
    update.move(alphas, players, estimate(contributions.double()))
    for kind, table in update.average.items():
        torch.testing.assert_close(table[KEEP], before[kind][KEEP] * 0.8)
        torch.testing.assert_close(alphas[kind], 0.1 * table.float() * KEEP)


def test_a_kind_with_one_candidate_left_stays_finite(images: ImageData) -> None:
    one = torch.zeros(2, 3, dtype=torch.bool)
    one[0, 1] = True
    update, alphas = new_update(images), {"normal": torch.zeros(2, 3), "reduce": torch.zeros(2, 3)}
    update.move(alphas, Players({"normal": one, "reduce": KEEP}), estimate(torch.rand(2, 6).double()))
    assert all(table.isfinite().all() for table in (*alphas.values(), *update.average.values()))
    assert int((alphas["normal"] != 0).sum()) == 1


def test_the_average_begins_with_noise_of_the_scale_of_the_alphas(images: ImageData) -> None:
    alphas = {"cell": torch.zeros(100, 100)}
    tables = [ShapleyUpdate(ShapleyConfig(), images, alphas, seed, 1e-3).average["cell"] for seed in (0, 0, 1)]
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])
    assert float(tables[0].std()) == pytest.approx(1e-3, rel=0.05) and tables[0].dtype == torch.float64


# The estimate


def recorded(update: ShapleyUpdate, epoch: int, players: Players) -> list[tuple[Tensor, Tensor]]:
    """Labels of the batch, and the candidates that are there, in each evaluation."""
    seen: list[tuple[Tensor, Tensor]] = []

    def score(batches: Iterable[Batch], mixture: dict[str, Tensor]) -> float:
        (batch,) = batches
        seen.append((batch.inputs.flatten(1).sum(1), torch.cat([mixture[kind].flatten() for kind in players.keep])))
        return float(seen[-1][1].sum())

    found = update.estimate(epoch, players, {kind: torch.ones(2, 3) for kind in players.keep}, score)
    assert len(seen) == found.evaluations
    return seen


def batches_of(seen: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    return (batch for batch, there in seen if there.sum() == 10)


def test_each_permutation_has_images_of_its_own_and_the_same_ones_throughout(images: ImageData) -> None:
    """Forty images make two batches of 16, so that the third permutation begins another division of them."""
    update, players = new_update(images, permutations=3, batch=16, stop=0.0), Players({"normal": KEEP, "reduce": KEEP})
    seen = recorded(update, 4, players)
    assert len(seen) == 3 * 11
    for start in range(0, 33, 11):
        assert all(torch.equal(batch, seen[start][0]) for batch, _ in seen[start : start + 11])
        assert [int(there.sum()) for _, there in seen[start : start + 11]] == list(range(10, -1, -1))
    first, second, third = batches_of(seen)
    assert len(first) == 16 and not set(first.tolist()) & set(second.tolist())
    assert set(third.tolist()) & (set(first.tolist()) | set(second.tolist()))


def test_images_and_orders_follow_from_seed_and_epoch_alone(images: ImageData) -> None:
    players = Players({"normal": KEEP, "reduce": KEEP})

    def all_of(seed: int, epoch: int) -> Tensor:
        seen = recorded(new_update(images, seed, permutations=2, batch=16, stop=0.0), epoch, players)
        return torch.stack([torch.cat((batch, there)) for batch, there in seen])

    assert torch.equal(all_of(0, 3), all_of(0, 3))
    assert not torch.equal(all_of(0, 3)[:, :16], all_of(0, 4)[:, :16])
    assert not torch.equal(all_of(0, 3)[:, 16:], all_of(0, 4)[:, 16:])
    assert not torch.equal(all_of(0, 3)[:, 16:], all_of(1, 3)[:, 16:])


def test_all_images_are_taken_where_there_are_fewer(images: ImageData) -> None:
    update, players = new_update(images, permutations=2), Players({"normal": KEEP, "reduce": KEEP})
    assert [len(batch) for batch in batches_of(recorded(update, 0, players))] == [40, 40]
    assert update.cost(10) == "Shapley values of 10 candidates: at most 22 evaluations on 40 of the 40 validation images"


# On a supernet


def test_samples_come_to_the_enumerated_values_of_a_small_supernet(tmp_path: Path) -> None:
    """One candidate an edge: 6 players, 64 sets, each evaluated by the supernet."""
    config = SearchConfig(
        space="nasbench201", channels=4, cells=1, batch_size=32, device="cpu", data=DataConfig(limit=256),
        exclude=["none", "skip_connect", "avg_pool_3x3", "nor_conv_3x3"], alphas=AlphaConfig(update="shapley"),
    )  # fmt: skip
    hardware = Hardware.of(config, config.graph)
    search = BilevelSearch(config, Classification.open(config.data, hardware), RunDirectory(tmp_path, config), hardware)
    for epoch in range(4):
        for train in search.train_batches.epoch(epoch):
            search.step.weight_step(train)
    players, mixture = Players(search.architecture.keep), search.architecture.mean()
    batches = list(search.evaluation_batches.epoch(0))
    known: dict[tuple[bool, ...], float] = {}

    def value(present: Tensor) -> float:
        key = tuple(present.tolist())
        if key not in known:
            known[key] = search.step.score(batches, players.under(mixture, present))
        return known[key]

    exact = exact_shapley(len(players), value)
    all_less_none = value(torch.ones(6, dtype=torch.bool)) - value(torch.zeros(6, dtype=torch.bool))
    assert len(known) == 64 and float(exact.sum()) == pytest.approx(all_less_none) and all_less_none > 0.1
    found = sample_shapley(len(players), [value] * 1000, torch.Generator().manual_seed(0))
    assert float(found.mean.sum()) == pytest.approx(all_less_none)
    assert ((found.mean - exact).abs() <= 4 * found.sd / math.sqrt(1000) + 1e-12).all()
    assert float(exact.max() - exact.min()) > 10 * float((found.mean - exact).abs().max())
