"""Evolution of architectures: ageing, in generations, or for two objectives (NSGA-II)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from base.checks import FieldError, between, choices, share, whole
from base.registry import Registry
from base.texts import show
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.pareto import crowding_distances, non_dominated_fronts
from search.sampling.samplers.operators import crossover, roulette, tournament
from search.sampling.samplers.sampler import Costs, Sampler, Scored, scored_of
from supernet import get_space
from training.run.structure import Part

Selection = Literal["tournament", "roulette"]
Objective = Literal["parameters", "multiply_adds", "latency_ms"]


@dataclass
class EvolutionConfig:
    """The rules of who lives, who has children, and how children differ from parents."""

    name: str = "ageing"
    """ageing: the best of a sample has a child, and the oldest dies; generational: children replace
    all but the elite; nsga2: for a high score and a small cost, the least dominated of parents and
    children live; or one that was registered."""
    population: int = 100
    """Architectures alive; the first ones are random."""
    sample: int = 25
    """ageing: architectures drawn, with replacement, the best of which has the child."""
    edge_share: float = 0.2
    """Mutations that move an operation to another edge, as a share; the others change an
    operation."""
    selection: Selection = "tournament"
    """generational: parents are the best of a few that are drawn (tournament), or drawn in
    proportion to the score minus the smallest score (roulette)."""
    tournament: int = 5
    """generational: architectures drawn for a tournament."""
    elite: int = 5
    """generational: the best that live on."""
    crossover_share: float = 0.9
    """generational, nsga2: children that have two parents, as a share."""
    crossover_points: int = 1
    """generational, nsga2: places where a child changes from one parent to the other."""
    mutation_share: float = 1.0
    """generational, nsga2: children that are mutated, as a share."""
    objective: Objective = "parameters"
    """nsga2: the cost that shall be small: parameters, multiply_adds or latency_ms."""

    def __post_init__(self) -> None:
        if self.name not in SCHEMES:
            raise FieldError("name", SCHEMES.unknown(self.name))
        choices(self)
        whole(self, "population", "sample", "tournament", "crossover_points")
        share(self, "edge_share", "crossover_share", "mutation_share")
        between(0, 2**31 - 1, self, "elite", said="from 0 to below population")
        if self.name == "generational" and not 0 <= self.elite < self.population:
            raise FieldError("elite", f"must be from 0 to below population = {self.population}, not {show(self.elite)}")
        if self.name != "ageing" and not self.crossover_share and not self.mutation_share:
            raise FieldError("mutation_share", "must be above 0 where crossover_share is 0, or nothing changes")


@dataclass
class EvolutionSearchConfig(SamplingConfig):
    """Evolution."""

    evaluations: int = 1000
    """Architectures to evaluate with the trained weights (or table, or proxy)."""
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    """The algorithm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        evolution = self.evolution
        if evolution.population >= self.evaluations:
            raise FieldError(
                "evolution.population",
                f"must be below evaluations = {self.evaluations}, or none has a child, not {evolution.population}",
            )
        blocks = len(Encoding(get_space(self.space), self.exclude).blocks)
        if evolution.name != "ageing" and evolution.crossover_share and evolution.crossover_points >= blocks:
            raise FieldError(
                "evolution.crossover_points",
                f"space {self.space} can be cut in {blocks - 1} places, not in {evolution.crossover_points}",
            )


class Scheme(ABC):
    """An algorithm of evolution: the way of `EvolutionSampler` from one generation to the next."""

    def __init__(self, encoding: Encoding, options: EvolutionConfig, random: Random, costs: Costs | None) -> None:
        self.encoding = encoding
        self.options = options
        self.random = random

    @property
    @abstractmethod
    def children(self) -> int:
        """Number of children of a generation."""

    @abstractmethod
    def child(self, population: Sequence[Scored]) -> Genome:
        """Returns one architecture of the next generation."""

    @abstractmethod
    def survivors(self, population: Sequence[Scored], children: Sequence[Scored]) -> list[Scored]:
        """Returns the next population, from the present one, empty at first, and its children."""

    def _bred(self, parent: Callable[[], Genome]) -> Genome:
        """Returns a child by crossover and mutation of parents that `parent` chooses."""
        options = self.options
        child = parent()
        if self.random.random() < options.crossover_share:
            child = crossover(child, parent(), self.encoding.blocks, options.crossover_points, self.random)
        if self.random.random() < options.mutation_share:
            child = self.encoding.mutate(child, self.random, options.edge_share)
        return child


SCHEMES: Registry[type[Scheme]] = Registry("scheme")


