"""Policy gradients against exact ones, enumerated over a small space; the policy that learns by them, and ENAS."""

import io
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.controller import Controller
from search.sampling.samplers.reinforce import (
    ControllerConfig,
    EnasControllerConfig,
    EnasSampler,
    EnasSearchConfig,
    Experience,
    Policy,
    policy_objective,
)
from search.sampling.trials import Trials
from supernet import get_space, list_spaces

SMALL = Encoding(get_space("nasbench201"), ("none", "skip_connect", "avg_pool_3x3"))
"""64 architectures: two operations on six edges."""
EVERYTHING = list(SMALL.all())
VALUES = torch.tensor([SMALL.values(genome) for genome in EVERYTHING])
SIGNIFICANT = 1e-4


def new_controller(scale: float = 15.0) -> Controller:
    """Returns one in double precision and far from uniform."""
    controller = Controller([2] * 6, 6, 1.0, 2.5, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.mul_(scale)
    return controller


def score(genome: Genome) -> float:
    """The share of 3 by 3 convolutions, and something that no edge has by itself. The best is the one with six of them."""
    return sum(column == 3 for column in genome) / 6 + 0.05 * Random(str(genome)).random()


BEST = max(EVERYTHING, key=score)


def new_sampler(seed: int = 0, encoding: Encoding = SMALL, **options: float) -> EnasSampler:
    controller = replace(EnasControllerConfig(), **options)
    config = EnasSearchConfig(space=encoding.space.name, controller=controller)
    return EnasSampler(encoding, config, seed)


def tell(sampler: EnasSampler, genomes: list[Genome]) -> None:
    sampler.tell([(genome, score(genome)) for genome in genomes])


def weights(policy: Policy) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in policy.controller.parameters()]


def gradient(objective: Tensor, controller: Controller) -> list[Tensor]:
    return list(torch.autograd.grad(objective, list(controller.parameters())))


@pytest.mark.parametrize(("entropy_weight", "baseline"), [(0.0, 0.0), (0.3, -1.7)])
def test_the_expected_gradient_is_that_of_the_expected_score_and_the_entropy(entropy_weight: float, baseline: float) -> None:
    """Summed over all architectures, pi(a) * the estimator of a is the exact gradient, whatever the baseline."""
    controller = new_controller()
    scores = torch.tensor([score(genome) for genome in EVERYTHING], dtype=torch.float64)
    log_prob, entropy = controller(VALUES)
    exact = gradient((log_prob.exp() * (scores - entropy_weight * log_prob)).sum(), controller)
    expected = [torch.zeros_like(part) for part in exact]
    for number in range(len(VALUES)):
        log_prob, entropy = controller(VALUES[number : number + 1])
        of_one = scores[number : number + 1]
        objective = policy_objective(log_prob, log_prob.detach(), entropy, of_one, baseline, entropy_weight, 0.2)
        for total, part in zip(expected, gradient(objective, controller), strict=True):
            total += log_prob.exp().item() * part
    assert max(float(part.abs().max()) for part in exact) > 1e-3
    for total, part in zip(expected, exact, strict=True):
        torch.testing.assert_close(total, part, rtol=1e-10, atol=1e-14)


