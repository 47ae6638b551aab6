"""The supernet against the plain network: one module an edge and operation, written independently."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.network import PlainSupernet
from benchmarks.plain.pairing import copy_weights, pairs, part
from ops import build_op
from supernet import Genotype, Path, Supernet, get_space
from supernet.spaces.space import SearchSpace, list_spaces
from training.optim import OptimizerConfig, freezing_slices, new_optimizer

TINY = {"darts": {"channels": 4, "cells": 3}, "nasbench201": {"channels": 4, "cells": 1}}
SPACES = sorted(TINY)


def twins(space: str, **options) -> tuple[Supernet, PlainSupernet]:
    network = Supernet(get_space(space), **TINY[space], classes=5, **options).double()
    options.pop("tie_cells", None)
    plain = PlainSupernet(space, **TINY[space], classes=5, **options).double()
    copy_weights(network, plain)
    return network, plain


def tables(network: Supernet, tied: bool = True) -> dict[str, Tensor]:
    cells = None if tied else network.cells_of_kind
    return {kind: a.detach().double() for kind, a in network.space.new_alphas(cells, scale=1.0).items()}


def assert_same(network: Supernet, plain: PlainSupernet, size: int, alphas: Mapping[str, Tensor], path=None) -> None:
    """Logits and the gradients of every weight and alpha agree to 1e-10."""
    images = torch.randn(3, 3, size, size + 1, dtype=torch.float64)
    labels = torch.tensor([0, 3, 4])
    results = []
    for net in (network, plain):
        leaves = {kind: alpha.clone().requires_grad_() for kind, alpha in alphas.items()}
        mixture = {kind: leaf.softmax(-1) for kind, leaf in leaves.items()}
        choice = path if path is None or net is plain else Path(path)
        logits = net(images, mixture, choice)
        F.cross_entropy(logits, labels).backward()
        results.append((logits, [leaf.grad for leaf in leaves.values()]))
    (logits, gradients), (plain_logits, plain_gradients) = results
    torch.testing.assert_close(logits, plain_logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-10, atol=1e-10)
    assert any(gradient.abs().max() > 1e-6 for gradient in gradients)
    for parameter, row, other in pairs(network, plain):
        ours = None if parameter.grad is None else part(parameter.grad, row)
        zero = torch.zeros_like(other)
        torch.testing.assert_close(
            zero if ours is None else ours, zero if other.grad is None else other.grad, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("size", [8, 7, 5])
@pytest.mark.parametrize("space", SPACES)
def test_equals_the_plain_network(space: str, size: int) -> None:
    network, plain = twins(space)
    assert_same(network, plain, size, tables(network))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("partial", [2, 4])
def test_partial_channels(space: str, partial: int) -> None:
    network, plain = twins(space, partial=partial)
    assert_same(network, plain, 7, tables(network))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("partial", [1, 2])
def test_masked_candidates_have_no_weights(space: str, partial: int) -> None:
    whole = Supernet(get_space(space), **TINY[space], partial=partial)
    shape = (len(whole.space.edges), len(whole.space.candidates))
    keep = {kind: torch.rand(shape) < 0.4 for kind in whole.space.kinds}
    for table in keep.values():
        table[0] = False  # an edge with no operation at all
    network, plain = twins(space, candidates=keep, partial=partial)
    assert_same(network, plain, 6, tables(network))
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("partial", [1, 2])
def test_path_runs_the_chosen_operations_only(space: str, partial: int) -> None:
    network, plain = twins(space, partial=partial)
    columns = len(network.space.candidates)
    path = {kind: torch.randint(-1, columns, (len(network.space.edges),)).tolist() for kind in network.space.kinds}
    assert_same(network, plain, 7, tables(network), path)


# A genotype as a path

every_space = pytest.mark.parametrize("space", [get_space(name) for name in list_spaces()], ids=list_spaces())


def random_genotype(space: SearchSpace) -> Genotype:
    return space.derive({kind: torch.rand(len(space.edges), len(space.candidates)) for kind in space.kinds})


@every_space
def test_a_genotype_comes_back_from_its_path(space: SearchSpace) -> None:
    for _ in range(20):
        genotype = random_genotype(space)
        path = Path.of_genotype(genotype, space)
        mixture = path.one_hot(space)
        for kind, cell in genotype.cells.items():
            table = mixture[kind]
            assert table.shape == (len(space.edges), len(space.candidates)) and table.dtype == torch.float32
            marked = {(space.edges[edge], space.candidates[column]) for edge, column in table.nonzero().tolist()}
            feeds = [((source, space.inputs + node), name) for node, its in enumerate(cell.nodes) for name, source in its]
            assert marked == set(feeds) and table.sum() == len(feeds) == len(marked)
            chosen = [column for column in path.choices[kind] if column >= 0]
            assert chosen == table.argmax(-1)[table.any(-1)].tolist()
        assert space.derive(mixture) == genotype


@pytest.mark.parametrize("space", SPACES)
def test_a_genotype_as_a_path_computes_what_its_one_hot_mixture_does(space: str) -> None:
    network = Supernet(get_space(space), **TINY[space]).double()
    path = Path.of_genotype(random_genotype(network.space), network.space)
    images, mixture = torch.randn(2, 3, 8, 8).double(), path.one_hot(network.space)
    torch.testing.assert_close(network(images, mixture, path), network(images, mixture), rtol=1e-10, atol=1e-10)


def test_paths_of_cells_that_are_not_tied_have_a_one_hot_each() -> None:
    space = get_space("nasbench201")
    choices = torch.randint(-1, 5, (3, 6))
    (table,) = Path({"cell": choices}).one_hot(space).values()
    assert table.shape == (3, 6, 5)
    assert torch.equal(table.sum(-1), (choices >= 0).float())
    assert torch.equal(table.argmax(-1)[choices >= 0], choices[choices >= 0])


def test_a_genotype_of_another_space_is_no_path() -> None:
    darts, nasbench = get_space("darts"), get_space("nasbench201")
    with pytest.raises(ValueError, match=r"^genotype: has the cells normal, reduce, space nasbench201 cell$"):
        Path.of_genotype(random_genotype(darts), nasbench)
    without_pools = replace(darts, name="without pools", candidates=("none", "skip_connect", "sep_conv_3x3"))
    pools = ", ".join(["('max_pool_3x3', 0), ('max_pool_3x3', 1)"] * 4)
    genotype = f"Genotype(normal=[{pools}], normal_concat=range(2, 6), reduce=[{pools}], reduce_concat=range(2, 6))"
    with pytest.raises(ValueError, match=r"^genotype: max_pool_3x3 on edge \(0, 2\) is not in space without pools$"):
        Path.of_genotype(Genotype.parse(genotype), without_pools)
    smaller = replace(nasbench, name="smaller", nodes=2, concat=(2,))
    with pytest.raises(ValueError, match=r"^genotype: \w+ on edge \(0, 3\) is not in space smaller$"):
        Path.of_genotype(random_genotype(nasbench), smaller)


def test_a_genotype_with_other_kinds_of_cell_is_no_path() -> None:
    """Its edges and operations are there in both spaces."""
    genotype = Genotype.parse("|skip_connect~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|")
    with pytest.raises(ValueError, match=r"^genotype: .*\bcell\b"):
        Path.of_genotype(genotype, get_space("darts"))


def test_a_path_has_no_place_for_two_operations_on_an_edge() -> None:
    pairs = "('sep_conv_3x3', 0), ('skip_connect', 0)"
    cell = ", ".join([pairs, *["('sep_conv_3x3', 0), ('sep_conv_3x3', 1)"] * 3])
    genotype = Genotype.parse(
        f"Genotype(normal=[{cell}], normal_concat=range(2, 6), reduce=[{cell}], reduce_concat=range(2, 6))"
    )
    with pytest.raises(ValueError, match=r"^genotype: .*edge \(0, 2\)"):
        Path.of_genotype(genotype, get_space("darts"))


@pytest.mark.parametrize("space", SPACES)
def test_untied_cells(space: str) -> None:
    network, plain = twins(space, tie_cells=False)
    assert_same(network, plain, 6, tables(network, tied=False))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_evaluation_uses_the_statistics_asked_for(space: str, batch_statistics: bool) -> None:
    network, plain = twins(space, batch_statistics=batch_statistics)
    alphas = tables(network)
    assert_same(network, plain, 6, alphas)  # a training pass, which moves running statistics
    network.eval()
    plain.eval()
    assert_same(network, plain, 6, alphas)


@pytest.mark.parametrize(("space", "cells", "expected"), [("darts", 8, 1_930_618), ("nasbench201", 5, 1_686_106)])
def test_number_of_weights(space: str, cells: int, expected: int) -> None:
    network = Supernet(get_space(space), channels=16, cells=cells, classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_initial_weights_are_spread_as_those_of_the_module() -> None:
    """Fan-in is that of the unstacked shape, on every edge."""
    network = Supernet(get_space("darts"), channels=16, cells=3)
    cell = network.mixed_cells()[0]
    for key, slot in cell.slots.items():
        name = key.partition("/")[2]
        bank = cell.banks[key]
        module = build_op(cell.space.searched_as.get(name, name), 16, 1, affine=False)
        for parameter, reference in zip(bank.parameters(), module.parameters(), strict=True):
            assert parameter.shape == (len(slot.edges), *reference.shape)
            bound = reference[0].numel() ** -0.5  # of a uniform distribution, kaiming_uniform_ with a = sqrt(5)
            for row in parameter:
                assert abs(row.std().item() * 3**0.5 / bound - 1) < 0.25
                assert row.abs().max() <= bound


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_idle_slices_are_unchanged_by_the_optimiser(name: str) -> None:
    """Bit for bit, momentum and decay included, while the operations on the path do move."""
    space = get_space("darts")
    network = Supernet(space, **TINY["darts"])
    optimizer = new_optimizer(OptimizerConfig(name=name, weight_decay=0.1), network.parameters())
    mixture = {kind: alpha.detach().softmax(-1) for kind, alpha in space.new_alphas().items()}
    images = torch.randn(4, 3, 8, 8)

    def step(path: Path | None) -> None:
        optimizer.zero_grad()
        network(images, mixture, path).square().mean().backward()
        with freezing_slices(optimizer, {} if path is None else network.idle(path)):
            optimizer.step()

    def snapshot() -> dict:
        state = {p: {k: v.clone() for k, v in optimizer.state[p].items() if v.shape == p.shape} for p in network.parameters()}
        return {p: (p.detach().clone(), state[p]) for p in network.parameters()}

    chosen = Path({kind: [index % 8 for index in range(14)] for kind in space.kinds})
    step(chosen)  # without earlier state
    idle = network.idle(chosen)
    moments = [v[mask] for p, mask in idle.items() for v in optimizer.state[p].values() if v.shape == p.shape]
    assert all((moment == 0).all() for moment in moments)
    step(None)
    before = snapshot()
    step(chosen)
    moved = 0
    for parameter, mask in idle.items():
        weights, state = before[parameter]
        assert torch.equal(parameter[mask], weights[mask])
        for key, value in state.items():
            assert torch.equal(optimizer.state[parameter][key][mask], value[mask])
        moved += not torch.equal(parameter[~mask], weights[~mask])
    assert idle and moved == sum(not mask.all() for mask in idle.values())


def test_frozen_slices_are_unchanged_by_the_optimiser() -> None:
    space = get_space("nasbench201")
    network = Supernet(space, **TINY["nasbench201"])
    optimizer = new_optimizer(OptimizerConfig(), network.parameters())
    frozen = torch.zeros(6, 5, dtype=torch.bool)
    frozen[2, 3] = True
    slices = network.slices({"cell": frozen})
    before = {parameter: parameter.detach().clone() for parameter in network.parameters()}
    network(torch.randn(2, 3, 8, 8), {"cell": torch.full((6, 5), 0.2)}).square().mean().backward()
    with freezing_slices(optimizer, slices):
        optimizer.step()
    assert len(slices) == 3
    for parameter in network.parameters():
        mask = slices.get(parameter)
        if mask is None:
            assert not torch.equal(parameter, before[parameter])
        else:
            assert torch.equal(parameter[mask], before[parameter][mask])
            assert not torch.equal(parameter[~mask], before[parameter][~mask])


def test_wrong_arguments_are_refused() -> None:
    space = get_space("darts")
    with pytest.raises(ValueError, match="at least 3 cells, not 2"):
        Supernet(space, cells=2)
    with pytest.raises(ValueError, match="16 channels cannot be cut into 3 equal parts"):
        Supernet(space, partial=3)
    with pytest.raises(ValueError, match=r"candidates\['normal'\]: expected bool \[14, 8\]"):
        Supernet(space, candidates={"normal": torch.ones(14, 8)})
    with pytest.raises(ValueError, match="has the kinds normal, reduce, not 'cell'"):
        Supernet(space, candidates={"cell": torch.ones(14, 8, dtype=torch.bool)})
    with pytest.raises(ValueError, match="classes: must be at least 1"):
        Supernet(space, classes=0)
    network = Supernet(space, **TINY["darts"])
    mixture = {kind: torch.full((14, 8), 1 / 8) for kind in space.kinds}
    with pytest.raises(ValueError, match="3x8 is too small, the network needs at least 4x4"):
        network(torch.zeros(1, 3, 3, 8), mixture)
    with pytest.raises(ValueError, match=r"expected \[batch, 3, height, width\], got \[1, 1, 8, 8\]"):
        network(torch.zeros(1, 1, 8, 8), mixture)
    images = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="has the kinds normal, reduce, not cell"):
        network(images, {"cell": torch.ones(14, 8)})
    with pytest.raises(ValueError, match=r"mixture\['reduce'\]: expected \[edges=14, candidates=8\], got \[14, 5\]"):
        network(images, {**mixture, "reduce": torch.ones(14, 5)})
    with pytest.raises(ValueError, match=r"takes \[edges, candidates\], got \[2, 14, 8\]"):
        network(images, {**mixture, "normal": torch.ones(2, 14, 8)})
    with pytest.raises(ValueError, match="no choice for cells of kind 'normal'"):
        network(images, mixture, Path({}))
    with pytest.raises(ValueError, match=r"path\['normal'\], edge 1: index 8 is not in -1..7"):
        network(images, mixture, Path({kind: [0, 8, *[0] * 12] for kind in space.kinds}))
    keep = torch.ones(14, 8, dtype=torch.bool)
    keep[3, 4] = False
    network.rebuild(candidates={"normal": keep})
    with pytest.raises(ValueError, match=r"path\['normal'\], edge 3: candidate sep_conv_3x3 is masked"):
        network(images, mixture, Path({kind: [4] * 14 for kind in space.kinds}))
