"""Architectures that a predictor of scores proposes, drawn by Thompson sampling."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.predictors import Ensemble, GaussianProcess, Predictor
from search.sampling.samplers.sampler import Costs, Sampler, Scored, genome_of
from training.run.structure import Part, fields, numeric, random_state, rows, table

ENCODINGS = {"bananas": "path", "gp": "one_hot"}
"""The encoding that a model is given by default."""
BATCH = 10
"""Number of proposals from one fit by default."""
PARENTS = 10
"""Number of the best architectures so far whose mutations are candidates."""
MUTATIONS = 100
"""Number of candidates that are mutations, the same for each parent."""
RANDOM = 100
"""Number of candidates that are drawn at random."""
EDGE_SHARE = 0.1
"""Share of mutations that move an operation to another edge."""


class ModelBasedSampler(Sampler):
    """A sampler that begins at random, then proposes by a predictor that learns from all scores.

    Candidates are mutations of the best architectures so far and some random ones, without those
    that were evaluated. The predictor's normal distribution gives each a drawn score, and the
    highest are asked for: independent Thompson sampling, as in BANANAS (White et al. 2021). Asked
    again before it is told, it proposes others. When it has asked for every architecture of the
    space, it ends.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        bayes = config.bayes
        self._features = encoding.features[bayes.encoding or ENCODINGS[bayes.model]]
        self._predictor: Predictor = Ensemble(seed) if bayes.model == "bananas" else GaussianProcess()
        self._scores: dict[Genome, float] = {}
        """Scores of all architectures that were told."""
        self._asked: list[Genome] = []
        """Architectures asked for since the last tell."""

    def ask(self) -> list[Genome]:
        bayes, known = self.config.bayes, {*self._scores, *self._asked}
        if len(self._scores) < bayes.initial:
            proposed = self._draw(bayes.initial - len(self._scores), known)
        else:
            proposed = self._propose(bayes.batch or BATCH, known)
        self._asked += proposed
        return proposed

    def tell(self, scored: Sequence[Scored]) -> None:
        self._scores.update(scored)
        self._asked = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": self.random.getstate(),
            "scores": dict(self._scores),
            "asked": list(self._asked),
            "predictor": self._predictor.state_dict(),
        }

    def parts(self) -> dict[str, Part]:
        genome = genome_of(self.encoding)
        return {
            "random": random_state,
            "scores": table(genome, numeric),
            "asked": rows(genome),
            "predictor": fields(self._predictor.parts()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.setstate(state["random"])
        self._scores, self._asked = dict(state["scores"]), list(state["asked"])
        self._predictor.load_state_dict(state["predictor"])

    def _draw(self, count: int, known: Collection[Genome]) -> list[Genome]:
        """Returns random architectures that are not known, as many as there are up to `count`."""
        drawn: dict[Genome, None] = {}
        while len(drawn) < min(count, self.encoding.size - len(known)):
            genome = self.encoding.random(self.random)
            if genome not in known:
                drawn[genome] = None
        return list(drawn)

    def _propose(self, count: int, known: Collection[Genome]) -> list[Genome]:
        candidates = self._candidates(known)
        candidates += self._draw(count - len(candidates), {*known, *candidates})
        if not candidates:
            return []
        self._predictor.fit(self._features(list(self._scores)), np.array(list(self._scores.values())))
        mean, deviation = self._predictor.predict(self._features(candidates))
        generator = np.random.default_rng(self.random.getrandbits(64))
        drawn = thompson(mean, deviation, generator)
        return [candidates[place] for place in np.argsort(-drawn, kind="stable")[:count]]

    def _candidates(self, known: Collection[Genome]) -> list[Genome]:
        parents = sorted(self._scores, key=lambda genome: self._scores[genome], reverse=True)[:PARENTS]
        found = [
            self.encoding.mutate(parent, self.random, EDGE_SHARE)
            for parent in parents
            for _ in range(MUTATIONS // len(parents))
        ]
        found += [self.encoding.random(self.random) for _ in range(RANDOM)]
        return [genome for genome in dict.fromkeys(found) if genome not in known]


def thompson(mean: np.ndarray, deviation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws once from each normal distribution [candidates], all independent."""
    return mean + deviation * generator.standard_normal(len(mean))
