"""A sampler whose best proposals alone, by a measure that costs little, are evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any

from search.sampling.encoding import Genome
from search.sampling.samplers.sampler import Sampler, Scored, genome_of
from search.sampling.trials import Evaluate
from training.run.structure import Part, optional, row, rows, share, table


class Prefiltered(Sampler):
    """A sampler that asks `inner` for `factor` times as many architectures as it passes on
    (Abdelfattah et al. 2021, section 5).

    They are ranked by `score`; one of `factor` is passed on, at least one, the best first. `inner`
    is told the scores of those alone. Architectures that Hyperband promotes to a larger share skip
    the filter. If `inner` has no more, fewer are ranked.
    """

    def __init__(self, inner: Sampler, score: Evaluate, factor: int, remembers: bool = True) -> None:
        """`remembers` says that `score` gives an architecture the same number each time, so that it
        is asked once; the score of weights that are trained meanwhile does not."""
        super().__init__(inner.encoding, inner.config, inner.seed, inner.costs)
        self.has_policy = inner.has_policy
        self.objective = inner.objective
        self.learns_while_weights_move = inner.learns_while_weights_move
        self._inner = inner
        self._score = score
        self._factor = factor
        self._remembers = remembers
        self._ranks: dict[Genome, float] = {}
        self._passed: dict[Genome, float] = {}
        """Share with which architectures have been passed on that were to be evaluated in part."""
        self._waiting: tuple[list[Genome], float] | None = None
        """Proposals that were asked for but have another share than those before them."""

    def begin(self, identity: Mapping[str, str]) -> None:
        self._inner.begin(identity)

    def ask(self) -> list[Genome]:
        asked, self.evaluation_share = self._next()
        again, new = self._parted(asked)
        # Each ask brings a proposal, so that more than `factor` asks are of no use.
        for _ in range(self._factor):
            if not new or len(new) >= self._factor:
                break
            asked, share = self._next()
            if asked and share != self.evaluation_share:
                self._waiting = asked, share
            if not asked or share != self.evaluation_share:
                break
            more_again, more_new = self._parted(asked)
            again, new = again + more_again, new + more_new
        best = sorted(dict.fromkeys(new), key=self._rank, reverse=True)[: max(1, len(new) // self._factor)]
        if self.evaluation_share < 1:
            self._passed.update(dict.fromkeys(best, self.evaluation_share))
        return again + best

    def tell(self, scored: Sequence[Scored]) -> None:
        self._inner.tell(scored)

    def draw(self) -> Genome:
        return self._inner.draw()

    def gathered(self) -> Sequence[Scored]:
        return self._inner.gathered()

    def readings(self) -> Mapping[str, float]:
        return self._inner.readings()

    def state_dict(self) -> dict[str, Any]:
        waiting = None if self._waiting is None else (list(self._waiting[0]), self._waiting[1])
        return {
            "inner": self._inner.state_dict(),
            "share": self.evaluation_share,
            "passed": dict(self._passed),
            "waiting": waiting,
        }

    def parts(self) -> dict[str, Part]:
        genome = genome_of(self.encoding)
        return {
            "inner": self._inner.structure(),
            "share": share,
            "passed": table(genome, share),
            "waiting": optional(row(rows(genome), share)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state["inner"])
        self.evaluation_share, self._passed, self._waiting = state["share"], dict(state["passed"]), state["waiting"]

    def _next(self) -> tuple[list[Genome], float]:
        """Returns the architectures that `inner` asks for next, and their share."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return waiting
        asked = list(self._inner.ask())
        return asked, self._inner.evaluation_share

    def _parted(self, asked: Sequence[Genome]) -> tuple[list[Genome], list[Genome]]:
        """Returns the architectures that were passed on with a smaller share, and the others."""
        again = [genome for genome in asked if self._passed.get(genome, 1.0) < self.evaluation_share]
        return again, [genome for genome in asked if genome not in again]

    def _rank(self, genome: Genome) -> float:
        if not self._remembers:
            return self._score(genome, 1.0)
        if genome not in self._ranks:
            self._ranks[genome] = self._score(genome, 1.0)
        return self._ranks[genome]
