"""Tests of supernet/discrete.py."""

import copy
import csv
import gzip
import json
import random
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops import build_op, list_ops, register_op
from ops.images import FactorizedReduce
from retrain.api import random_genotype
from supernet.discrete import AuxiliaryHead, DiscreteCell, DiscreteNetwork, DropPath
from supernet.genotypes.genotype import CellGenotype, Genotype
from supernet.genotypes.published import get_genotype
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.nasbench201 import NASBENCH201_SKELETON
from supernet.spaces.skeleton import CellPosition
from training.metrics import count_multiply_adds, count_parameters

IMAGE = (3, 32, 32)
# Index in the benchmark: its text, parameters and multiply-adds.
NASBENCH = {
    9930: (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
        1_288_506,
        184_730_250,
    ),
    6111: (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
        1_073_466,
        153_272_970,
    ),
    1835: (
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
        73_306,
        7_783_050,
    ),
}
ALL_SKIP = NASBENCH[1835][0]
TEXT = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


def cost(genotype: Genotype) -> tuple[int, int]:
    """Parameters and multiply-adds of the network with the skeleton's own size."""
    network = DiscreteNetwork(genotype)
    return count_parameters(network), count_multiply_adds(network, IMAGE)


def darts(normal: CellGenotype, reduce: CellGenotype | None = None) -> Genotype:
    reduce = reduce or CellGenotype(((("max_pool_3x3", 0), ("max_pool_3x3", 1)),), (2,))
    return Genotype({"normal": normal, "reduce": reduce}, DARTS_SKELETON, "darts")


def with_operation(name: str, skeleton: str) -> Genotype:
    """A genotype that uses operation `name` wherever its strides allow."""
    if skeleton == "nasbench201":
        nodes = tuple(tuple((name, source) for source in range(node + 1)) for node in range(3))
        return Genotype({"cell": CellGenotype(nodes, (3,))}, NASBENCH201_SKELETON, "nasbench201")
    try:
        build_op(name, channels=4, stride=2)
        strided = name
    except ValueError:
        strided = "max_pool_3x3"
    normal = CellGenotype((((name, 0), (name, 1)), ((name, 2), ("skip_connect", 0))), (2, 3))
    reduce = CellGenotype((((strided, 0), (strided, 1)), ((name, 2), (strided, 0))), (2, 3))
    return darts(normal, reduce)


def lone_cell(cell: CellGenotype, stride: int = 1, channels: int = 4) -> DiscreteCell:
    """A DARTS cell whose inputs go through no preprocessing."""
    kind = "reduce" if stride == 2 else "normal"
    built = DiscreteCell(cell, DARTS_SKELETON, CellPosition(0, kind, 0, channels, (channels, channels), stride, False))
    built.preprocess = nn.ModuleList([nn.Identity(), nn.Identity()])
    return built


# Known answers


def test_darts_v2_has_the_published_parameters():
    assert count_parameters(DiscreteNetwork(get_genotype("DARTS_V2"))) == 3_349_342
    assert count_parameters(DiscreteNetwork(get_genotype("DARTS_V2"), auxiliary=True)) == 3_825_768


@pytest.mark.parametrize("index", NASBENCH)
def test_nasbench201_networks_cost_what_the_benchmark_says(index):
    text, parameters, multiply_adds = NASBENCH[index]
    assert cost(Genotype.parse(text)) == (parameters, multiply_adds)


SOME_AND_ALL = pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])


@SOME_AND_ALL
def test_published_genotypes_cost_what_was_published(every, shared_data):
    entries = json.loads(shared_data("genotypes/published.json").read_text())
    assert len(entries) == 62
    for entry in entries[::every]:
        parameters, multiply_adds = cost(Genotype.parse(entry["text"]))
        assert parameters == entry["params"], entry["name"]
        assert round(multiply_adds / 1e6, 2) == pytest.approx(entry["macs_M"], abs=0.0051), entry["name"]


