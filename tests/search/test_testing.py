"""The checks of `search.testing` find what breaks a contract; that they pass for our own parts is tested beside those."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ops.registry import OPERATIONS, register_op
from search.differentiable.relaxations import Relaxation, masked_softmax
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Genome
from search.sampling.samplers.sampler import Sampler, Scored
from search.testing import check_relaxation, check_sampler, check_space
from supernet import get_space

CONFIG = SamplingConfig(space="nasbench201")


class Climber(Sampler):
    """The sampler of docs/extending.md: a child replaces a worse parent."""

    best: Scored | None = None

    def ask(self) -> list[Genome]:
        if self.best is None:
            return [self.encoding.random(self.random)]
        return [self.encoding.mutate(self.best[0], self.random, edge_share=0.5)]

    def tell(self, scored: Sequence[Scored]) -> None:
        for genome, score in scored:
            if self.best is None or score > self.best[1]:
                self.best = genome, score


class Forgetful(Climber):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": None}


class GlobalChance(Climber):
    def ask(self) -> list[Genome]:
        return [self.encoding.random(random)]  # type: ignore[arg-type]  # the module has the same functions


class OutOfSpace(Climber):
    def ask(self) -> list[Genome]:
        return [tuple(column + 1 for column in super().ask()[0])]


class Lists(Climber):
    def ask(self) -> list[Genome]:
        return [list(genome) for genome in super().ask()]  # type: ignore[misc]


class WantsAll(Climber):
    """Takes for granted that everything is told before the next ask."""

    asked = 0

    def ask(self) -> list[Genome]:
        assert self.asked == 0, "asked before it was told"
        self.asked = 1
        return super().ask()

    def tell(self, scored: Sequence[Scored]) -> None:
        self.asked -= len(scored)
        super().tell(scored)


class Done(Climber):
    def ask(self) -> list[Genome]:
        return []


class WholeAndMore(Climber):
    evaluation_share = 1.5


class Sets(Climber):
    """Keeps what no checkpoint holds."""

    def tell(self, scored: Sequence[Scored]) -> None:
        self.seen = {genome for genome, _ in scored}


def test_a_good_sampler_passes_and_leaves_random_states_alone() -> None:
    random.seed(3)
    before = random.getstate(), torch.get_rng_state()
    check_sampler(Climber, CONFIG)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("sampler", "error", "message"),
    [
        (Forgetful, AssertionError, "a checkpoint .* does not bring back the same proposals"),
        (GlobalChance, AssertionError, "same proposals|same seed"),
        (OutOfSpace, AssertionError, "ask: genome: .* has the operation 5"),
        (Lists, AssertionError, "ask: a genome is a tuple of int"),
        (WantsAll, AssertionError, "asked before it was told"),
        (Done, AssertionError, "ask: proposes nothing"),
        (WholeAndMore, AssertionError, "evaluation_share: 1.5 is not"),
        (Sets, TypeError, "seen.* is a set; allowed are"),
    ],
)
def test_a_sampler_that_breaks_the_contract_is_found(sampler: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_sampler(sampler, CONFIG)


def soft(alphas: Tensor, keep: Tensor, temperature: Tensor) -> Tensor:
    return masked_softmax(alphas / temperature, keep)


GOOD = Relaxation(soft, masked_softmax)


@pytest.mark.parametrize(
    ("relaxation", "message"),
    [
        (replace(GOOD, sample=lambda a, keep, t: a.softmax(-1)), "sample: a candidate that is gone has a weight"),
        (
            replace(GOOD, mean=lambda a, keep: a.exp() * keep / keep.sum(-1, keepdim=True)),
            "mean: has weights that are not fin",
        ),
        (replace(GOOD, mean=lambda a, keep: masked_softmax(a + torch.rand(()), keep) * torch.rand(())), "mean: is random"),
        (
            replace(GOOD, sample=lambda a, keep, t: soft(a, keep, t).float()),
            "sample: torch.float64 alphas became torch.fl",
        ),
        (replace(GOOD, sample=lambda a, keep, t: soft(a, keep, t).sum(-1)), r"sample: \[4, 4\] alphas became \[4\] weights"),
        (replace(GOOD, sample=lambda a, keep, t: soft(a, keep, t).detach()), "sample: is not differentiable"),
        (replace(GOOD, sample=lambda a, keep, t: soft(a, keep, t) + 0 * a.sqrt()), "sample: has weights that are not finite"),
        (replace(GOOD, sample=lambda a, keep, t: soft(a, keep, t) + a - a.detach()), "a candidate that is gone has a gradient"),
        (replace(GOOD, sample=lambda a, keep, t: soft(a, keep, t) * random.random()), "two draws with the same seed"),
        (replace(GOOD, one_path=True), "one_path, but an edge has no single candidate"),
        (replace(GOOD, tempered=False), "sample: depends on the temperature"),
    ],
)
def test_a_relaxation_that_breaks_the_contract_is_found(relaxation: Relaxation, message: str) -> None:
    check_relaxation(GOOD)
    with pytest.raises(AssertionError, match=message):
        check_relaxation(relaxation)


class Own(nn.Module):
    """An operation that computes a function of the test's choice."""

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, state: Tensor) -> Tensor:
        return self.compute(state)


@pytest.mark.parametrize(
    ("compute", "error", "message"),
    [
        (lambda state: state / 0, AssertionError, "the supernet.*: logits are not finite"),
        (lambda state: state[:, :1].expand(-1, 3, -1, -1), RuntimeError, "size"),
    ],
)
def test_an_operation_that_does_not_fit_a_space_is_found(compute: Any, error: type[Exception], message: str) -> None:
    with OPERATIONS.temporarily():
        register_op("broken")(lambda channels, stride, affine: Own(compute))
        space = replace(get_space("nasbench201"), name="mine", candidates=("skip_connect", "broken"))
        with pytest.raises(error, match=message):
            check_space(space)


def test_a_space_of_ones_own_passes_unregistered() -> None:
    check_space(
        replace(get_space("nasbench201"), name="mine", candidates=("skip_connect", "nor_conv_1x1"), nodes=2, concat=(2,))
    )
