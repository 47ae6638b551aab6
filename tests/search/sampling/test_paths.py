"""Single-path training and evaluation of shared weights."""

import copy
import itertools
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import random_images
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.paths import GuideScores, PathNetwork, PathSteps, SupernetScores, fair_paths, recalibrate
from search.sampling.samplers.sampler import Sampler, Scored
from supernet import Supernet, get_space, list_spaces
from training.hardware import Hardware
from training.images.data import DataConfig
from training.images.sets import ImageSet
from training.metrics import Batch
from training.tasks.classification import Classification
from training.tasks.images import ImageData

CPU = Hardware(torch.device("cpu"))
TASK = Classification.of_images(DataConfig(), random_images(20, 8), CPU)
CELLS = {"darts": 3, "nasbench201": 1}


class OneArchitecture(Sampler):
    """Proposes, and trains, always the same."""

    has_policy = True

    def ask(self) -> list[Genome]:
        return [self.encoding.random(Random(3))]

    def tell(self, scored: list[Scored]) -> None:
        pass

    def draw(self) -> Genome:
        return self.ask()[0]


def network_of(space: str, **options: object) -> PathNetwork:
    encoding = Encoding(get_space(space))
    network = Supernet(encoding.space, 4, CELLS[space], classes=10, **options)  # type: ignore[arg-type]
    return PathNetwork(network, encoding, TASK, CPU)


def steps_of(network: PathNetwork, **fields: object) -> PathSteps:
    config = SamplingConfig(space=network.encoding.space.name, **fields)  # type: ignore[arg-type]
    return PathSteps(network, OneArchitecture(network.encoding, config, 0), config.weights, config.paths, config.seed)


def batch(size: int = 4) -> Batch:
    return Batch(torch.randn(size, 3, 8, 8), torch.randint(10, (size,)))


def data(count: int) -> ImageData:
    return ImageData(random_images(count, 8), CPU)


# Training


@pytest.mark.parametrize("policy", ["sampler", "uniform", "fair"])
@pytest.mark.parametrize("space", list_spaces())
def test_steps_along_paths_have_the_same_bits_if_cells_are_computed_again(space: str, policy: str) -> None:
    ends = []
    for recompute in ("none", "cells"):
        torch.manual_seed(0)
        paths = network_of(space, recompute=recompute)
        steps = steps_of(paths, paths=policy)
        for _ in range(2):
            steps(batch())
        ends.append([*paths.network.state_dict().values(), torch.rand(3)])
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


@pytest.mark.parametrize("space", list_spaces())
def test_a_path_computes_what_the_whole_mixture_with_its_weights_does(space: str) -> None:
    paths = network_of(space)
    given = batch()
    genome = paths.encoding.random(Random(1))
    mixture = paths.encoding.path(genome).one_hot(paths.encoding.space)
    torch.testing.assert_close(paths.outputs(given, genome), paths.network(given.inputs, mixture))