def operations_of(text: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"(\w+)~", text)))


@SOME_AND_ALL
def test_all_of_nasbench201_costs_what_the_benchmark_says(every, shared_data):
    """All channels and strides in a cell are equal, so cells of the same six operations cost the same: one network for them."""
    with gzip.open(shared_data("nasbench201/cifar10.csv.gz"), "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15_625
    chosen = set(sorted({operations_of(row["arch"]) for row in rows})[::every])
    assert len(chosen) == 210 // every
    costs = {}
    for row in rows:
        operations = operations_of(row["arch"])
        if operations not in chosen:
            continue
        if operations not in costs:
            costs[operations] = cost(Genotype.parse(row["arch"]))
        assert costs[operations] == (int(row["params_cifar10"]), int(row["flops_cifar10"])), row["index"]
    assert set(costs) == chosen


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_operations_does_not_change_the_cost(seed):
    draw = random.Random(seed)
    operations = draw.choices(["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"], k=6)
    first = cost(Genotype.parse(TEXT.format(*operations)))
    for _ in range(3):
        draw.shuffle(operations)
        assert cost(Genotype.parse(TEXT.format(*operations))) == first


# How it is built


def test_a_cell_is_the_sum_over_its_inputs():
    cell = lone_cell(
        CellGenotype(
            (
                (("max_pool_3x3", 0), ("skip_connect", 1)),
                (("skip_connect", 2), ("avg_pool_3x3", 1), ("skip_connect", 2)),
                (("none", 0), ("avg_pool_3x3", 3)),
            ),
            (4, 1, 3),
        )
    )
    first, second = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5)

    def average(state):
        return F.avg_pool2d(state, 3, 1, 1, count_include_pad=False)

    node2 = F.max_pool2d(first, 3, 1, 1) + second
    node3 = 2 * node2 + average(second)
    expected = torch.cat((average(node3), second, node3), 1)
    torch.testing.assert_close(cell([first, second]), expected)


def test_only_edges_from_input_states_have_the_stride_of_a_reduction_cell():
    cell = lone_cell(
        CellGenotype(((("max_pool_3x3", 0), ("avg_pool_3x3", 1)), (("max_pool_3x3", 1), ("skip_connect", 2))), (2, 3)), 2
    )
    first, second = torch.randn(2, 4, 7, 6), torch.randn(2, 4, 7, 6)
    node2 = F.max_pool2d(first, 3, 2, 1) + F.avg_pool2d(second, 3, 2, 1, count_include_pad=False)
    node3 = F.max_pool2d(second, 3, 2, 1) + node2
    torch.testing.assert_close(cell([first, second]), torch.cat((node2, node3), 1))


def test_a_node_without_input_is_zero():
    cell = lone_cell(CellGenotype(((), (("skip_connect", 2), ("skip_connect", 1))), (2, 3)))
    first, second = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    assert torch.equal(cell([first, second]), torch.cat((torch.zeros(2, 4, 5, 5), second), 1))
    strided = lone_cell(CellGenotype(((), (("max_pool_3x3", 0),)), (2, 3)), stride=2)
    output = strided([first, second])
    assert output.shape == (2, 8, 3, 3)
    assert not output[:, :4].any()


def test_the_all_skip_cell_of_nasbench201_multiplies_by_four():
    network = DiscreteNetwork(Genotype.parse(ALL_SKIP), channels=4, cells=1)
    state = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(network.cells[0]([state]), 4 * state)


@pytest.mark.parametrize("name", ["DARTS_V2", "nasbench201"])
def test_batch_norm_is_affine_with_running_statistics_and_pools_have_none(name):
    text = TEXT.format(*["avg_pool_3x3", "nor_conv_3x3"] * 3)
    genotype = Genotype.parse(text) if name == "nasbench201" else get_genotype(name)
    network = DiscreteNetwork(genotype, channels=4, cells=4)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    assert all(norm.affine and norm.track_running_stats and norm.running_mean is not None for norm in norms)
    operations = [operation for cell in network.cells for node in cell.nodes for operation in node]
    assert any(isinstance(operation, nn.MaxPool2d | nn.AvgPool2d) for operation in operations)


