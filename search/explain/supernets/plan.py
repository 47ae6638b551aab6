"""The cost of the explanation of a differentiable search, and its division.

The unit is a pass: a batch of the search's size that goes once through the supernet, without
gradients. A step of the search costs several, as gradients do: measured on a CPU, three for the
weights and two for the alphas.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from base.checks import FieldError
from search.differentiable.relaxations import get_relaxation
from search.explain.supernets.measures import players_of
from search.explain.supernets.trained import LEAST_BATCHES, TrainedSupernet
from training.metrics import Batch
from training.run.monitor import Bar

WEIGHT_STEP, ALPHA_STEP = 3, 2
"""Passes that a step costs: of the weights, and of the alphas."""
DEFAULT = 0.75
"""The default budget, in epochs of the search, unless the least explanation costs more."""
PERMUTATIONS = 10
"""The most permutations for Shapley values, as many as Shapley-NAS has."""
MOST_OF_PERMUTATION = 1024
"""The most images that a permutation sees, as many as in Shapley-NAS; and `USUAL_OF_PERMUTATION`
while they can be paid."""
USUAL_OF_PERMUTATION = 64
_LEAST = 16  # images for an estimate at all
_MARGINS, _RANKING, _GRADIENT = 0.4, 0.45, 0.1  # shares, each of what is left after those before it


@dataclass(frozen=True)
class Plan:
    """The examples that each part of an explanation sees."""

    batch: int
    """Examples of a pass."""
    margins: int
    """Examples for the margins of the operations of the derived cells."""
    ranking: int
    """Examples for the perturbation of all candidates."""
    gradient: int
    """Examples for gradients."""
    permutation: int
    """Examples that each permutation sees."""
    players: int
    """Candidates that a permutation takes away."""
    for_shapley: int
    """The most examples that may go through the supernet for Shapley values."""
    most: int
    """The most examples that go through it in all."""
    of_epoch: float
    """Examples that could go through it in the time of an epoch of the search."""

    @property
    def passes(self) -> int:
        """Returns the most passes in all."""
        return math.ceil(self.most / self.batch)

    @property
    def epochs(self) -> float:
        """Returns them as a share of an epoch of the search."""
        return self.most / self.of_epoch


class Account:
    """The images that went through the supernet so far, shown by a bar."""

    def __init__(self, bar: Bar) -> None:
        self.images = 0
        self._bar = bar

    def __call__(self, images: int) -> None:
        self.images += images
        self._bar.advance(images)


def plan(supernet: TrainedSupernet, budget: int | None) -> Plan:
    """Divides a budget in passes; None: `DEFAULT` of an epoch, or the least that is possible where
    that is more.

    Raises FieldError for a budget that is too small for one permutation beside all the rest.
    """
    config, count = supernet.config, len(supernet.valid)
    players = len(players_of(supernet))
    chosen = len(supernet.weighed)
    # Images through the supernet for each example that a part sees: once as it is, once without each
    # candidate. Single margins, all together, and one after another.
    price = {"margins": 2 * chosen + 2, "ranking": players + 1, "gradient": 2, "permutation": players + 1}
    sees = {name: min(count, _LEAST) for name in price} | {"margins": min(count, _LEAST * LEAST_BATCHES // 2)}

    def cost() -> int:
        return sum(price[name] * sees[name] for name in price)

    of_epoch = _of_epoch(supernet)
    least = cost()
    images = max(least, round(DEFAULT * of_epoch)) if budget is None else budget * config.batch_size
    if images < least:
        raise FieldError(
            "budget",
            f"{budget} passes of {config.batch_size} images are too few for one permutation of the {players} operations and "
            f"the margins beside it; give at least {math.ceil(least / config.batch_size)}",
        )
    for name, share in (("gradient", _GRADIENT), ("margins", _MARGINS), ("ranking", _RANKING)):
        sees[name] = min(count, sees[name] + int(share * (images - cost()) / price[name]))
    left = images - cost() + price["permutation"] * sees["permutation"]
    affordable = left // price["permutation"]
    several = left // (PERMUTATIONS * price["permutation"])
    size = min(count, MOST_OF_PERMUTATION, max(several, min(affordable, USUAL_OF_PERMUTATION)))
    whole = supernet.most_in_batch
    sees["permutation"] = size if size < whole else size // whole * whole
    for_shapley = min(left, PERMUTATIONS * price["permutation"] * sees["permutation"])
    most = cost() - price["permutation"] * sees["permutation"] + for_shapley
    return Plan(config.batch_size, **sees, players=players, for_shapley=for_shapley, most=most, of_epoch=of_epoch)


def _of_epoch(supernet: TrainedSupernet) -> float:
    """Returns the number of examples that could go through the supernet in the time of an epoch of
    the search."""
    config = supernet.config
    step = WEIGHT_STEP + (ALPHA_STEP if supernet.has_alpha_steps else 0)
    # A step of a single path has one of the candidates of each edge.
    edges = [int(count) for table in supernet.keep.values() for count in table.sum(-1) if count]
    share = len(edges) / sum(edges) if get_relaxation(config.relaxation.name).one_path else 1.0
    return share * step * supernet.steps_of_epoch * config.batch_size


def permutations(supernet: TrainedSupernet, plan: Plan, seed: int, account: Account) -> Iterator[Sequence[Batch]]:
    """Yields the examples of each permutation, fresh ones as long as there are some, while another
    permutation can be paid for even if nothing stops it; one in any case."""
    size = min(plan.permutation, supernet.most_in_batch)
    begun, worst = account.images, (plan.players + 1) * plan.permutation
    with closing(supernet.valid.shuffled(size, seed, "permutations", augment=False)) as batches:
        fresh = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
        for number in range(PERMUTATIONS):
            if number and account.images - begun + worst > plan.for_shapley:
                return
            yield list(itertools.islice(fresh, plan.permutation // size))