def test_while_the_ratio_is_one_the_gradient_is_that_of_reinforce() -> None:
    controller = new_controller()
    log_prob, entropy = controller(VALUES[:9])
    scores = torch.tensor([score(genome) for genome in EVERYTHING[:9]], dtype=torch.float64)
    found = gradient(policy_objective(log_prob, log_prob.detach(), entropy, scores, 0.4, 0.3, 0.2), controller)
    log_prob, entropy = controller(VALUES[:9])
    advantage = (scores + 0.3 * entropy - 0.4).detach()
    for part, plain in zip(found, gradient((advantage * log_prob + 0.3 * entropy).mean(), controller), strict=True):
        torch.testing.assert_close(part, plain, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("score", [2.0, -2.0, 0.0])
def test_a_ratio_beyond_every_number_gives_no_nan(score: float) -> None:
    """The architecture of another sampler may have a probability of next to nothing before the policy learns from it."""
    log_prob = torch.tensor([-1.0, -300.0], requires_grad=True)
    objective = policy_objective(log_prob, torch.tensor([-300.0, -1.0]), torch.zeros(2), torch.full((2,), score), 0.0, 0.0, 0.2)
    objective.backward()
    assert objective.isfinite() and log_prob.grad is not None and log_prob.grad.isfinite().all()


@pytest.mark.parametrize("ratio", [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_clipping_takes_the_gradient_where_a_step_has_gone_far_enough(ratio: float, advantage: float) -> None:
    """Beyond 1.2 for what is better than the baseline, below 0.8 for what is worse; elsewhere it is ratio * advantage."""
    log_prob = torch.tensor([math.log(ratio) - 1.5], dtype=torch.float64, requires_grad=True)
    proposed, entropy = torch.tensor([-1.5], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    objective = policy_objective(log_prob, proposed, entropy, torch.tensor([advantage + 0.5]), 0.5, 0.0, 0.2)
    clipped = ratio > 1.2 if advantage > 0 else ratio < 0.8
    bound = 1.2 if advantage > 0 else 0.8
    assert objective.item() == pytest.approx((bound if clipped else ratio) * advantage)
    (slope,) = torch.autograd.grad(objective, log_prob)
    assert slope.item() == pytest.approx(0.0 if clipped else ratio * advantage)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("log_ratio", [0.2, -0.2])
def test_a_ratio_that_is_the_bound_itself_keeps_its_gradient(log_ratio: float, advantage: float) -> None:
    """It has gone as far as it may and no farther, so that every step up to the bound counts in full."""
    log_prob = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    ratio = log_prob.exp().item()
    clip = abs(ratio - 1)
    assert ratio in (1 + clip, 1 - clip)
    nothing = torch.zeros(1, dtype=torch.float64)
    objective = policy_objective(log_prob, nothing, nothing, torch.tensor([advantage], dtype=torch.float64), 0.0, 0.0, clip)
    (slope,) = torch.autograd.grad(objective, log_prob)
    assert objective.item() == slope.item() == ratio * advantage


def test_learning_is_a_step_of_adam_with_the_baseline_of_before() -> None:
    """Two steps as they are written in the paper, against those of the policy."""
    config = ControllerConfig(hidden=8, lr=0.01, baseline_decay=0.9, entropy=0.05)
    policy, other = Policy(SMALL, config, 3), Policy(SMALL, config, 3)
    adam = torch.optim.Adam(other.controller.parameters(), 0.01)
    baseline = None
    for start in (0, 20):
        genomes = EVERYTHING[start : start + 4]
        policy.learn([(genome, score(genome), *policy.log_prob([genome])) for genome in genomes])
        log_prob, entropy = other.controller(VALUES[start : start + 4])
        rewards = torch.tensor([score(genome) for genome in genomes]) + 0.05 * entropy.detach()
        baseline = rewards.mean().item() if baseline is None else baseline
        adam.zero_grad()
        (-((rewards - baseline) * log_prob + 0.05 * entropy).mean()).backward()
        adam.step()
        for reward in rewards.tolist() if start else ():
            baseline = 0.9 * baseline + 0.1 * reward
        assert policy.baseline == pytest.approx(baseline, rel=1e-5)
    for found, expected in zip(weights(policy), weights(other), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert not torch.equal(found, torch.zeros_like(found))


def test_equal_scores_teach_nothing() -> None:
    sampler = new_sampler(entropy=0.0)
    before = weights(sampler.policy)
    for _ in range(3):
        sampler.tell([(genome, 0.7) for genome in sampler.ask()])
    assert all(torch.equal(one, other) for one, other in zip(before, weights(sampler.policy), strict=True))


def steps_taken(policy: Policy) -> int:
    return max((int(state["step"]) for state in policy.optimizer.state.values()), default=0)


@pytest.mark.parametrize("replay_epochs", [0, 3])
def test_each_tell_is_a_step_and_those_of_the_replay(replay_epochs: int) -> None:
    sampler = new_sampler(replay_epochs=replay_epochs, replay_size=25, batch=10)
    told: list[Genome] = []
    for number in range(1, 5):
        genomes = sampler.ask()
        told += genomes
        tell(sampler, genomes)
        assert steps_taken(sampler.policy) == number * (1 + replay_epochs)
    remembered = [(genome, points) for genome, points, _ in sampler.memory]
    assert remembered == ([(genome, score(genome)) for genome in told[-25:]] if replay_epochs else [])


def test_the_memory_has_the_probabilities_of_the_proposals_however_late_they_are_told() -> None:
    sampler = new_sampler(replay_epochs=2, batch=3)
    first, second = sampler.ask(), sampler.ask()
    proposed = {genome: sampler.policy.log_prob([genome])[0] for genome in first + second}
    tell(sampler, second)
    tell(sampler, first)
    assert [genome for genome, _, _ in sampler.memory] == second + first
    for genome, _, log_prob in sampler.memory:
        assert log_prob == pytest.approx(proposed[genome], abs=1e-5)
        assert abs(log_prob - sampler.policy.log_prob([genome])[0]) > 1e-4, "the policy has changed"


def test_replay_goes_from_the_bad_to_the_good_until_the_clip_ends_it() -> None:
    policy = Policy(SMALL, ControllerConfig(hidden=8, replay_epochs=100, entropy=0.0), 0)
    good, bad = EVERYTHING[7], EVERYTHING[-7]
    before = policy.log_prob([good, bad])
    memory: list[Experience] = [(good, 1.0, before[0]), (bad, 0.0, before[1])]
    policy.replay(memory)
    after = policy.log_prob([good, bad])
    assert after[0] - before[0] > math.log(1.2) and after[1] - before[1] < math.log(0.8)
    policy.replay(memory)
    assert policy.log_prob([good, bad]) == pytest.approx(after, abs=1e-3), "beyond the clip there is nothing to gain"


@pytest.mark.parametrize("options", [{}, {"replay_epochs": 4}], ids=["reinforce", "replay"])
@pytest.mark.parametrize("seed", range(3))
def test_the_controller_finds_the_best_of_the_small_space(seed: int, options: dict[str, float]) -> None:
    """After 500 evaluations, 250 with replay, its most probable architecture, which at first has 1/64, is the best."""
    sampler = new_sampler(seed, **options)
    trials = Trials(sampler, lambda genome, share: score(genome))
    trials.advance(250 if options else 500)
    found = trials.best()
    assert found is not None and found.genome == BEST
    log_probs = sampler.policy.log_prob(EVERYTHING)
    assert EVERYTHING[log_probs.index(max(log_probs))] == BEST
    assert max(log_probs) > math.log(0.2)


@pytest.mark.parametrize("space", list_spaces())
def test_a_state_goes_on_to_the_bit(space: str) -> None:
    """Through a file, between two draws, with proposals that are not told yet."""
    encoding = Encoding(get_space(space))

    def new(seed: int = 4) -> EnasSampler:
        return new_sampler(seed, encoding, replay_epochs=2, batch=4, replay_size=6)

    def go_on(sampler: EnasSampler) -> list[Genome]:
        seen = [sampler.draw() for _ in range(200)]
        tell(sampler, asked[1:])
        for _ in range(3):
            genomes = sampler.ask()
            seen += [*genomes, sampler.draw()]
            tell(sampler, genomes)
        return seen

    sampler = new()
    for _ in range(2):
        tell(sampler, sampler.ask())
    asked = sampler.ask()
    for _ in range(5):
        sampler.draw()
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    resumed = new()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    snapshot = sampler.state_dict()
    expected = go_on(sampler)
    torch.manual_seed(99)
    assert go_on(resumed) == expected
    assert all(torch.equal(one, other) for one, other in zip(weights(sampler.policy), weights(resumed.policy), strict=True))
    assert resumed.readings() == sampler.readings()
    again = new()
    again.load_state_dict(snapshot)
    assert go_on(again) == expected, "a state does not change with the sampler that it is of"


def test_only_what_is_told_counts() -> None:
    sampler, other = new_sampler(batch=6), new_sampler(batch=6)
    before = weights(sampler.policy)
    asked = sampler.ask()
    sampler.tell([])
    assert all(torch.equal(one, two) for one, two in zip(before, weights(sampler.policy), strict=True))
    assert sampler.readings() == {}
    tell(sampler, asked[::2])
    other.policy.learn([(genome, score(genome), *other.policy.log_prob([genome])) for genome in asked[::2]])
    for found, expected in zip(weights(sampler.policy), weights(other.policy), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert sampler.readings() == pytest.approx({"baseline": other.policy.baseline, "entropy": other.policy.entropy})


def learned() -> EnasSampler:
    sampler = new_sampler(lr=0.005, batch=100)
    for _ in range(5):
        tell(sampler, sampler.ask())
    return sampler


@pytest.mark.parametrize("how", ["draw", "ask"])
def test_draws_and_proposals_follow_the_policy(how: str) -> None:
    draws = 10_000
    sampler = learned()
    ask: Callable[[], list[Genome]] = sampler.ask if how == "ask" else lambda: [sampler.draw()]
    counts: Counter[Genome] = Counter()
    while counts.total() < draws:
        counts.update(ask())
    expected = [draws * math.exp(value) for value in sampler.policy.log_prob(EVERYTHING)]
    assert max(expected) > 5 * min(expected) and min(expected) > 5
    total = sum(expected)
    observed = [counts[genome] for genome in EVERYTHING]
    assert chisquare(observed, [sum(observed) / total * value for value in expected]).pvalue > SIGNIFICANT


def test_what_was_drawn_in_advance_is_dropped_when_the_policy_learns() -> None:
    sampler = new_sampler(lr=1.0, batch=64, entropy=0.0)
    sampler.draw()
    for _ in range(30):
        tell(sampler, sampler.ask())
    probable = dict(zip(EVERYTHING, sampler.policy.log_prob(EVERYTHING), strict=True))
    counts = Counter(sampler.draw() for _ in range(100))
    favourite = max(probable, key=probable.__getitem__)
    assert counts[favourite] > 50 * math.exp(probable[favourite]) > 20


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden", 0, "must be at least 1"),
        ("batch", 0, "must be at least 1"),
        ("temperature", 0.0, "must be above 0"),
        ("tanh_constant", -1.0, "must be above 0"),
        ("lr", math.inf, "must be at most 10"),
        ("baseline_decay", 1.0, "must be from 0 to below 1"),
        ("entropy", -0.1, "must be at least 0"),
        ("replay_epochs", -1, "must be from 0 to 1000"),
        ("replay_size", 0, "must be at least 1"),
        ("clip", 1.0, "must lie between 0 and 1, both excluded"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: {message}, not {value}$"):
        replace(EnasControllerConfig(), **{field: value})


# Thresholded rewards


def test_without_a_threshold_the_bits_are_those_of_scores() -> None:
    """A threshold of 0 leaves scores above it as they are, so that only None can be told from it by scores below."""
    plain, at_zero = new_sampler(), new_sampler(reward_threshold=0.0)
    for sampler in (plain, at_zero):
        for _ in range(3):
            tell(sampler, sampler.ask())
    assert plain.policy.threshold is None and at_zero.policy.threshold == 0
    assert all(torch.equal(*pair) for pair in zip(weights(plain.policy), weights(at_zero.policy), strict=True))


@pytest.mark.parametrize("replay_epochs", [0, 2])
def test_the_reward_is_the_excess_over_the_threshold(replay_epochs: int) -> None:
    """A policy that is told scores learns what one without a threshold does from max(score - threshold, 0)."""
    thresholded = new_sampler(reward_threshold=0.5, replay_epochs=replay_epochs)
    plain, unlike = (new_sampler(replay_epochs=replay_epochs) for _ in range(2))
    for _ in range(3):
        genomes = thresholded.ask()
        assert genomes == plain.ask()
        unlike.ask()
        tell(thresholded, genomes)
        plain.tell([(genome, max(score(genome) - 0.5, 0.0)) for genome in genomes])
        tell(unlike, genomes)
    assert min(score(genome) for genome in genomes) < 0.5 < max(score(genome) for genome in genomes)
    assert thresholded.policy.baseline == plain.policy.baseline != unlike.policy.baseline
    assert all(torch.equal(*pair) for pair in zip(weights(thresholded.policy), weights(plain.policy), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(weights(thresholded.policy), weights(unlike.policy), strict=True))
    if replay_epochs:
        assert [points for _, points, _ in thresholded.memory][-1] == score(genomes[-1]), "the memory has scores"


def test_below_the_threshold_there_is_nothing_to_learn() -> None:
    sampler = new_sampler(entropy=0.0, reward_threshold=0.9)
    before = weights(sampler.policy)
    for low in (0.1, 0.5, 0.9):
        sampler.tell([(genome, low - 0.01 * number) for number, genome in enumerate(sampler.ask())])
    assert all(torch.equal(one, other) for one, other in zip(before, weights(sampler.policy), strict=True))
    sampler.tell([(genome, 0.9 + 0.01 * number) for number, genome in enumerate(sampler.ask())])
    assert not all(torch.equal(one, other) for one, other in zip(before, weights(sampler.policy), strict=True))


def test_the_threshold_of_a_loss_is_a_loss() -> None:
    """Told as it is maximised, a loss of 0.4 has the reward 0.6 - 0.4."""
    controller = EnasControllerConfig(reward_threshold=0.6)
    sampler = EnasSampler(SMALL, EnasSearchConfig(space="nasbench201", score="loss", controller=controller), 0)
    _, rewards, _ = sampler.policy._tensors([(EVERYTHING[0], -0.4, -1.0), (EVERYTHING[1], -0.7, -1.0)])
    assert rewards.tolist() == pytest.approx([0.2, 0.0])


@pytest.mark.parametrize(
    ("name", "threshold", "said"), [(None, 1.0, "accuracy"), ("macro_f1", 3.0, "macro F1"), ("loss", 0.0, "loss")]
)
def test_a_threshold_that_nothing_exceeds_is_refused(name: str | None, threshold: float, said: str) -> None:
    controller = EnasControllerConfig(reward_threshold=threshold)
    with pytest.raises(
        ValueError, match=rf"^controller.reward_threshold: no {said} is better than {threshold}, so that nothing"
    ):
        EnasSampler(SMALL, EnasSearchConfig(space="nasbench201", score=name, controller=controller), 0)