def test_the_width_is_that_of_each_kind():
    normal = CellGenotype(((("skip_connect", 0),), (("skip_connect", 1),), (("skip_connect", 2),)), (2, 3, 4))
    reduce = CellGenotype(((("max_pool_3x3", 0),), (("max_pool_3x3", 1),)), (2, 3))
    network = DiscreteNetwork(darts(normal, reduce), channels=4, cells=5, auxiliary=True)
    kinds = [cell.position.kind for cell in network.cells]
    assert kinds == ["normal", "reduce", "normal", "reduce", "normal"]
    assert network.head.classifier.in_features == 3 * 16
    assert network.auxiliary.features[0].in_channels == 2 * 16


@pytest.mark.parametrize("size", [(32, 32), (4, 4), (5, 7), (9, 4)])
@pytest.mark.parametrize("name", ["DARTS_V2", "NASNet-A", "nasbench201"])
def test_images_of_any_size_from_4x4(name, size):
    genotype = Genotype.parse(NASBENCH[6111][0]) if name == "nasbench201" else get_genotype(name)
    network = DiscreteNetwork(genotype, channels=4, cells=3, classes=7, image_channels=2)
    logits = network(torch.randn(3, 2, *size))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.stem.parameters())
    assert network.eval()(torch.randn(1, 2, *size)).isfinite().all()


def test_images_that_do_not_fit_are_refused():
    network = DiscreteNetwork(Genotype.parse(ALL_SKIP), channels=4, cells=1)
    with pytest.raises(ValueError, match="3x8 is too small"):
        network(torch.randn(1, 3, 3, 8))
    with pytest.raises(ValueError, match=r"expected \[batch, 3, height, width\]"):
        network(torch.randn(1, 1, 8, 8))


@pytest.mark.parametrize("skeleton", ["darts", "nasbench201"])
@pytest.mark.parametrize("name", list_ops())
def test_every_operation_trains(name, skeleton):
    network = DiscreteNetwork(with_operation(name, skeleton), channels=4, cells=3 if skeleton == "darts" else 1)
    before = network.head.classifier.bias.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    loss = F.cross_entropy(network(torch.randn(4, 3, 8, 8)), torch.arange(4))
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert not torch.equal(network.head.classifier.bias, before)
    operations = [operation for cell in network.cells for node in cell.nodes for operation in node]
    weights = [weight for operation in operations for weight in operation.parameters()]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)


def test_an_operation_that_is_registered_later_can_be_used():
    @register_op("test_network_scale")
    def scale(channels, stride, affine):
        if stride != 1:
            raise ValueError("operation test_network_scale: has stride 1 alone")
        return nn.Conv2d(channels, channels, 1, groups=channels)

    for skeleton in ("darts", "nasbench201"):
        network = DiscreteNetwork(with_operation("test_network_scale", skeleton), channels=4, cells=3)
        network(torch.randn(2, 3, 8, 8)).sum().backward()
        built = [operation for cell in network.cells for node in cell.nodes for operation in node]
        assert any(isinstance(operation, nn.Conv2d) for operation in built)
    with pytest.raises(ValueError, match="has stride 1 alone"):
        cell = CellGenotype(((("test_network_scale", 0),),), (2,))
        DiscreteNetwork(darts(cell, cell), channels=4, cells=3)