def register_scheme(name: str) -> Callable[[type[Scheme]], type[Scheme]]:
    """Makes the decorated class the scheme `name`, for `--evolution.name`.

    Raises InputError where another has the name.
    """
    return SCHEMES.register(name)


@register_scheme("ageing")
class _Ageing(Scheme):
    """Regularised evolution (Real et al. 2019, algorithm 1); the population is in the order of
    birth."""

    children = 1

    def child(self, population: Sequence[Scored]) -> Genome:
        parent, _ = population[tournament([score for _, score in population], self.options.sample, self.random)]
        return self.encoding.mutate(parent, self.random, self.options.edge_share)

    def survivors(self, population: Sequence[Scored], children: Sequence[Scored]) -> list[Scored]:
        return [*population, *children][-self.options.population :]


@register_scheme("generational")
class _Generational(Scheme):
    """The genetic algorithm of the textbooks (Goldberg 1989), with an elite."""

    @property
    def children(self) -> int:
        return self.options.population - self.options.elite

    def child(self, population: Sequence[Scored]) -> Genome:
        scores = [score for _, score in population]

        def parent() -> Genome:
            if self.options.selection == "roulette":
                return population[roulette(scores, self.random)][0]
            return population[tournament(scores, self.options.tournament, self.random)][0]

        return self._bred(parent)

    def survivors(self, population: Sequence[Scored], children: Sequence[Scored]) -> list[Scored]:
        elite = _best(population, self.options.elite)
        return elite + _best(children, self.options.population - len(elite))


@register_scheme("nsga2")
class _Nsga2(Scheme):
    """NSGA-II (Deb et al. 2002, section III); the population is in the order of the crowded
    comparison, the best first.

    One of equal architectures lives: the space is finite, and copies would fill the first front.
    """

    def __init__(self, encoding: Encoding, options: EvolutionConfig, random: Random, costs: Costs | None) -> None:
        super().__init__(encoding, options, random, costs)
        known: Mapping[str, float] = costs(encoding.of_values([0] * len(encoding.variables))) if costs is not None else {}
        if costs is None or options.objective not in known:
            raise FieldError(
                "evolution.objective",
                f"{options.objective} of an architecture is not known here, but "
                f"{', '.join(known) or 'nothing'}; --latency measured, or a column of the table, adds latency_ms",
            )
        self.costs = costs

    @property
    def children(self) -> int:
        return self.options.population

    def child(self, population: Sequence[Scored]) -> Genome:
        places = [-place for place in range(len(population))]
        return self._bred(lambda: population[tournament(places, 2, self.random)][0])

    def survivors(self, population: Sequence[Scored], children: Sequence[Scored]) -> list[Scored]:
        members = list(dict([*population, *children]).items())
        points = [(-score, self.costs(genome)[self.options.objective]) for genome, score in members]
        ranked: list[Scored] = []
        for front in non_dominated_fronts(points):
            distances = crowding_distances([points[index] for index in front])
            order = sorted(range(len(front)), key=lambda number: distances[number], reverse=True)
            ranked += [members[front[number]] for number in order]
        return ranked[: self.options.population]


class EvolutionSampler(Sampler):
    """Evolution by the algorithm that `evolution.name` names.

    A generation ends when all of its children have been told. Asked before that, the sampler asks
    for others in place of those that are missing, from the same parents. The first generation is
    random.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        if config.evolution.name == "nsga2":
            self.objective = config.evolution.objective
        self.scheme = SCHEMES[config.evolution.name](encoding, config.evolution, self.random, costs)
        self.population: list[Scored] = []
        self.children: list[Scored] = []

    def ask(self) -> list[Genome]:
        missing = self._generation - len(self.children)
        if not self.population:
            return [self.encoding.random(self.random) for _ in range(missing)]
        return [self.scheme.child(self.population) for _ in range(missing)]

    def tell(self, scored: Sequence[Scored]) -> None:
        self.children += scored
        if len(self.children) >= self._generation:
            self.population = self.scheme.survivors(self.population, self.children)
            self.children = []

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        del state["scheme"]
        return state

    def parts(self) -> dict[str, Part]:
        scored = scored_of(self.encoding)
        return super().parts() | {"population": scored, "children": scored}

    @property
    def _generation(self) -> int:
        return self.scheme.children if self.population else self.config.evolution.population


def _best(scored: Sequence[Scored], count: int) -> list[Scored]:
    """Returns the best `count`; of equals the first."""
    return sorted(scored, key=lambda one: one[1], reverse=True)[:count]
