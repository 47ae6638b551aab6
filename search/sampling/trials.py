"""The evaluations of a sampling search: asked for, made, counted and told."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from base.checks import InputError
from search.sampling.encoding import Genome
from search.sampling.samplers.sampler import Sampler, Scored, genome_of
from training.run.structure import Part, fields, numeric, row, rows, share, truth, within

Evaluate = Callable[[Genome, float], float]
"""The score of an architecture from a share of a whole evaluation, as it is maximised; more is
better."""
_ROUNDING = 1e-9  # rounding of sums of shares


@dataclass(frozen=True)
class Trial:
    """One evaluation."""

    genome: Genome
    score: float
    """The score as it is maximised; more is better."""
    share: float
    """Share of a whole evaluation that it was."""


class Trials:
    """The evaluations of `sampler`'s proposals; a whole evaluation costs 1, a part its share.

    An architecture that is asked for again costs again, as in the published comparisons, but is not
    evaluated again.
    """

    def __init__(self, sampler: Sampler, evaluate: Evaluate) -> None:
        self.sampler = sampler
        self.evaluate = evaluate
        self.done: list[Trial] = []
        self.spent = 0.0
        """Cost of all trials that are done, in whole evaluations."""
        self.exhausted = False
        """Whether the sampler has nothing more to ask for."""
        self._asked: list[Genome] = []
        self._share = 1.0
        self._scored: list[Scored] = []
        self._known: dict[tuple[Genome, float], float] = {}

    def advance(self, until: float) -> list[Trial]:
        """Goes on until the cost is `until` or the sampler is done; returns the new trials."""
        first = len(self.done)
        while self.spent < until - _ROUNDING and not self.exhausted:
            if not self._asked:
                self._asked, self._share, self._scored = list(self.sampler.ask()), self.sampler.evaluation_share, []
            if not self._asked:
                self.exhausted = True
                break
            genome = self._asked[len(self._scored)]
            key = (genome, self._share)
            if key not in self._known:
                self._known[key] = self.evaluate(genome, self._share)
            self._scored.append((genome, self._known[key]))
            self.done.append(Trial(genome, self._known[key], self._share))
            self.spent += self._share
            if len(self._scored) == len(self._asked):
                self.sampler.tell(self._scored)
                self._asked = []
        return self.done[first:]

    def best(self) -> Trial | None:
        """Returns the best of the trials that were whole evaluations, the first of equals; None
        before there is one."""
        whole = (trial for trial in self.done if trial.share == 1)
        return max(whole, key=lambda trial: trial.score, default=None)

    def state_dict(self) -> dict[str, Any]:
        return {
            "sampler": self.sampler.state_dict(),
            "done": [(trial.genome, trial.score, trial.share) for trial in self.done],
            "asked": self._asked,
            "share": self._share,
            "scored": self._scored,
            "exhausted": self.exhausted,
        }

    def structure(self) -> Part:
        """Returns the structure that `state_dict` has."""
        of_genome = genome_of(self.sampler.encoding)
        whole_state = fields(
            {
                "sampler": self.sampler.structure(),
                "done": rows(row(of_genome, numeric, share)),
                "asked": rows(of_genome),
                "share": share,
                "scored": rows(row(of_genome, numeric)),
                "exhausted": truth,
            }
        )

        def check(name: str, value: Any) -> None:
            whole_state(name, value)
            asked, scored = value["asked"], value["scored"]
            told = [genome for genome, _ in scored]
            if asked and (not 0 < len(told) < len(asked) or told != asked[: len(told)]):
                raise InputError(f"{within(name, 'scored')}: is not of the first architectures in asked")
            if asked and scored != [trial[:2] for trial in value["done"][-len(scored) :]]:
                raise InputError(f"{within(name, 'done')}: does not end with what is in scored")

        return check

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state["sampler"])
        self.done = [Trial(*trial) for trial in state["done"]]
        self.spent = 0.0
        for trial in self.done:
            self.spent += trial.share
        self._asked, self._share, self._scored = list(state["asked"]), state["share"], list(state["scored"])
        self.exhausted = state["exhausted"]
        self._known = {(trial.genome, trial.share): trial.score for trial in self.done}
