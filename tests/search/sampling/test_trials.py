"""Evaluations: asked for, counted, told."""

from collections.abc import Sequence

import pytest

from base.checks import InputError
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.sampler import Sampler, Scored
from search.sampling.trials import Trials
from supernet import get_space

ENCODING = Encoding(get_space("nasbench201"))


def genome(number: int) -> Genome:
    return ENCODING.of_values([number // 5**place % 5 for place in range(6)])


class Batches(Sampler):
    """Asks for the batches 0, 1 | 2, 3 | ..., the odd ones in part; keeps what it was told."""

    def __init__(self, encoding: Encoding, config: object, seed: int) -> None:
        super().__init__(encoding, config, seed)
        self.asked = 0
        self.told: list[list[Scored]] = []
        self.last = 1000

    def ask(self) -> list[Genome]:
        if self.asked >= self.last:
            return []
        self.evaluation_share = 0.25 if self.asked % 2 else 1.0
        self.asked += 1
        return [genome(2 * self.asked - 2), genome(2 * self.asked - 1)]

    def tell(self, scored: Sequence[Scored]) -> None:
        self.told.append(list(scored))


def new_trials(calls: list[tuple[Genome, float]] | None = None) -> Trials:
    calls = [] if calls is None else calls

    def evaluate(genome: Genome, share: float) -> float:
        calls.append((genome, share))
        return sum(genome) * share

    return Trials(Batches(ENCODING, SamplingConfig(), 0), evaluate)


def test_a_part_costs_its_share() -> None:
    trials = new_trials()
    new = trials.advance(2.5)
    assert [trial.share for trial in new] == [1, 1, 0.25, 0.25] and trials.spent == 2.5
    assert [trial.genome for trial in new] == [genome(number) for number in range(4)]
    assert [trial.share for trial in trials.advance(3.5)] == [1] and trials.spent == 3.5
    assert trials.advance(3.5) == []


def test_a_sampler_is_told_when_all_that_it_asked_for_is_known() -> None:
    trials = new_trials()
    sampler = trials.sampler
    assert isinstance(sampler, Batches)
    trials.advance(1)
    assert sampler.told == []
    trials.advance(2)
    assert sampler.told == [[(genome(0), 0.0), (genome(1), 1.0)]]


def test_the_best_was_evaluated_wholly_and_comes_first_among_equals() -> None:
    trials = new_trials()
    assert trials.best() is None
    trials.advance(4.5)
    scores = [trial.score for trial in trials.done if trial.share == 1]
    best = trials.best()
    assert best is not None and best.score == max(scores) and best.share == 1
    assert best is next(trial for trial in trials.done if trial.share == 1 and trial.score == max(scores))


def test_what_is_known_is_not_evaluated_again_but_costs_again() -> None:
    calls: list[tuple[Genome, float]] = []

    class Same(Batches):
        def ask(self) -> list[Genome]:
            return [genome(7)] * 3

    trials = new_trials(calls)
    trials.sampler = Same(ENCODING, SamplingConfig(), 0)
    trials.advance(5)
    assert len(calls) == 1 and trials.spent == 5 and len(trials.done) == 5


def test_nothing_left_ends_it() -> None:
    trials = new_trials()
    assert isinstance(trials.sampler, Batches)
    trials.sampler.last = 2
    trials.advance(100)
    assert trials.exhausted and trials.spent == 2.5 and trials.advance(100) == []


@pytest.mark.parametrize("until", [0.0, 1.0, 2.0, 2.25, 3.5, 6.0])
def test_a_saved_state_goes_on_the_same(until: float) -> None:
    whole, first, second = new_trials(), new_trials(), new_trials()
    whole.advance(until)
    whole.advance(9)
    first.advance(until)
    second.load_state_dict(first.state_dict())
    second.advance(9)
    assert second.done == whole.done and second.state_dict() == whole.state_dict()
    assert second.spent == whole.spent


@pytest.mark.parametrize("part", ["done", "scored", "asked"])
def test_a_state_without_one_of_its_trials_is_refused(part: str) -> None:
    trials = new_trials()
    trials.advance(1)  # in the midst of a batch
    state = trials.state_dict()
    trials.structure()("trials", state)
    assert len(state["asked"]) == 2 and len(state["scored"]) == 1
    with pytest.raises(InputError, match=r"^trials\.(done|scored): "):
        trials.structure()("trials", state | {part: state[part][:-1]})
