"""What exists and what moves in each epoch of a search, without one."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search.differentiable.config import AlphaConfig, SearchConfig, StagesConfig
from search.differentiable.early_stop import EarlyStopConfig
from search.differentiable.schedule import EpochPlan, Stage, SupernetSchedule
from search.differentiable.selection import SelectionConfig
from search.history import SearchEpoch
from supernet import get_space
from training.optim import OptimizerConfig

DARTS, NASBENCH = get_space("darts"), get_space("nasbench201")


def plans(schedule: SupernetSchedule) -> list[EpochPlan]:
    return [schedule.plan(epoch) for epoch in range(schedule.planned_epochs)]


# The search


def test_without_anything_special_every_epoch_trains_both_at_a_rate_that_falls_by_a_cosine() -> None:
    schedule = SupernetSchedule(4, OptimizerConfig(lr=0.5, lr_min=0.1))
    assert schedule.planned_epochs == 4
    assert [plan.rate for plan in plans(schedule)] == pytest.approx(
        [0.5, 0.1 + 0.4 * (2 + 2**0.5) / 4, 0.3, 0.1 + 0.4 * (2 - 2**0.5) / 4]
    )
    assert all(plan == EpochPlan(plan.rate) for plan in plans(schedule))


@pytest.mark.parametrize(
    ("epochs", "warmup", "moves"),
    [
        (4, 0.0, [True] * 4),
        (4, 0.5, [False, False, True, True]),
        (4, 0.75, [False] * 3 + [True]),
        (3, 0.5, [False, False, True]),
    ],
)
def test_alphas_wait_until_the_warm_up_is_over(epochs: int, warmup: float, moves: list[bool]) -> None:
    assert [plan.moves_alphas for plan in plans(SupernetSchedule(epochs, warmup=warmup))] == moves


def test_every_stage_has_a_warm_up_of_its_own() -> None:
    schedule = SupernetSchedule(6, stages=StagesConfig([4, 2], [2, 1]), warmup=0.5)
    assert [plan.moves_alphas for plan in plans(schedule)] == [False, True] * 3


def test_stages_prune_and_widen_where_they_begin() -> None:
    schedule = SupernetSchedule(6, stages=StagesConfig([4, 2], [2, 1]))
    first, second = Stage(1, keep=4, partial=2), Stage(2, keep=2, partial=1)
    assert [plan.begins for plan in plans(schedule)] == [(), (), (first,), (), (second,), ()]
    # The rate goes on as if there were none.
    assert [plan.rate for plan in plans(schedule)] == [plan.rate for plan in plans(SupernetSchedule(6))]


@given(st.integers(1, 60), st.integers(0, 5), st.floats(0, 0.99))
def test_each_stage_begins_once_and_trains_its_weights_before_its_alphas(epochs: int, more: int, warmup: float) -> None:
    assume(epochs > more)
    stages = StagesConfig(list(range(20, 20 - more, -1)), [1] * more)
    schedule = SupernetSchedule(epochs, stages=stages, warmup=warmup)
    begun = [(stage.number, epoch) for epoch, plan in enumerate(plans(schedule)) for stage in plan.begins]
    assert [number for number, _ in begun] == list(range(1, more + 1))
    starts = [0, *(epoch for _, epoch in begun), epochs]
    for start, end in pairwise(starts):
        assert abs(end - start - epochs / (1 + more)) < 1
        moves = [plan.moves_alphas for plan in plans(schedule)[start:end]]
        # Once they move they do so to the end of the stage.
        assert moves == sorted(moves)
        assert sum(not moved for moved in moves) == pytest.approx(warmup * epochs / (1 + more), abs=1.001)


# Selection by perturbation


def test_perturbation_decides_every_few_epochs_behind_the_search() -> None:
    schedule = SupernetSchedule(2, OptimizerConfig(lr=0.5), rounds=3, tune_epochs=2)
    assert schedule.planned_epochs == 2 + 5
    assert [plan.decides for plan in plans(schedule)] == [None, None, 0, None, 1, None, 2]
    assert [plan.fresh_optimizer for plan in plans(schedule)] == [False, False, True, False, False, False, False]
    tuning = plans(schedule)[2:]
    assert [plan.rate for plan in tuning] == [0.05] * 5
    assert all(plan.moves_alphas and not plan.begins for plan in tuning)
    assert plans(schedule)[:2] == plans(SupernetSchedule(2, OptimizerConfig(lr=0.5)))


@pytest.mark.parametrize(("tune_epochs", "planned"), [(1, 4 + 6), (5, 4 + 26)])
def test_one_epoch_follows_the_last_decision(tune_epochs: int, planned: int) -> None:
    schedule = SupernetSchedule(4, rounds=6, tune_epochs=tune_epochs)
    assert schedule.planned_epochs == planned
    assert schedule.plan(planned - 1).decides == 5


# The end


def epoch(number: int, skip_share: float) -> SearchEpoch:
    return SearchEpoch(
        epoch=number, readings={}, genotype=f"of epoch {number}", entropy={}, skips={}, skip_share={"cell": skip_share},
        mixture={}, eigenvalue=None,
    )  # fmt: skip


def test_a_collapse_ends_a_search_that_is_told_to_stop() -> None:
    history = [epoch(1, 0.2), epoch(2, 0.4), epoch(3, 0.9)]
    stopping = SupernetSchedule(9, early_stop=EarlyStopConfig("skips", start=0))
    assert stopping.collapse([]) is None and stopping.collapse(history[:2]) is None
    collapse = stopping.collapse(history)
    assert collapse is not None and collapse.epoch == 1 and "skip connections are 90%" in collapse.reason
    assert replace(stopping, early_stop=EarlyStopConfig(start=0)).collapse(history) is None
    # By the epochs of the search, a third of which is behind.
    assert replace(stopping, early_stop=EarlyStopConfig("skips", start=0.5)).collapse(history) is None
    assert replace(stopping, epochs=6, early_stop=EarlyStopConfig("skips", start=0.5)).collapse(history) is not None


def test_alphas_by_shapley_values_wait_for_the_warm_up_and_take_no_gradient() -> None:
    schedule = SupernetSchedule(4, warmup=0.5, rounds=6, tune_epochs=2, by_shapley=True)
    planned = plans(schedule)
    assert [plan.takes_shapley for plan in planned] == [False, False] + [True] * (len(planned) - 2)
    assert not any(plan.moves_alphas for plan in planned) and not schedule.has_moved_alphas(len(planned))
    assert not any(plan.takes_shapley for plan in plans(replace(schedule, by_shapley=False)))


# Of a configuration


def test_a_configuration_has_its_schedule() -> None:
    config = SearchConfig(
        epochs=8, stages=StagesConfig([3], [1]), alphas=AlphaConfig(warmup=0.25), early_stop=EarlyStopConfig("skips"),
        weights=OptimizerConfig(lr=0.3),
    )  # fmt: skip
    schedule = SupernetSchedule.of(config, DARTS)
    assert schedule == SupernetSchedule(8, config.weights, config.stages, 0.25, 0, 5, config.early_stop)
    assert SupernetSchedule.of(SearchConfig(epochs=8, alphas=AlphaConfig(update="shapley")), DARTS).by_shapley
    decided = SearchConfig(epochs=8, selection=SelectionConfig("perturbation", tune_epochs=2))
    assert [SupernetSchedule.of(decided, space).rounds for space in (DARTS, NASBENCH)] == [14 + 3, 6]
    assert SupernetSchedule.of(decided, NASBENCH).planned_epochs == 8 + 11
