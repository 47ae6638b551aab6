"""Greedy local search over architectures that are one edit apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from base.checks import InputError
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.sampler import Costs, Sampler, Scored, genome_of
from training.run.structure import Part, numeric, optional, rows, table, within


@dataclass
class LocalConfig:
    """The way that a neighbourhood is searched."""

    first_improvement: bool = True
    """Evaluate neighbours one by one, in random order, and move to the first that is better; false:
    evaluate all of them, and move to the best."""


@dataclass
class LocalSearchConfig(SamplingConfig):
    """Local search."""

    local: LocalConfig = field(default_factory=LocalConfig)
    """The way that a neighbourhood is searched."""


class LocalSampler(Sampler):
    """Local search (White et al. 2021) to better neighbours, begun again where there is none.

    It begins with a random architecture, each time.

    Neighbours are all architectures one edit away (`Encoding.neighbours`). A score that is known is
    used, not asked for again. It ends with the last architecture of the space. If some of the
    neighbours asked for at once are told, the others count as worse.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self.scores: dict[Genome, float] = {}
        """Scores of all architectures that were told."""
        self.here: Genome | None = None
        """The present architecture; None until a beginning has been told."""
        self.left: list[Genome] = []
        """Neighbours that are still to be asked for."""
        self.asked: list[Genome] = []
        """Neighbours, or architectures to begin at, that have been asked for."""

    def ask(self) -> list[Genome]:
        told = [genome for genome in self.asked if genome in self.scores]
        if self.here is None and told:
            self._move(self._best(told))
        one_by_one = self.config.local.first_improvement
        if self.here is not None and self.asked and not told and not one_by_one:
            return list(self.asked)
        while self.here is not None:
            better = self._better()
            if self.left and not (one_by_one and better):
                count = 1 if one_by_one else len(self.left)
                asked, self.left = self.left[:count], self.left[count:]
                self.asked += asked
                return asked
            self._move(better)
        return self._start()

    def tell(self, scored: Sequence[Scored]) -> None:
        self.scores.update(scored)

    def parts(self) -> dict[str, Part]:
        genome = genome_of(self.encoding)
        return super().parts() | {
            "scores": table(genome, numeric),
            "here": optional(genome),
            "left": rows(genome),
            "asked": rows(genome),
        }

    def structure(self) -> Part:
        whole = super().structure()

        def check(name: str, state: Any) -> None:
            whole(name, state)
            if state["here"] is not None and state["here"] not in state["scores"]:
                raise InputError(f"{within(name, 'here')}: is an architecture without a score")

        return check

    def _best(self, genomes: Sequence[Genome]) -> Genome:
        return max(genomes, key=lambda genome: self.scores[genome])

    def _better(self) -> Genome | None:
        """Returns the best neighbour of known score, if it is better than the present
        architecture."""
        assert self.here is not None
        known = [genome for genome in self.encoding.neighbours(self.here) if genome in self.scores]
        best = self._best([self.here, *known])
        return None if best == self.here else best

    def _move(self, to: Genome | None) -> None:
        self.here, self.left, self.asked = to, [], []
        if to is not None:
            self.left = [genome for genome in self.encoding.neighbours(to) if genome not in self.scores]
            if self.config.local.first_improvement:
                self.random.shuffle(self.left)

    def _start(self) -> list[Genome]:
        if len(self.scores) >= self.encoding.size:
            return []
        start = self.encoding.random(self.random)
        while start in self.scores:
            start = self.encoding.random(self.random)
        self.asked.append(start)
        return [start]
