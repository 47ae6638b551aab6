"""A controller and genetic operators that propose architectures from, and learn from, one
population."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from base.checks import FieldError, choices, share, whole
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.operators import crossover, tournament
from search.sampling.samplers.reinforce import ControllerConfig, Experience, PolicySampler, experiences_of
from search.sampling.samplers.sampler import Costs, Scored
from supernet import get_space
from training.run.structure import Part

Survival = Literal["ageing", "elitist"]


@dataclass
class HybridConfig:
    """The population, and the share of each proposer."""

    share: float = 0.5
    """Proposals of the controller, as a share; the others are children of the population."""
    population: int = 30
    """Architectures alive, of either proposer. While there are fewer, random ones take the place
    of children."""
    survival: Survival = "ageing"
    """ageing: the last ones that were told live; elitist: the best of all, each once, however
    long ago their scores were made."""
    tournament: int = 10
    """Architectures drawn, the best of which is a parent."""
    crossover_share: float = 0.5
    """Children that have two parents, as a share; all children are mutated."""
    crossover_points: int = 1
    """Places where a child changes from one parent to the other."""
    edge_share: float = 0.2
    """Mutations that move an operation to another edge, as a share; the others change an
    operation."""

    def __post_init__(self) -> None:
        choices(self)
        whole(self, "population", "tournament", "crossover_points")
        share(self, "share", "crossover_share", "edge_share")


@dataclass
class HybridSearchConfig(SamplingConfig):
    """The hybrid."""

    controller: ControllerConfig = field(default_factory=lambda: ControllerConfig(replay_epochs=4))
    """The controller, and how it learns."""
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    """The population, and the share of each proposer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks, points = len(Encoding(get_space(self.space), self.exclude).blocks), self.hybrid.crossover_points
        if self.hybrid.crossover_share and points >= blocks:
            raise FieldError(
                "hybrid.crossover_points", f"space {self.space} can be cut in {blocks - 1} places, not in {points}"
            )


class HybridSampler(PolicySampler):
    """A controller that proposes and genetic operators that refine, with one population.

    It is meant to find good architectures with as few evaluations as evolution, to have a policy
    along which shared weights can be trained, and to explore by the policy where operators have
    converged.

    Each architecture asked for is the controller's with the chance `share`, else a child: the
    winner of a tournament, perhaps crossed with another winner, and mutated. All architectures that
    are told enter the population. The controller makes a step of REINFORCE from its own proposals,
    and `replay_epochs` with clipped importance weights from the population, in which a child counts
    as proposed with the probability that it had when it was told.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self.population: list[Experience] = []

    def ask(self) -> list[Genome]:
        batch, share = self.config.controller.batch, self.config.hybrid.share
        own = sum(self.random.random() < share for _ in range(batch))
        children = [self._child() for _ in range(batch - own)]
        # From now on these count as children, even if the controller once proposed them.
        self.proposed = {genome: log_prob for genome, log_prob in self.proposed.items() if genome not in children}
        return (self.propose(own) if own else []) + children

    def tell(self, scored: Sequence[Scored]) -> None:
        if not scored:
            return
        told = self.experiences(scored)
        if own := [one for one in told if one[0] in self.proposed]:
            self.policy.learn(own)
        self.population = self._survivors([*self.population, *told])
        self.policy.replay(self.population)

    def parts(self) -> dict[str, Part]:
        return super().parts() | {"population": experiences_of(self.encoding)}

    def _child(self) -> Genome:
        options: HybridConfig = self.config.hybrid
        if len(self.population) < options.population:
            return self.encoding.random(self.random)
        child = self._parent()
        if self.random.random() < options.crossover_share:
            child = crossover(child, self._parent(), self.encoding.blocks, options.crossover_points, self.random)
        return self.encoding.mutate(child, self.random, options.edge_share)

    def _parent(self) -> Genome:
        scores = [score for _, score, _ in self.population]
        return self.population[tournament(scores, self.config.hybrid.tournament, self.random)][0]

    def _survivors(self, members: Sequence[Experience]) -> list[Experience]:
        """Returns the survivors of the population and the architectures told after it, in that
        order."""
        count = self.config.hybrid.population
        if self.config.hybrid.survival == "ageing":
            return list(members[-count:])
        latest = {genome: (genome, score, log_prob) for genome, score, log_prob in members}
        return sorted(latest.values(), key=lambda one: one[1], reverse=True)[:count]
