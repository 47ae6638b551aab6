"""Neural architecture optimisation (Luo et al. 2018): gradient ascent in a continuous space of
architectures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from base.checks import FieldError, above_zero, between, choices, inside, whole
from base.seeds import derive_seed
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome, Variable
from search.sampling.samplers.autoencoder import Autoencoder
from search.sampling.samplers.sampler import Costs, Sampler, Scored, genome_of
from training.run.structure import Part, numeric, optional, random_state, table, text

Target = Literal["rank", "score"]


@dataclass
class NaoConfig:
    """The networks of NAO, how they are trained, and how far their gradient is followed."""

    initial: int = 50
    """Random architectures to evaluate before the first training."""
    proposals: int = 25
    """Architectures to evaluate between two trainings."""
    seeds: int = 25
    """Number of the best so far whose latent states are moved along the gradient of the predicted
    score."""
    step: float = 1.0
    """Size of the first move, in gradients. As long as there are too few proposals, moves of 2, 3,
    4 ... times the size follow."""
    steps: int = 20
    """Sizes to try at most; random architectures make up for proposals that are still missing."""
    target: Target = "rank"
    """The target of the predictor: the rank of a score, or the score itself as published, from 0
    for the worst to 1 for the best."""
    prediction: float = 0.8
    """Weight of the predictor's squared error in the loss; that of the decoder's negative
    log-likelihood is 1 minus it."""
    entropy: float = 0.05
    """Weight with which the entropy of the decoder's distributions is taken off the loss. Above 0
    it keeps the decoder undecided between tokens, so that smaller moves change them; below 0 it
    makes the decoder surer than the data do."""
    hidden: int = 32
    """Length of a latent vector; even."""
    updates: int = 60
    """Steps of Adam in each training, which begins from new weights."""
    batch_size: int = 100
    """Evaluated architectures in a step of Adam."""
    lr: float = 0.01
    """Learning rate of Adam."""

    def __post_init__(self) -> None:
        whole(self, "initial", "proposals", "seeds", "steps", "hidden", "updates", "batch_size")
        choices(self)
        if self.hidden % 2:
            raise FieldError("hidden", f"must be even, not {self.hidden}")
        above_zero(self, "step", least=1e-6, most=1e6)
        above_zero(self, "lr", least=1e-12, most=10)
        inside(self, "prediction")
        between(-1000, 1000, self, "entropy")


@dataclass
class NaoSearchConfig(SamplingConfig):
    """NAO."""

    evaluations: int = 300
    """Architectures to evaluate with the trained weights (or table, or proxy)."""
    nao: NaoConfig = field(default_factory=NaoConfig)
    """The method."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nao.initial >= self.evaluations:
            needed = f"must be below evaluations = {self.evaluations}, or nothing is learned, not {self.nao.initial}"
            raise FieldError("nao.initial", needed)


