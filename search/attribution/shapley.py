"""Shapley values of the players of a game (Shapley 1953): by enumeration, and by sampled
permutations.

A game gives every set of players a value. The Shapley value of a player is the mean, over all
orders in which the players may leave, of the fall of the value as the player leaves. All of them
together are the value of all players less that of none.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

Value = Callable[[Tensor], float]
"""The value of a set of players, bool [players] on the CPU: true for those that are in it."""
MOST_ENUMERATED = 20
"""The most players whose sets are enumerated: a million sets."""


@dataclass(frozen=True)
class ShapleyEstimate:
    """An estimate of Shapley values from sampled permutations."""

    contributions: Tensor
    """Fall of the value as each player left, float64 [permutations, players]; 0 for players that
    had not left when a permutation stopped."""
    reached: Tensor
    """Whether a player left before the permutation stopped, bool [permutations, players]."""
    whole: Tensor
    """Value of all players in each permutation, float64 [permutations]."""
    evaluations: int
    """Number of sets whose value was taken."""

    @property
    def mean(self) -> Tensor:
        """Returns the estimated Shapley values, float64 [players].

        Players that were not reached count as 0. Without a stop the estimate is unbiased.
        """
        return self.contributions.mean(0)

    @property
    def sd(self) -> Tensor:
        """Returns the standard deviation of each player's contributions over the permutations,
        float64 [players].

        It is that of the population (divided by the number of permutations), as Shapley-NAS takes
        it.
        """
        return self.contributions.std(0, correction=0)

    @property
    def counts(self) -> Tensor:
        """Returns the number of permutations in which each player was reached, int64 [players]."""
        return self.reached.sum(0)


def sample_shapley(players: int, values: Iterable[Value], generator: torch.Generator, stop: float = 0.0) -> ShapleyEstimate:
    """Estimates Shapley values by random permutations of so many players (Castro, Gomez & Tejada
    2009), with the stop of Shapley-NAS (Xiao et al. 2022).

    There is one permutation for each of `values`, and in it the value function that it gives: each
    may look at other data (`itertools.repeat(value, 10)` has the same ten times). The next one is
    asked for when a permutation is over, so that an iterator can end on a budget. The permutations
    come from `generator` alone.

    A permutation stops once the value is below `stop` times that of all players; for a negative
    value, such as a loss with its sign changed, once it fell by more than 1 - `stop` of its size. 0
    never stops. Players that have not left by then have contributed 0, which saves time and biases
    the estimate.

    Raises ValueError if there are no players, no `values`, or `stop` is not from 0 to 1.
    """
    if players < 1:
        raise ValueError(f"players: at least 1, not {players}")
    if not 0 <= stop <= 1:
        raise ValueError(f"stop: from 0 (never) to 1, not {stop}")
    contributions, reached, wholes, evaluations = [], [], [], 0
    for value in values:
        present = torch.ones(players, dtype=torch.bool)
        fell = torch.zeros(players, dtype=torch.float64)
        last = whole = value(present.clone())
        for player in torch.randperm(players, generator=generator).tolist():
            present[player] = False
            now = value(present.clone())
            fell[player] = last - now
            last = now
            if stop and now < whole - (1 - stop) * abs(whole):
                break
        contributions.append(fell)
        reached.append(~present)
        wholes.append(whole)
        evaluations += 1 + int((~present).sum())
    if not wholes:
        raise ValueError("values: there is none, and each is a permutation")
    return ShapleyEstimate(
        torch.stack(contributions), torch.stack(reached), torch.tensor(wholes, dtype=torch.float64), evaluations
    )


def exact_shapley(players: int, value: Value) -> Tensor:
    """Returns the Shapley values, float64 [players], from the values of all 2 ** `players` sets.

    It is the reference of `sample_shapley`, and the way for a cell that is small enough. Raises
    ValueError for fewer than 1 or more than `MOST_ENUMERATED` players.
    """
    if not 1 <= players <= MOST_ENUMERATED:
        raise ValueError(f"players: from 1 to {MOST_ENUMERATED}, not {players}")
    sets = torch.arange(2**players)
    present = (sets.unsqueeze(-1) >> torch.arange(players) & 1).bool()
    values = torch.tensor([value(row.clone()) for row in present], dtype=torch.float64)
    sizes = present.sum(-1)
    # Of the orders of all players, the share in which just this set is left as the player leaves.
    shares = torch.tensor([1 / (players * comb(players - 1, size)) for size in range(players)], dtype=torch.float64)
    found = []
    for player in range(players):
        without = sets[~present[:, player]]
        found.append((shares[sizes[without]] * (values[without | 1 << player] - values[without])).sum())
    return torch.stack(found)