def test_what_cannot_be_built_is_refused():
    genotype = get_genotype("DARTS_V2")
    with pytest.raises(ValueError, match="at least 3 cells, not 2"):
        DiscreteNetwork(genotype, cells=2)
    with pytest.raises(ValueError, match="channels: must be at least 1, not 0"):
        DiscreteNetwork(genotype, channels=0)
    with pytest.raises(ValueError, match="classes: must be at least 1, not 0"):
        DiscreteNetwork(genotype, channels=4, cells=3, classes=0)
    wide = Genotype(
        {"cell": CellGenotype(((("skip_connect", 0),), (("skip_connect", 0),)), (1, 2))}, NASBENCH201_SKELETON, "mine"
    )
    with pytest.raises(ValueError, match="one state as its output, not 2"):
        DiscreteNetwork(wide)


def test_weights_load_from_a_plain_dictionary():
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3)
    other = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3)
    other.load_state_dict(dict(network.state_dict()), strict=True)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(network.eval()(images), other.eval()(images))
    assert torch.equal(copy.deepcopy(network)(images), other(images))


@pytest.mark.slow
def test_the_import_is_light():
    heavy = "{'torchvision', 'torchmetrics', 'sklearn', 'matplotlib', 'tensorboard'}"
    code = f"import sys; from retrain import DiscreteNetwork; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# Drop path


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    outputs = torch.ones(4000, 3, 2, 2)
    drop = DropPath(0.3, 2, outputs)
    first, second = drop(outputs), drop(outputs)
    for dropped in (first, second):
        per_image = dropped.flatten(1)
        assert (per_image == per_image[:, :1]).all()
        torch.testing.assert_close(per_image.unique(), torch.tensor([0, 1 / 0.7]))
        assert (per_image[:, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
        assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    both = ((first == 0) & (second == 0)).float().mean().item()
    assert both == pytest.approx(0.09, abs=0.02)  # each operation has draws of its own


@pytest.mark.parametrize("like", [torch.float32, torch.bfloat16, torch.float64])
def test_drop_path_takes_a_probability_that_stays_on_the_device(like):
    outputs = torch.ones(4000, 2, 1, 1, dtype=like)
    probability = torch.zeros(())
    assert torch.equal(DropPath(probability, 1, outputs)(outputs), outputs)
    probability.fill_(0.25)
    dropped = DropPath(probability, 1, outputs)(outputs)
    assert dropped.dtype == like
    kept = torch.tensor(4 / 3).to(like)
    torch.testing.assert_close(dropped.unique(), torch.stack([torch.zeros_like(kept), kept]), rtol=1e-6, atol=0)
    assert (dropped[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_a_number_and_a_tensor_drop_the_same_paths():
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3)
    images = torch.randn(4, 3, 8, 8)
    outputs = []
    for probability in (0.5, torch.tensor(0.5)):
        network.drop_path = probability
        torch.manual_seed(5)
        outputs.append(network(images))
    assert torch.equal(*outputs)


def test_drop_path_spares_the_identity():
    network = DiscreteNetwork(Genotype.parse(ALL_SKIP), channels=4, cells=1)
    images = torch.randn(8, 3, 8, 8)
    expected = network(images)
    network.drop_path = 0.9
    assert torch.equal(network(images), expected)


def test_drop_path_meets_every_other_operation_in_training_alone():
    cell = lone_cell(CellGenotype(((("avg_pool_3x3", 0), ("skip_connect", 1)),), (2,)))
    first, second = torch.randn(400, 4, 5, 5), torch.randn(400, 4, 5, 5)
    pooled = F.avg_pool2d(first, 3, 1, 1, count_include_pad=False)
    kept = cell([first, second], 0.25) - second
    dropped = (kept.abs() < 1e-6).flatten(1).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.07)
    torch.testing.assert_close(kept[~dropped], pooled[~dropped] / 0.75, atol=1e-5, rtol=1e-5)

    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3)
    images = torch.randn(4, 3, 8, 8)
    network.drop_path = 0.5
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_drop_path_follows_the_seed():
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3)
    network.drop_path = 0.5
    images = torch.randn(4, 3, 8, 8)
    torch.manual_seed(5)
    first = network(images)
    torch.manual_seed(5)
    assert torch.equal(network(images), first)