class NaoSampler(Sampler):
    """NAO: random architectures first, then those that the gradient of a learned predictor leads
    to.

    Each ask after a tell trains the `Autoencoder` on all scores. The latent states of the best
    architectures are moved along the gradient of the predicted score and decoded; architectures
    that were never asked for before are proposals. Moves get longer, from the original states,
    until there are enough of them.

    Unlike the authors' code, each training begins from new weights, by a seed of its own: those
    that go on from the last ones lead to ever fewer new architectures. So the scores are the whole
    state. An architecture is asked for again only after all others have been; once all have been
    told, none is asked for.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self.scores: dict[Genome, float | None] = {}
        """Scores of all architectures that were asked for; None until they are told."""
        self.losses: dict[str, float] = {}
        """Losses at the end of the last training, by name."""
        self._model: Autoencoder | None = None
        """Model trained on all that was told; None if it has to be trained first."""

    def ask(self) -> list[Genome]:
        options: NaoConfig = self.config.nao
        told = [(genome, score) for genome, score in self.scores.items() if score is not None]
        if len(told) < options.initial:
            asked = self._others(options.initial - len(told), ())
        else:
            asked = list(islice(self._uphill(told), options.proposals))
            asked += self._others(options.proposals - len(asked), asked)
        if not asked:
            asked = [genome for genome, score in self.scores.items() if score is None]
        for genome in asked:
            self.scores.setdefault(genome, None)
        return asked

    def tell(self, scored: Sequence[Scored]) -> None:
        self.scores.update(scored)
        self._model = None

    def readings(self) -> Mapping[str, float]:
        return self.losses

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.getstate(), "scores": dict(self.scores), "losses": dict(self.losses)}

    def parts(self) -> dict[str, Part]:
        return {
            "random": random_state,
            "scores": table(genome_of(self.encoding), optional(numeric)),
            "losses": table(text, numeric),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.setstate(state["random"])
        self.scores, self.losses, self._model = dict(state["scores"]), dict(state["losses"]), None

    def _uphill(self, told: Sequence[Scored]) -> Iterator[Genome]:
        """Yields architectures never asked for, by longer and longer moves, each from the best
        architecture to the worst seed."""
        options: NaoConfig = self.config.nao
        if self._model is None:
            self._model, self.losses = self._train(told)
        best = sorted(told, key=lambda scored: scored[1], reverse=True)[: options.seeds]
        with torch.no_grad():
            states = self._model.encode(self._values(best))
        found: set[Genome] = set()
        for number in range(1, options.steps + 1):
            for values in self._model.decode(self._model.move(states, number * options.step)).tolist():
                genome = self.encoding.of_values(values)
                if genome not in self.scores and genome not in found:
                    found.add(genome)
                    yield genome

    def _others(self, count: int, but: Sequence[Genome]) -> list[Genome]:
        """Returns random architectures never asked for and not in `but`; fewer than `count` if
        fewer are left."""
        left = self.encoding.size - len(self.scores) - len(but)
        if left <= count:
            others = [genome for genome in self.encoding.all() if genome not in self.scores and genome not in but]
            self.random.shuffle(others)
            return others
        found: dict[Genome, None] = {}
        while len(found) < count:
            genome = self.encoding.random(self.random)
            if genome not in self.scores and genome not in but:
                found[genome] = None
        return list(found)

    def _values(self, scored: Sequence[Scored]) -> Tensor:
        return torch.tensor([self.encoding.values(genome) for genome, _ in scored])

    def _train(self, told: Sequence[Scored]) -> tuple[Autoencoder, dict[str, float]]:
        targets = scaled([score for _, score in told], self.config.nao.target)
        seed = derive_seed(self.seed, "nao", len(told))
        model = train(self.encoding.variables, self._values(told), targets, self.config.nao, seed)
        with torch.no_grad():
            losses = model.losses(self._values(told), targets)
        return model, {name: loss.item() for name, loss in losses._asdict().items()}


def scaled(scores: Sequence[float], target: Target) -> Tensor:
    """Scales scores from 0, the worst, to 1, the best, float32 [n].

    By rank, equals share the mean of their ranks; otherwise the scale is that of the scores.

    If all scores are equal, all become 0.5.
    """
    values = rankdata(scores) if target == "rank" else np.array(scores, dtype=np.float64)
    low, high = values.min(), values.max()
    return torch.tensor((values - low) / (high - low) if low < high else np.full(len(values), 0.5), dtype=torch.float32)


def train(variables: Sequence[Variable], values: Tensor, targets: Tensor, options: NaoConfig, seed: int) -> Autoencoder:
    """Trains an autoencoder of architectures, int64 [n, variables], with a predictor of their
    `targets` [n].

    It begins from new weights. The result depends on the arguments alone; torch's random generators
    are left as they are.
    """
    with torch.random.fork_rng([]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        model = Autoencoder(variables, options.hidden)
        optimizer = torch.optim.Adam(model.parameters(), options.lr, fused=True)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(options.updates):
            if not len(order):
                order = torch.randperm(len(values))
            rows, order = order[: options.batch_size], order[options.batch_size :]
            optimizer.zero_grad()
            model.losses(values[rows], targets[rows]).total(options.prediction, options.entropy).backward()
            optimizer.step()
    return model
