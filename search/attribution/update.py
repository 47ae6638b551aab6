"""The step of alphas along Shapley values (Shapley-NAS, Xiao et al. 2022)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import torch
from torch import Tensor

from base.checks import at_least, below_one, share, whole
from base.seeds import new_generator
from search.attribution.players import Players
from search.attribution.shapley import ShapleyEstimate, Value, sample_shapley
from training.metrics import Batch
from training.tasks.task import Batches, Dataset

Score = Callable[[Iterable[Batch], dict[str, Tensor]], float]
"""Score of the supernet over batches, under a mixture {kind: [..., edges, candidates]}."""


@dataclass
class ShapleyConfig:
    """The Shapley values that alphas move by once an epoch (Shapley-NAS, Xiao et al. 2022)."""

    permutations: int = 10
    """Permutations an estimate, in each of which candidates leave one by one until the score has
    fallen far. It evaluates the supernet once a permutation and candidate of an edge, and once
    more a permutation: 1,970 times in the DARTS space, if 10 permutations come to their end."""
    batch: int = 1024
    """Validation images a permutation, the same ones for all its evaluations; all, if there are
    fewer."""
    stop: float = 0.5
    """Share of the whole supernet's score below which a permutation stops; 0: never."""
    momentum: float = 0.8
    """Share of the moving average of the values that stays in an update."""
    step: float = 0.1
    """Step of the alphas along that average."""

    def __post_init__(self) -> None:
        whole(self, "permutations", "batch")
        share(self, "stop")
        below_one(self, "momentum")
        at_least(0, self, "step", most=1000)


class ShapleyUpdate:
    """Moves alphas by the Shapley values of the candidates, which are the players of a game whose
    value is the supernet's score on validation images (Xiao et al. 2022).

    Candidates leave one after another: their weights in the mixture become 0, and the others stay.
    A candidate is worth the mean of its contributions less their standard deviation, over the
    permutations; these worths have mean 0 and standard deviation 1 in each kind of cell, an
    exponential moving average takes them in, and the alphas take a step along that average.

    The authors' code decides what the paper leaves open: a candidate that was not reached before
    a stop has contributed 0, which counts in mean and deviation; the deviation over permutations is
    that of the population, the one over candidates that of a sample; the average begins with noise
    of the scale of the alphas. Here it differs from that code in four points. Validation images are
    not cropped and flipped at random. Each batch has its own statistics, where that code evaluates
    with running ones in every other epoch, by the mode that its last validation has left. Channels
    that bypass the candidates of an edge (`partial`) are gone with its last candidate, as in the
    selection by perturbation, where that code lets them pass. Candidates that are all worth the
    same move by the average alone, where that code divides by 0.
    """

    def __init__(self, config: ShapleyConfig, images: Dataset, alphas: Mapping[str, Tensor], seed: int, scale: float) -> None:
        """Draws permutations, and batches of the `images` of the validation level, from `seed`, and
        the first average, of standard deviation `scale`, for `alphas` {kind: [..., edges,
        candidates]}."""
        self.config = config
        self.images = min(config.batch, len(images))
        """Validation images a permutation."""
        self._all = len(images)
        self._batches: Batches = images.shuffled(self.images, seed, "shapley", augment=False)
        self._seed = seed
        generator = new_generator(seed, "shapley average")
        self.average = {
            kind: scale * torch.randn(alpha.shape, generator=generator, dtype=torch.float64) for kind, alpha in alphas.items()
        }
        """Moving average of the worths, float64 {kind: [..., edges, candidates]} on the CPU."""

    def cost(self, players: int) -> str:
        """Returns the most that an estimate with so many players costs, as a line of the log."""
        most = self.config.permutations * (players + 1)
        return (
            f"Shapley values of {players} candidates: at most {most:,} evaluations on {self.images:,} of the "
            f"{self._all:,} validation images"
        )

    def estimate(self, epoch: int, players: Players, mixture: Mapping[str, Tensor], score: Score) -> ShapleyEstimate:
        """Returns the Shapley values of the `players` in that mixture, by permutations and batches
        that depend on seed and epoch alone."""

        def value(batch: Batch, present: Tensor) -> float:
            return score([batch], players.under(mixture, present))

        values: Iterator[Value] = (partial(value, batch) for batch in self._fresh(epoch))
        return sample_shapley(len(players), values, new_generator(self._seed, "shapley", epoch), self.config.stop)

    def _fresh(self, epoch: int) -> Iterator[Batch]:
        """Yields a batch for each permutation: as many different ones as there are, then other
        divisions of the images."""
        passes = math.ceil(self.config.permutations / len(self._batches))
        numbers = range(epoch * passes, (epoch + 1) * passes)
        yield from islice(chain.from_iterable(map(self._batches.epoch, numbers)), self.config.permutations)

    @torch.no_grad()
    def move(self, alphas: Mapping[str, Tensor], players: Players, found: ShapleyEstimate) -> None:
        """Takes the estimate into the average and moves the `alphas` of the players along it, in
        place; the others stay."""
        worths = players.tables(found.mean - found.sd)
        for kind, there in players.keep.items():
            average = self.average[kind]
            fresh = average[there] * self.config.momentum + _standardised(worths[kind][there]) * (1 - self.config.momentum)
            average[there] = fresh
            alphas[kind].add_((self.config.step * average * there).to(alphas[kind]))


def _standardised(values: Tensor) -> Tensor:
    """Returns the values less their mean, over their standard deviation (that of a sample); zeros
    where they are all the same."""
    # Asked of the values themselves: their mean may differ from each by rounding.
    if not len(values) or values.min() == values.max():
        return torch.zeros_like(values)
    return (values - values.mean()) / values.std()