@pytest.mark.parametrize("space", list_spaces())
def test_only_the_chosen_operations_run(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by the convolutions that are called, beside those of stem, preprocessing, residual blocks."""
    paths = network_of(space, kernels="reference")
    encoding, calls = paths.encoding, Counter[str]()
    convolve = F.conv2d

    def counted(*arguments: object, **options: object) -> Tensor:
        calls["convolutions"] += 1
        return convolve(*arguments, **options)  # type: ignore[arg-type]

    def convolutions(genome: Genome) -> int:
        calls.clear()
        paths.outputs(batch(), genome)
        return calls["convolutions"]

    monkeypatch.setattr(F, "conv2d", counted)
    names = encoding.space.candidates
    plain = "avg_pool_3x3"
    pool, cheap = names.index(plain), encoding.random(Random(2))
    without = tuple(pool if column >= 0 else column for column in cheap)
    fewest = convolutions(without)
    convolution = next(column for column in encoding.operations if "conv_3x3" in names[column])
    each = 4 if names[convolution].startswith("sep") else 1
    present = [place for place, column in enumerate(without) if column >= 0]
    cells = Counter(cell.position.kind for cell in paths.network.mixed_cells())
    for place in present:
        kind = encoding.space.kinds[place // len(encoding.space.edges)]
        changed = tuple(convolution if here == place else column for here, column in enumerate(without))
        assert convolutions(changed) == fewest + each * cells[kind]


def test_what_nothing_reads_does_not_run() -> None:
    encoding = Encoding(get_space("nasbench201"))
    none, convolution = (encoding.space.candidates.index(name) for name in ("none", "nor_conv_3x3"))
    # Into nodes 1 and 2 convolutions, of which node 3 reads the first alone.
    genome = (convolution, convolution, convolution, none, convolution, none)
    assert list(encoding.path(genome).choices["cell"]) == [convolution, -1, -1, none, convolution, none]
    # Nor does what leads only to something that is not read.
    assert list(encoding.path((convolution,) * 3 + (convolution, none, none)).choices["cell"])[:3] == [-1, -1, -1]


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize("policy", ["uniform", "fair", "sampler"])
def test_weights_that_took_no_part_are_unchanged_to_the_bit(space: str, policy: str) -> None:
    """Momentum included; those that did have moved."""
    paths = network_of(space)
    steps = steps_of(paths, paths=policy)
    for _ in range(2):
        steps(batch())
    before = {name: tensor.detach().clone() for name, tensor in paths.network.named_parameters()}
    momentum = {
        name: steps.optimizer.state[tensor]["momentum_buffer"].clone() for name, tensor in paths.network.named_parameters()
    }
    drawn: list[Genome] = []
    draw = steps.draw
    steps.draw = lambda: drawn.extend(draw()) or drawn  # type: ignore[method-assign, func-returns-value]
    steps(batch())
    idle = paths.network.idle(*map(paths.encoding.path, drawn))
    assert idle or policy == "fair"
    moved = 0
    for name, parameter in paths.network.named_parameters():
        mask = idle.get(parameter, torch.zeros(len(parameter), dtype=torch.bool))
        state = steps.optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(parameter[mask], before[name][mask]) and torch.equal(state[mask], momentum[name][mask])
        moved += int((parameter != before[name])[~mask].any())
    assert moved


@pytest.mark.parametrize("space", list_spaces())
def test_fair_paths_have_each_operation_once_on_each_of_their_edges(space: str) -> None:
    encoding, random = Encoding(get_space(space)), Random(0)
    for _ in range(20):
        paths = fair_paths(encoding, random)
        for genome in paths:
            encoding.check(genome)
        for columns in zip(*paths, strict=True):
            assert set(columns) == {-1} or sorted(columns) == sorted(encoding.operations)


def test_uniform_paths_have_equal_chances() -> None:
    steps = steps_of(network_of("nasbench201"))
    counts = Counter(column for _ in range(2000) for (genome,) in [steps.draw()] for column in genome)
    expected = 2000 * 6 / 5
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 18.5  # 99.9% of chi-square, 4 degrees


def test_paths_depend_on_seed_and_epoch_alone() -> None:
    paths = network_of("nasbench201")
    one, other = steps_of(paths), steps_of(paths)
    one.begin_epoch(3)
    first = [one.draw() for _ in range(5)]
    other.begin_epoch(3)
    assert [other.draw() for _ in range(5)] == first
    other.begin_epoch(4)
    assert [other.draw() for _ in range(5)] != first


def test_a_fair_step_descends_the_sum_of_its_paths_gradients() -> None:
    paths = network_of("nasbench201", batch_statistics=True).network.double()
    fair = PathNetwork(paths, Encoding(get_space("nasbench201")), TASK, CPU)
    steps = steps_of(fair, paths="fair")
    given = batch()
    given = Batch(given.inputs.double(), given.targets)
    genomes = steps.draw()
    steps.begin_epoch(0)
    expected = {name: torch.zeros_like(parameter) for name, parameter in paths.named_parameters()}
    for genome in genomes:
        loss = F.cross_entropy(fair.outputs(given, genome), given.targets)
        for name, gradient in zip(
            expected, torch.autograd.grad(loss, list(paths.parameters()), allow_unused=True), strict=True
        ):
            expected[name] += 0 if gradient is None else gradient
    steps.clip = 0
    steps(given)
    for name, parameter in paths.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-7)


# Evaluation


def scores_of(paths: PathNetwork, count: int = 40, **fields: object) -> SupernetScores:
    config = SamplingConfig(**{"space": paths.encoding.space.name, "batch_size": 8, "recalibrate": 0} | fields)  # type: ignore[arg-type]
    train = data(40).shuffled(8, 0, "train")
    return SupernetScores(paths, train, data(count), config.batch_size, config.evaluated_images, config.recalibrate)


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize("count", [0, 3])
def test_an_evaluation_changes_nothing_and_repeats(space: str, count: int) -> None:
    paths = network_of(space, batch_statistics=False)
    score = scores_of(paths, recalibrate=count)
    before = copy.deepcopy(paths.network.state_dict())
    genome = paths.encoding.random(Random(0))
    assert score(genome, 1.0) == score(genome, 1.0)
    assert before.keys() == paths.network.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in paths.network.state_dict().items())


def test_a_share_is_the_first_of_the_images() -> None:
    paths = network_of("nasbench201")
    sizes: list[int] = []
    paths.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    score, genome = scores_of(paths, evaluated_images=36, batch_size=16), paths.encoding.random(Random(0))
    for share, expected in ((1.0, [16, 16, 4]), (0.5, [16]), (0.25, [9]), (1 / 1000, [1])):
        sizes.clear()
        value = score(genome, share)
        # 18 images are a batch of 16 and one of 2; a left-over single one would be dropped.
        assert sizes == ([16, 2] if share == 0.5 else expected) and 0 <= value <= 1


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^evaluated_images: there are 40 validation images, not 41$"):
        scores_of(network_of("darts"), evaluated_images=41)


@pytest.mark.parametrize("space", list_spaces())
def test_recalibration_takes_the_mean_of_the_batches_statistics(space: str) -> None:
    """Against the inputs of every ordinary batch norm that runs, and the raw maps of one in a bank."""
    paths = network_of(space, batch_statistics=False)
    genome = paths.encoding.random(Random(4))
    batches = [batch(6) for _ in range(3)]
    stem = paths.network.stem
    seen: list[Tensor] = []
    handle = stem[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    recalibrate(paths.network, (paths.outputs(part, genome) for part in batches))
    handle.remove()
    assert isinstance(stem[1], nn.BatchNorm2d)
    means = torch.stack([part.mean((0, 2, 3)) for part in seen]).mean(0)
    variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in seen]).mean(0)
    torch.testing.assert_close(stem[1].running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stem[1].running_var, variances, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", list_spaces())
def test_recalibrated_on_one_batch_evaluation_is_that_of_its_own_statistics(space: str) -> None:
    paths = network_of(space, batch_statistics=False)
    genome = paths.encoding.random(Random(4))
    given = batch(64)
    recalibrate(paths.network, (paths.outputs(given, genome) for _ in range(2)))
    paths.network.eval()
    found = paths.outputs(given, genome)
    paths.network.train()
    # Running variances are unbiased ones, so that they differ by the number of values.
    torch.testing.assert_close(found, paths.outputs(given, genome), rtol=0.1, atol=0.05)


def test_a_guide_takes_the_next_batch_each_time() -> None:
    paths = network_of("nasbench201")
    batches = data(24).shuffled(8, 0, "valid")
    genome = paths.encoding.random(Random(0))
    score = GuideScores(paths, batches, 5)
    found = [score(genome) for _ in range(6)]
    paths.network.train()
    expected = []
    with torch.no_grad():
        for given in itertools.chain(batches.epoch(5), batches.epoch(5)):
            expected.append(float((paths.outputs(given, genome).argmax(1) == given.targets).float().mean()))
    assert found == pytest.approx(expected)


# Scores

SCORES = [score.name for score in Classification.scores]


def one_rare_class(count: int = 40) -> ImageData:
    """One class has 29 of 40 images, another one none."""
    images = random_images(count, 8)
    assert isinstance(images, ImageSet)
    labels = torch.tensor([0] * (count - 11) + [1, 2, 3, 4, 5, 6, 7, 8, 2, 2, 5])
    return ImageData(replace(images, labels=labels), CPU)


def by_score(paths: PathNetwork, name: str) -> PathNetwork:
    """The same network with the task's score of that name."""
    task = copy.copy(TASK)
    task.scored_by = task.score_named(name)
    return PathNetwork(paths.network, paths.encoding, task, CPU)


def outputs_of(paths: PathNetwork, genome: Genome, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """The logits and labels of all batches."""
    with torch.no_grad():
        pairs = [(paths.outputs(given, genome), given.targets) for given in batches]
    logits, labels = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat(labels)


def of_sklearn(name: str, logits: Tensor, labels: Tensor) -> float:
    from sklearn import metrics

    if name == "loss":
        return -F.cross_entropy(logits.double(), labels).item()
    guess = logits.argmax(1)
    with warnings.catch_warnings(action="ignore"):
        if "macro" not in name:
            return float(getattr(metrics, f"{name}_score")(labels, guess))
        return float(getattr(metrics, f"{name.removeprefix('macro_')}_score")(labels, guess, average="macro", zero_division=0))


@pytest.mark.parametrize("name", SCORES)
def test_a_search_maximises_the_score_over_all_images(name: str) -> None:
    """Scikit-learn's over the predictions of all batches, the negative of the loss; a mean over batches is another number."""
    torch.manual_seed(3)
    paths = by_score(network_of("nasbench201"), name)
    train, valid = data(40).shuffled(8, 0, "train"), one_rare_class()
    score = SupernetScores(paths, train, valid, 16)
    for genome in (paths.encoding.random(Random(seed)) for seed in range(3)):
        found = score(genome, 1.0)
        paths.network.eval()
        batches = list(valid.in_order(16, "drop_single").epoch(0))
        assert found == pytest.approx(of_sklearn(name, *outputs_of(paths, genome, batches)), rel=1e-5)
    if "macro" in name or "balanced" in name:
        each = [of_sklearn(name, *outputs_of(paths, genome, [given])) for given in batches]
        assert abs(sum(each) / len(each) - found) > 1e-3


@pytest.mark.parametrize("name", SCORES)
def test_a_guide_has_the_score_of_its_batch(name: str) -> None:
    paths = by_score(network_of("nasbench201"), name)
    genome = paths.encoding.random(Random(0))
    batches = one_rare_class().shuffled(8, 0, "valid")
    found = GuideScores(paths, batches, 0)(genome)
    paths.network.train()
    assert found == pytest.approx(of_sklearn(name, *outputs_of(paths, genome, [next(iter(batches.epoch(0)))])), rel=1e-5)


def test_the_best_by_accuracy_is_not_the_best_by_balanced_accuracy() -> None:
    """An architecture that says the common class each time is the better one by accuracy alone."""
    torch.manual_seed(0)
    paths = network_of("nasbench201")
    valid, encoding = one_rare_class(), paths.encoding
    genomes = list(dict.fromkeys(encoding.random(Random(seed)) for seed in range(12)))
    best = {}
    for name in ("accuracy", "balanced_accuracy"):
        chosen = by_score(paths, name)
        score = SupernetScores(chosen, data(40).shuffled(8, 0, "train"), valid, 16)
        scores = {genome: score(genome, 1.0) for genome in genomes}
        paths.network.eval()
        batches = list(valid.in_order(16).epoch(0))
        plain = {genome: of_sklearn(name, *outputs_of(paths, genome, batches)) for genome in genomes}
        best[name] = max(genomes, key=scores.__getitem__)
        assert plain[best[name]] == pytest.approx(max(plain.values()))
    assert best["accuracy"] != best["balanced_accuracy"]
