"""Zero-cost proxies against their definitions, written out for a small network in float64, and what all of them promise."""

import itertools
import math
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.checks import InputError
from search.sampling.encoding import Encoding, Genome
from search.sampling.scores.proxies import PROXIES, Loss, ProxyScores, get_proxy, list_proxies, register_proxy
from supernet import DiscreteNetwork, get_space, list_spaces
from supernet.spaces.skeleton import Stem
from training.metrics import Batch, count_multiply_adds, count_parameters

PUBLISHED = ["synflow", "jacob_cov", "snip", "naswot", "parameters", "multiply_adds"]
OF_DATA = ["jacob_cov", "snip", "naswot"]
LOWEST = {"synflow": math.log10(2.0**-1022), "snip": 0.0}


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch.targets)


def scored(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The score of the proxy `name`."""
    return get_proxy(name)(network, Batch(images, labels), cross_entropy)


class Small(nn.Module):
    """Two branches, one of them without a ReLU of its own, a batch norm and a linear layer with bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.branch = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False))
        self.classifier = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        state = self.norm(self.stem(images))
        return self.classifier(torch.relu(self.branch(state) + state).mean((2, 3)))


@pytest.fixture
def small() -> Small:
    torch.manual_seed(3)
    network = Small().double()
    nn.init.uniform_(network.norm.weight, 0.5, 1.5)
    nn.init.normal_(network.norm.bias)
    network.norm.running_mean += 1  # so that training mode can be told from evaluation
    return network.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(6, 2, 5, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2])


def weights_of(network: Small) -> list[Tensor]:
    return [network.stem.weight, network.branch[1].weight, network.classifier.weight]


def with_each(network: Small, value: Callable[[], float], mask: float) -> Iterator[float]:
    """`value` of the network with one weight at a time multiplied by `mask`."""
    with torch.no_grad():
        for weight in weights_of(network):
            flat = weight.view(-1)
            for place in range(len(flat)):
                kept = flat[place].item()
                flat[place] = mask * kept
                yield value()
                flat[place] = kept


# Against the definitions


def test_synflow_of_a_chain_is_the_product_of_its_weights() -> None:
    """R = 1^T |W_n| ... |W_1| 1, and each layer's weights carry all of it: n times R (Tanaka et al. 2020, section 6)."""
    sizes = [3, 5, 4, 6, 2]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    flow = torch.ones(3, dtype=torch.float64)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            flow = layer.weight.detach().double().abs() @ flow
    score = scored("synflow", nn.Sequential(*layers), torch.randn(4, 3, 1, 1), torch.zeros(4).long())
    assert score == pytest.approx(math.log10((len(sizes) - 1) * flow.sum().item()), rel=1e-12)


def test_synflow_is_what_is_lost_without_each_weight(small: Small, batch: tuple[Tensor, Tensor]) -> None:
    """R is linear in each weight, so that |w * dR/dw| is how much R falls where the weight is 0."""
    score = scored("synflow", small, *batch)
    small.norm = nn.Identity()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.abs_()

    def flow() -> float:
        return small(torch.ones(1, 2, 5, 4, dtype=torch.float64)).sum().item()

    whole = flow()
    assert 10**score == pytest.approx(sum(whole - less for less in with_each(small, flow, 0.0)), rel=1e-9)


def test_snip_is_the_sensitivity_to_each_connection(small: Small, batch: tuple[Tensor, Tensor]) -> None:
    """It is held to central differences in the mask c of each weight, c * w at c = 1 (Lee et al. 2019)."""
    images, labels = batch
    score = scored("snip", small, images, labels)
    small.train()

    def loss() -> float:
        logits = small(images)
        return -sum(logits[row].log_softmax(0)[label] for row, label in enumerate(labels.tolist())).item() / len(labels)

    step = 1e-6
    more, less = (list(with_each(small, loss, mask)) for mask in (1 + step, 1 - step))
    sensitivities = [abs(one - other) / (2 * step) for one, other in zip(more, less, strict=True)]
    assert score == pytest.approx(sum(sensitivities), rel=1e-6)