# The auxiliary head


def test_the_auxiliary_head_pools_maps_of_8x8_as_published():
    head = AuxiliaryHead(6, 10).eval()
    state = torch.randn(2, 6, 8, 8)
    features = head.features(F.avg_pool2d(state.relu(), 5, 3))
    torch.testing.assert_close(head(state), head.classifier(features.flatten(1)))
    for size in ((1, 1), (2, 3), (16, 16)):
        assert head(torch.randn(2, 6, *size)).shape == (2, 10)


def test_the_auxiliary_head_stands_after_the_second_reduction():
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=6, auxiliary=True)
    logits, auxiliary = network.forward_with_auxiliary(torch.randn(4, 3, 32, 32))
    assert logits.shape == auxiliary.shape == (4, 10)
    F.cross_entropy(auxiliary, torch.arange(4)).backward()
    reached = [any(weight.grad is not None for weight in cell.parameters()) for cell in network.cells]
    assert reached == [True] * 5 + [False]


def test_the_auxiliary_head_does_not_change_the_logits():
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3, auxiliary=True).eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(images), network.forward_with_auxiliary(images)[0])


def test_networks_without_an_auxiliary_head_say_so():
    with pytest.raises(ValueError, match="set auxiliary_weight to 0"):
        DiscreteNetwork(Genotype.parse(ALL_SKIP), auxiliary=True)
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3)
    with pytest.raises(ValueError, match="build it with auxiliary=True"):
        network.forward_with_auxiliary(torch.randn(1, 3, 8, 8))


def test_the_older_input_is_halved_after_a_reduction():
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3)
    halving = [isinstance(cell.preprocess[0], FactorizedReduce) for cell in network.cells]
    assert halving == [False, False, True]


GENOTYPES = {
    **{name: get_genotype(name) for name in ("DARTS_V2", "PC-DARTS", "DrNAS")},
    **{f"{space}_{seed}": random_genotype(space, seed) for space in ("darts", "nasbench201") for seed in range(3)},
}


@pytest.mark.parametrize("name", GENOTYPES)
@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_compiled_kernels_compute_what_the_modules_do(name: str, drop_path: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and statistics, in float64, with the same paths dropped."""
    torch.manual_seed(0)
    genotype = GENOTYPES[name]
    network = DiscreteNetwork(genotype, 8, 3 if genotype.space == "darts" else 1, 10).double().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.uniform_(module.bias, -0.5, 0.5)
    images, found = torch.randn(4, 3, 12, 10).double(), []
    for compiled in (True, False):
        monkeypatch.setattr("supernet.discrete.supports", lambda *states, compiled=compiled: compiled)
        own = copy.deepcopy(network)
        own.drop_path = drop_path
        torch.manual_seed(1)
        logits = own(images)
        logits.square().sum().backward()
        kernels = {str(node) for node in graph_of(logits)}
        assert any("_RunBackward" in node for node in kernels) == compiled
        found.append([logits, *(weight.grad for weight in own.parameters()), *own.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def graph_of(output: Tensor) -> set[torch.autograd.graph.Node]:
    """All nodes of the graph of `output`."""
    found, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return found


def test_what_is_watched_or_evaluated_runs_its_modules() -> None:
    network = DiscreteNetwork(get_genotype("DARTS_V2"), 4, 3, 10)
    images = torch.randn(2, 3, 8, 8)

    def is_compiled() -> bool:
        return any("_RunBackward" in str(node) for node in graph_of(network(images)))

    assert is_compiled()
    network.eval()
    assert not is_compiled(), "what is evaluated is also exported"
    network.train()
    seen = []
    watched = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer in watched:
        layer.register_forward_hook(lambda module, *_: seen.append(module))
    network(images)
    assert len(seen) == len(watched)
