"""A policy over architectures that learns from their scores by REINFORCE (Williams 1992), and the
sampler of ENAS."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from base.checks import FieldError, above_zero, at_least, below_one, between, inside, whole
from base.seeds import new_generator
from base.texts import show
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.controller import Controller
from search.sampling.samplers.sampler import Costs, Sampler, Scored, genome_of
from search.sampling.scores.chosen import chosen_score
from training.optim import load_optimizer, optimizer_structure
from training.run.structure import Part, fields, integer, like, numeric, optional, row, rows, table

Experience = tuple[Genome, float, float]
"""An architecture, its score, and its log-probability under the policy that proposed it."""
DRAWN = 128
"""Number of architectures that `Policy.draw` samples at once."""
REMEMBERED = 10_000
"""Number of proposals whose log-probability is kept until they are told, the most that a pre-filter
ranks."""


@dataclass
class ControllerConfig:
    """The controller, and how it learns.

    The defaults are those of the search for cells by ENAS's authors, unless a field says otherwise.
    """

    hidden: int = 64
    """Units of the LSTM, and numbers in the embedding of a decision."""
    temperature: float = 1.0
    """Divisor of the logits; the paper says 5, which learns more slowly."""
    tanh_constant: float = 2.5
    """The logits lie between minus this and this (the paper's 2.5), so that no decision becomes
    quite certain."""
    batch: int = 10
    """Architectures asked for at once, from which the controller learns in one step; in
    NAS-Bench-201's ENAS 20."""
    lr: float = 0.0035
    """Learning rate of Adam."""
    baseline_decay: float = 0.95
    """Share of the moving average of scores that each architecture leaves; as published 0.99, which
    takes hundreds to follow."""
    reward_threshold: float | None = None
    """The controller's reward is what a score exceeds this value by, and 0 for one that does not:
    max(score - threshold, 0), of a loss max(threshold - loss, 0), so that it learns from good
    architectures alone how good they are; in the units of the score (see --score). Baseline and
    advantage are those of the rewards; samplers' other parts and reports see the scores themselves;
    null: the reward is the score."""
    entropy: float = 1e-4
    """Weight of the policy's entropy, in nats, beside the score."""
    replay_epochs: int = 0
    """Further steps after each one, all on the architectures in memory, with clipped importance
    weights (PPO, Schulman et al. 2017); 0: none."""
    clip: float = 0.2
    """Change of an architecture's probability since it was proposed, as a share, beyond which a
    step gains nothing (PPO's epsilon)."""

    def __post_init__(self) -> None:
        whole(self, "hidden", "batch")
        above_zero(self, "temperature", least=1e-3, most=1000)
        above_zero(self, "tanh_constant", least=1e-3, most=20)
        above_zero(self, "lr", least=1e-12, most=10)
        below_one(self, "baseline_decay")
        at_least(-1e15, self, "reward_threshold", most=1e15)
        at_least(0, self, "entropy", most=1000)
        between(0, 1000, self, "replay_epochs")
        inside(self, "clip")


@dataclass
class EnasControllerConfig(ControllerConfig):
    """The controller of ENAS, with a memory."""

    replay_size: int = 50
    """Architectures in memory, the last ones that were told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "replay_size")


@dataclass
class EnasSearchConfig(SamplingConfig):
    """ENAS."""

    controller: EnasControllerConfig = field(default_factory=EnasControllerConfig)
    """The controller, and how it learns."""


LARGEST_RATIO = 60.0
"""The logarithm of the largest ratio of two probabilities: float32 has its product with a score."""


def policy_objective(
    log_prob: Tensor, proposed: Tensor, entropy: Tensor, scores: Tensor, baseline: float, entropy_weight: float, clip: float
) -> Tensor:
    """Returns the scalar that a step of the policy ascends, a mean over architectures; all tensors
    are [n].

    With the ratio r = exp(`log_prob` - `proposed`) and the advantage A = `scores` + w H -
    `baseline` it is min(r A, clip(r, 1 - `clip`, 1 + `clip`) A) + w H (PPO, equation 7). H is the
    `entropy` of the decisions of each architecture, a constant in A; w is `entropy_weight`.

    While the policy is still the one that proposed them, r is 1 and the gradient A grad(log p) + w
    grad(H): REINFORCE, whose expectation is the gradient of the expected score and w times the
    policy's entropy. ENAS's authors have the entropy in the reward only, which leaves the second
    term out.
    """
    advantage = scores + entropy_weight * entropy.detach() - baseline
    # A ratio that overflows would have NaN for a gradient where it is not used.
    ratio = (log_prob - proposed).clamp_max(LARGEST_RATIO).exp()
    # The minimum, by the sign of A. A ratio that is a bound has gone no farther than it may, so the
    # gradient is whole there; that of torch.clamp depends on the version of torch
    # (findings/clamp_gradient_at_bound.sh).
    held = torch.where(
        advantage > 0, ratio.masked_fill(ratio > 1 + clip, 1 + clip), ratio.masked_fill(ratio < 1 - clip, 1 - clip)
    )
    return (held * advantage + entropy_weight * entropy).mean()


class Policy:
    """A controller over the architectures of `encoding`, with its optimiser and its baseline."""

    def __init__(self, encoding: Encoding, config: ControllerConfig, seed: int, threshold: float | None = None) -> None:
        """`threshold` is `ControllerConfig.reward_threshold` of the score as it is maximised."""
        self.threshold = threshold
        self.encoding = encoding
        self.config = config
        self.seed = seed
        options = [variable.options for variable in encoding.variables]
        generator = new_generator(seed, "controller")
        self.controller = Controller(options, config.hidden, config.temperature, config.tanh_constant, generator)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), config.lr, fused=True)
        self.baseline: float | None = None
        """Moving average of the scores and weighted entropies that `learn` is given; None before
        that."""
        self.entropy: float | None = None
        """Mean entropy of the decisions of the last architectures it learned from, in nats."""
        self._samples = 0  # number of calls, each with a random stream of its own
        self._drawn: list[Genome] = []

    def sample(self, count: int) -> list[Genome]:
        """Samples `count` independent architectures."""
        generator = new_generator(self.seed, "policy", self._samples)
        self._samples += 1
        return [self.encoding.of_values(values) for values in self.controller.sample(count, generator).tolist()]

    def draw(self) -> Genome:
        """Samples one architecture.

        It is fast, since many are sampled in advance; these serve until the next step.
        """
        if not self._drawn:
            self._drawn = self.sample(DRAWN)
        return self._drawn.pop()

    @torch.no_grad()
    def log_prob(self, genomes: Sequence[Genome]) -> list[float]:
        """Returns the log-probability of each architecture."""
        values: list[float] = self.controller.log_prob(self._values(genomes)).tolist()
        return values

    def learn(self, experiences: Sequence[Experience]) -> None:
        """Makes one step on some of the policy's own proposals, at least one.

        The baseline is the moving average of earlier proposals, so that it is independent of these;
        the first time it is their mean.
        """
        rewards = self._step(*self._tensors(experiences), self.baseline).tolist()
        if self.baseline is None:
            self.baseline = sum(rewards) / len(rewards)
        else:
            for reward in rewards:
                self.baseline += (1 - self.config.baseline_decay) * (reward - self.baseline)

    def replay(self, memory: Sequence[Experience]) -> None:
        """Makes the further steps on architectures that any policy has proposed, at least one.

        The baseline is their mean.
        """
        tensors = self._tensors(memory)
        for _ in range(self.config.replay_epochs):
            self._step(*tensors, None)

    def _step(self, values: Tensor, scores: Tensor, proposed: Tensor, baseline: float | None) -> Tensor:
        """Makes one step and returns the scores with the weighted entropy, [n].

        Their mean is the baseline if none is given.
        """
        weight = self.config.entropy
        log_prob, entropy = self.controller(values)
        rewards = scores + weight * entropy.detach()
        if baseline is None:
            baseline = rewards.mean().item()
        objective = policy_objective(log_prob, proposed, entropy, scores, baseline, weight, self.config.clip)
        self.optimizer.zero_grad()
        (-objective).backward()
        self.optimizer.step()
        self.entropy = entropy.mean().item()
        self._drawn = []
        return rewards

    def _tensors(self, experiences: Sequence[Experience]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns values [n, variables], rewards and log-probabilities [n]; rewards in double
        precision, for scores may be alike."""
        genomes, scores, proposed = zip(*experiences, strict=True)
        rewards = torch.tensor(scores, dtype=torch.float64)
        if self.threshold is not None:
            rewards = (rewards - self.threshold).clamp_min(0)
        return self._values(genomes), rewards, torch.tensor(proposed)

    def _values(self, genomes: Sequence[Genome]) -> Tensor:
        return torch.tensor([self.encoding.values(genome) for genome in genomes])

    def state_dict(self) -> dict[str, Any]:
        """Returns all state that learning and sampling change."""
        return {
            "controller": {name: value.clone() for name, value in self.controller.state_dict().items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "baseline": self.baseline,
            "entropy": self.entropy,
            "samples": self._samples,
            "drawn": list(self._drawn),
        }

    def structure(self) -> Part:
        """Returns the structure that `state_dict` has."""
        return fields(
            {
                "controller": like(dict(self.controller.state_dict())),
                "optimizer": optimizer_structure(self.optimizer, list(self.controller.parameters()), "all or none"),
                "baseline": optional(numeric),
                "entropy": optional(numeric),
                "samples": integer(),
                "drawn": rows(genome_of(self.encoding)),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict` back."""
        self.controller.load_state_dict(state["controller"])
        load_optimizer(self.optimizer, copy.deepcopy(state["optimizer"]))
        self.baseline, self.entropy = state["baseline"], state["entropy"]
        self._samples, self._drawn = state["samples"], list(state["drawn"])


def _threshold(config: Any) -> float | None:
    """Returns the threshold of rewards of the score as it is maximised. Raises FieldError for one
    that no score exceeds."""
    threshold: float | None = config.controller.reward_threshold
    if threshold is None:
        return None
    score = chosen_score(config)
    if score.reaches(threshold, score.best):
        problem = f"no {score.words} is better than {show(threshold)}, so that nothing would be learnt; take one that many are"
        raise FieldError("controller.reward_threshold", problem)
    return score.maximised(threshold)


class PolicySampler(Sampler):
    """A sampler with a policy that learns; it proposes architectures and draws paths for the
    weights by it."""

    has_policy = True
    learns_while_weights_move = True

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self.policy = Policy(encoding, config.controller, seed, _threshold(config))
        self.proposed: dict[Genome, float] = {}
        """The log-probability at which the policy last proposed an architecture, the latest
        proposals last."""

    def draw(self) -> Genome:
        return self.policy.draw()

    def readings(self) -> Mapping[str, float]:
        found = {"baseline": self.policy.baseline, "entropy": self.policy.entropy}
        return {name: value for name, value in found.items() if value is not None}

    def propose(self, count: int) -> list[Genome]:
        """Proposes `count` architectures by the policy, at least one."""
        genomes = self.policy.sample(count)
        new = dict(zip(genomes, self.policy.log_prob(genomes), strict=True))
        older = [(genome, log_prob) for genome, log_prob in self.proposed.items() if genome not in new]
        self.proposed = dict([*older, *new.items()][-REMEMBERED:])
        return genomes

    def experiences(self, scored: Sequence[Scored]) -> list[Experience]:
        """Returns the architectures with the log-probability at which the policy proposed each.

        It is the present one for an architecture that the policy did not propose.
        """
        present = self.policy.log_prob([genome for genome, _ in scored])
        return [
            (genome, score, self.proposed.get(genome, log_prob))
            for (genome, score), log_prob in zip(scored, present, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"policy": self.policy.state_dict()}

    def parts(self) -> dict[str, Part]:
        proposed = table(genome_of(self.encoding), numeric)
        return super().parts() | {"policy": self.policy.structure(), "proposed": proposed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        super().load_state_dict({name: value for name, value in state.items() if name != "policy"})


def experiences_of(encoding: Encoding) -> Part:
    """Returns the structure of a list of experiences."""
    return rows(row(genome_of(encoding), numeric, numeric))


class EnasSampler(PolicySampler):
    """ENAS (Pham et al. 2018, section 2.2): a controller samples architectures and ascends their
    expected score.

    Each time it is told scores, it makes one step of REINFORCE from them. With `replay_epochs`
    further steps follow on the last architectures that it was told, proposed by policies of some
    steps ago: so few evaluations teach more.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self.memory: list[Experience] = []

    def ask(self) -> list[Genome]:
        return self.propose(self.config.controller.batch)

    def tell(self, scored: Sequence[Scored]) -> None:
        if not scored:
            return
        told = self.experiences(scored)
        self.policy.learn(told)
        if self.config.controller.replay_epochs:
            self.memory = [*self.memory, *told][-self.config.controller.replay_size :]
            self.policy.replay(self.memory)

    def parts(self) -> dict[str, Part]:
        return super().parts() | {"memory": experiences_of(self.encoding)}
