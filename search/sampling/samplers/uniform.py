"""Random search: architectures drawn uniformly, wholly evaluated each, or most of them in part
(Hyperband)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from base.checks import FieldError, InputError, between
from base.texts import show
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.sampler import Costs, Sampler, Scored, genome_of, scored_of
from training.run.structure import Part, integer, rows, within


@dataclass
class HalvingConfig:
    """Many architectures are evaluated in part and the best of them further: Hyperband (Li et al.
    2018, algorithm 1)."""

    eta: int = 0
    """One of so many goes on, with an evaluation so many times as large; 3 and 4 are usual. 0: all
    evaluations are whole."""
    smallest: float = 0.037
    """With eta: the smallest share of a whole evaluation. Shares are 1, 1 / eta, 1 / eta^2 ... down
    to it."""

    def __post_init__(self) -> None:
        if self.eta != 0 and self.eta < 2:
            raise FieldError("eta", f"must be 0 (whole evaluations) or at least 2, not {show(self.eta)}")
        between(0, 10_000, self, "eta")  # the smallest share is 1e-4
        if not 1e-4 <= self.smallest <= 1 / max(1, self.eta):
            most = f"1 / eta = {1 / self.eta:.4g}" if self.eta else "1"
            raise FieldError("smallest", f"must be from 0.0001 to {most}, not {show(self.smallest)}")

    @property
    def deepest(self) -> int:
        """Returns s_max of the paper: how often a whole evaluation can be divided by eta.

        Brackets are s = s_max, ..., 1, 0.
        """
        deepest = 0
        while self.eta and self.eta ** (deepest + 1) * self.smallest <= 1:
            deepest += 1
        return deepest

    def first(self, bracket: int) -> int:
        """Returns n of the paper: the architectures that bracket s begins with, each evaluated to
        the share eta^-s."""
        return -(-(self.deepest + 1) * self.eta**bracket // (bracket + 1))


@dataclass
class RandomSearchConfig(SamplingConfig):
    """Random search with shared weights."""

    halving: HalvingConfig = field(default_factory=HalvingConfig)
    """Evaluations in part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.halving.eta and self.evaluate != "supernet":
            raise FieldError("halving.eta", f"{self.evaluate} has no evaluations in part; set it to 0 or evaluate to supernet")


class UniformSampler(Sampler):
    """Random search with weight sharing (Li & Talwalkar 2019): one architecture an ask, all with
    the same chance.

    With `halving` an ask is for a rung of a bracket. The first rung is new architectures until as
    many have been told as the bracket begins with; a later one is the best 1 / eta of those told in
    the rung before, at least one. A later rung that is asked for again before any of it was told is
    the same; once some are told, the others drop out.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self.bracket: int = config.halving.deepest
        """The number of the bracket, s of the paper."""
        self.rung = 0
        """The number of the rung, i of the paper."""
        self.survivors: list[Genome] = []
        """Architectures of a later rung."""
        self.told: list[Scored] = []
        """Scores of this rung."""

    def ask(self) -> list[Genome]:
        halving: HalvingConfig = self.config.halving
        if not halving.eta:
            return [self.encoding.random(self.random)]
        if len(self.told) >= (1 if self.rung else halving.first(self.bracket)):
            self._next_rung()
        self.evaluation_share = 1 / halving.eta ** (self.bracket - self.rung)
        if self.rung:
            return list(self.survivors)
        return [self.encoding.random(self.random) for _ in range(halving.first(self.bracket) - len(self.told))]

    def tell(self, scored: Sequence[Scored]) -> None:
        if self.config.halving.eta:
            # A score that comes late belongs to another rung, a smaller share.
            self.told += [(genome, score) for genome, score in scored if not self.rung or genome in self.survivors]

    def parts(self) -> dict[str, Part]:
        return super().parts() | {
            "bracket": integer(0, self.config.halving.deepest),
            "rung": integer(),
            "survivors": rows(genome_of(self.encoding)),
            "told": scored_of(self.encoding),
        }

    def structure(self) -> Part:
        whole = super().structure()

        def check(name: str, state: Any) -> None:
            whole(name, state)
            integer(0, state["bracket"])(within(name, "rung"), state["rung"])
            if bool(state["rung"]) != bool(state["survivors"]):
                raise InputError(f"{within(name, 'survivors')}: there are {len(state['survivors'])} in rung {state['rung']}")

        return check

    def _next_rung(self) -> None:
        halving: HalvingConfig = self.config.halving
        if self.rung < self.bracket:
            best = sorted(dict(self.told).items(), key=lambda scored: scored[1], reverse=True)
            self.survivors = [genome for genome, _ in best[: max(1, len(self.told) // halving.eta)]]
            self.rung += 1
        else:
            self.bracket = (self.bracket or halving.deepest + 1) - 1
            self.rung, self.survivors = 0, []
        self.told = []