def test_jacob_cov_of_an_explicit_jacobian(small: Small, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    score = scored("jacob_cov", small, images, labels)
    small.train().norm.track_running_stats = False  # functorch changes nothing in place
    whole = torch.func.jacrev(small)(images)  # [B, classes, B, C, H, W]
    rows = [whole.sum((0, 1))[number].flatten().tolist() for number in range(len(images))]

    def covariance(one: list[float], other: list[float]) -> float:
        means = sum(one) / len(one), sum(other) / len(other)
        return sum((a - means[0]) * (b - means[1]) for a, b in zip(one, other, strict=True))

    correlations = [
        [covariance(one, other) / math.sqrt(covariance(one, one) * covariance(other, other)) for other in rows] for one in rows
    ]
    values = np.linalg.eigvals(np.array(correlations)).real
    expected = -sum(math.log(value + 1e-5) + 1 / (value + 1e-5) for value in values)
    assert score == pytest.approx(expected, rel=1e-7)


def test_naswot_counts_equal_activations(small: Small, batch: tuple[Tensor, Tensor]) -> None:
    """K_ij is how many ReLUs images i and j have in the same state; the ReLU in a function counts as the module does."""
    images, labels = batch
    score = scored("naswot", small, images, labels)
    small.train()
    state = small.norm(small.stem(images))
    second = small.branch[1](state.clamp_min(0)) + state
    codes = [[value > 0 for value in (*state[row].flatten(), *second[row].flatten())] for row in range(len(images))]
    kernel = [[sum(bool(a) == bool(b) for a, b in zip(one, other, strict=True)) for other in codes] for one in codes]
    assert len(codes[0]) == 2 * 4 * 5 * 4 == kernel[0][0]
    sign, expected = np.linalg.slogdet(np.array(kernel, dtype=float))
    assert sign == 1
    assert score == pytest.approx(expected, rel=1e-9)


def test_naswot_counts_what_the_logits_depend_on() -> None:
    """The kernel of one image is the number of ReLUs."""

    class Detour(Small):
        def forward(self, images: Tensor) -> Tensor:
            torch.relu(images)  # read by nothing
            constant = F.relu(images.detach()[:, :, :2] * 0)  # the same for all images, but on a way to the logits
            return super().forward(images) + constant.sum()

    image, label = torch.randn(1, 2, 5, 4), torch.tensor([0])
    assert scored("naswot", Small(), image, label) == pytest.approx(math.log(2 * 4 * 5 * 4))
    assert scored("naswot", Detour(), image, label) == pytest.approx(math.log(2 * 4 * 5 * 4 + 2 * 2 * 4))


@pytest.mark.parametrize("space", list_spaces())
def test_the_counts_are_those_of_the_network(space: str) -> None:
    encoding = Encoding(get_space(space))
    genome = encoding.random(Random(1))
    network = DiscreteNetwork(encoding.genotype(genome), 4, 3)
    images, labels = torch.randn(2, 3, 8, 8), torch.zeros(2).long()
    assert scored("parameters", network, images, labels) == count_parameters(network)
    assert scored("multiply_adds", network, images, labels) == count_multiply_adds(network, (3, 8, 8))
    for name in ("parameters", "multiply_adds"):
        scores = ProxyScores(encoding, name, 4, 3, Batch(images, labels), 10, cross_entropy, 0)
        assert scores(genome, 1.0) == scored(name, network, images, labels)


# Invariances


def test_synflow_knows_the_shape_of_the_images_alone(small: Small, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    score = scored("synflow", small, images, labels)
    assert scored("synflow", small, 7 * images.flip(0), labels.flip(0)) == score
    assert scored("synflow", small, images[:, :, :4], labels) != score


@pytest.mark.parametrize("name", OF_DATA)
def test_the_order_of_the_images_does_not_count(name: str, small: Small, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    score = scored(name, small, images, labels)
    assert scored(name, small, images[order], labels[order]) == pytest.approx(score, rel=1e-9)
    assert scored(name, small, images.flip(1) ** 2, labels) != pytest.approx(score, rel=1e-3)


@pytest.mark.parametrize("name", ["jacob_cov", "naswot"])
def test_labels_do_not_count_but_for_snip(name: str, small: Small, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    assert scored(name, small, images, labels) == scored(name, small, images, 2 - labels)
    assert scored("snip", small, images, labels) != scored("snip", small, images, 2 - labels)


# What all of them promise


def snapshot(network: nn.Module) -> list[object]:
    """All that a proxy could change, tensors as their bytes."""

    def content(tensor: Tensor | None) -> object:
        return None if tensor is None else tensor.detach().contiguous().numpy().tobytes()

    parameters = [(id(own), content(own), content(own.grad), own.requires_grad) for own in network.parameters()]
    modules = [(type(own), own.training, len(own._forward_hooks), len(own._backward_hooks)) for own in network.modules()]
    return [parameters, modules, [(id(buffer), content(buffer)) for buffer in network.buffers()]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_is_left_as_it_was(name: str, training: bool) -> None:
    encoding = Encoding(get_space("nasbench201"))
    network = DiscreteNetwork(encoding.genotype(encoding.random(Random(2))), 4, 1, image_channels=2).train(training)
    images, labels = torch.randn(4, 2, 8, 8), torch.tensor([0, 1, 2, 3])
    F.cross_entropy(network(images), labels).backward()
    network.head.classifier.bias.requires_grad_(False)
    network.head.norm.eval()
    network.head.norm.register_forward_hook(lambda *_: None)
    before, given, random = snapshot(network), images.clone(), torch.get_rng_state()
    scored(name, network, images, labels)
    assert snapshot(network) == before
    assert torch.equal(images, given) and not images.requires_grad and images.grad is None
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", ["synflow", *OF_DATA])
def test_neither_gradients_nor_mode_nor_frozen_weights_count(name: str, small: Small, batch: tuple[Tensor, Tensor]) -> None:
    score = scored(name, small, *batch)
    F.cross_entropy(small(batch[0]), batch[1]).backward()
    assert scored(name, small, *batch) == score
    assert scored(name, small.train(), *batch) == score
    assert scored(name, small.requires_grad_(False), *batch) == score


def some_architectures(space: str) -> list[Genome]:
    """Random ones, and all edges alike where the space allows it."""
    encoding, random = Encoding(get_space(space)), Random(11)
    found = [encoding.random(random) for _ in range(2)]
    for value in range(len(encoding.operations)):
        found.append(encoding.of_values([0 if variable.is_inputs else value for variable in encoding.variables]))
    return found


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize("name", list_proxies())
def test_every_architecture_has_a_finite_score(name: str, space: str) -> None:
    scores = new_scores(name, space)
    found = [scores(genome, 1.0) for genome in some_architectures(space)]
    assert all(type(score) is float and math.isfinite(score) for score in found)
    assert len(set(found)) > 2


def new_scores(name: str, space: str = "nasbench201", seed: int = 0, stem: Stem = "cifar") -> ProxyScores:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(5, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0, 1])
    size = 4, 3 if space == "darts" else 1
    return ProxyScores(Encoding(get_space(space)), name, *size, Batch(images, labels), 3, cross_entropy, seed, stem)


def named(*operations: str) -> Genome:
    candidates = get_space("nasbench201").candidates
    return tuple(candidates.index(name) for name in operations)


@pytest.mark.parametrize("name", ["synflow", *OF_DATA])
def test_a_network_without_a_path_has_the_lowest_score(name: str) -> None:
    """Edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3: convolutions that nothing reads change nothing."""
    scores = new_scores(name)
    dead = [named(*["none"] * 6), named("nor_conv_3x3", "none", "nor_conv_3x3", "none", "none", "none")]
    dead.append(named("none", "none", "nor_conv_3x3", "none", "nor_conv_1x1", "nor_conv_3x3"))
    alive = [named(*["none"] * 3, "skip_connect", "none", "none"), named(*["avg_pool_3x3"] * 6), named(*["nor_conv_1x1"] * 6)]
    lowest = max(scores(genome, 1.0) for genome in dead)
    assert all(lowest < scores(genome, 1.0) for genome in alive)
    if name in LOWEST:
        assert [scores(genome, 1.0) for genome in dead] == pytest.approx([LOWEST[name]] * 3, abs=1e-9)
    if name == "jacob_cov":
        equal = -(math.log(5 + 1e-5) + 1 / (5 + 1e-5)) - 4 * (math.log(1e-5) + 1e5)
        assert [scores(genome, 1.0) for genome in dead] == pytest.approx([equal] * 3)


def test_numbers_beyond_all_bounds_are_the_largest_there_are() -> None:
    network = nn.Sequential(nn.Flatten(), *[nn.Linear(4, 4, bias=False) for _ in range(3)]).double()
    for weight in network.parameters():
        nn.init.constant_(weight, 1e200)
    images, labels = torch.ones(2, 4, 1, 1).double(), torch.tensor([0, 1])
    assert scored("synflow", network, images, labels) == pytest.approx(308.25, abs=0.01)
    assert scored("snip", network, images, labels) == 0.0


def test_a_network_without_relu_has_the_lowest_naswot() -> None:
    score = scored("naswot", nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), torch.randn(4, 2, 2, 2), torch.zeros(4).long())
    assert score == pytest.approx(4 * math.log(4 * 2**-52))


# Scores of architectures


@pytest.mark.parametrize("name", ["synflow", *OF_DATA])
def test_a_score_depends_on_seed_and_architecture_alone(name: str) -> None:
    one, other = some_architectures("nasbench201")[:2]
    scores = new_scores(name)
    first = scores(one, 1.0)
    assert scores(other, 1.0) != first
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert scores(one, 1.0) == new_scores(name)(one, 1.0) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert new_scores(name, seed=1)(one, 1.0) != first


@pytest.fixture
def own_proxies() -> Iterator[None]:
    with PROXIES.temporarily():
        yield


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_score_is_the_proxy_of_the_network_that_retraining_builds(stem: Stem, own_proxies: None) -> None:
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    @register_proxy("test_proxies_spy")
    def spy(network: nn.Module, batch: Batch, loss: Loss) -> float:
        seen.append((network, *batch))
        return 4.5

    assert list_proxies() == [*PUBLISHED, "test_proxies_spy"]
    genome = some_architectures("darts")[0]
    assert new_scores("test_proxies_spy", "darts", stem=stem)(genome, 1.0) == 4.5
    ((network, images, labels),) = seen
    assert isinstance(network, DiscreteNetwork) and network.stem_name == stem
    assert new_scores("parameters", "darts", stem=stem)(genome, 1.0) == count_parameters(network)
    assert network.genotype == Encoding(get_space("darts")).genotype(genome)
    assert (network.channels, network.cell_count, network.classes, len(images)) == (4, 3, 3, 5)
    assert labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(value: float, own_proxies: None) -> None:
    register_proxy("test_proxies_bad")(lambda network, batch, loss: value)
    with pytest.raises(InputError, match=r"^evaluate: proxy test_proxies_bad gave an architecture the score (nan|inf); "):
        new_scores("test_proxies_bad")(some_architectures("nasbench201")[0], 1.0)


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown proxy 'fisher'; known: synflow, jacob_cov, snip, naswot, parameters"):
        get_proxy("fisher")
    with pytest.raises(ValueError, match=r"^proxy 'snip' is registered already$"):
        register_proxy("snip")(get_proxy("synflow"))
    with pytest.raises(ValueError, match=r"^evaluate: a proxy has whole evaluations only"):
        new_scores("parameters")(some_architectures("nasbench201")[0], 0.5)
