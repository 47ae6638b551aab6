"""Genetic operators without a state: the choice of parents, and the child of two parents.

Mutations belong to the space: see `Encoding`. More of a score is better.
"""

from collections.abc import Sequence
from random import Random

from search.sampling.encoding import Genome


def tournament(scores: Sequence[float], size: int, random: Random) -> int:
    """Returns the index of the best of `size` drawn with replacement; of equals the first drawn.

    Of n different scores, the r-th best is chosen with the probability ((n - r + 1)^size - (n -
    r)^size) / n^size.
    """
    return max((random.randrange(len(scores)) for _ in range(size)), key=lambda index: scores[index])


def roulette(scores: Sequence[float], random: Random) -> int:
    """Draws an index with a probability in proportion to its fitness, the score minus the smallest
    one.

    So scores may be negative, and the worst is never drawn; if all are equal, all have the same
    chance.
    """
    least = min(scores)
    fitness = [score - least for score in scores]
    if not any(fitness):
        return random.randrange(len(scores))
    return random.choices(range(len(scores)), fitness)[0]


def crossover(one: Genome, other: Genome, blocks: Sequence[Sequence[int]], points: int, random: Random) -> Genome:
    """Returns a child that has the first blocks of `one`, and changes parent at each of `points`
    cuts.

    `blocks` are places of a genome that stay together (`Encoding.blocks`). All sets of cuts between
    them have the same chance. Raises ValueError if there are fewer places to cut than `points`.
    """
    cuts = set(random.sample(range(1, len(blocks)), points))
    child = list(one)
    from_other = False
    for number, block in enumerate(blocks):
        from_other ^= number in cuts
        if from_other:
            for place in block:
                child[place] = other[place]
    return tuple(child)
