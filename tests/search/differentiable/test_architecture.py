"""Mixtures, schedules and edge normalisation of an architecture against loops, and whole networks against the plain one."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain.network import PlainCell, PlainSupernet
from benchmarks.plain.pairing import copy_weights, pairs, part
from ops.functional import channel_shuffle
from search.differentiable import trainer
from search.differentiable.architecture import Architecture
from search.differentiable.config import SearchConfig
from search.differentiable.regularisers import REGULARISERS, RegulariserConfig, kl_to_uniform, register_regulariser
from search.differentiable.relaxations import RELAXATIONS, Relaxation, RelaxationConfig, gumbel, register_relaxation
from supernet import Supernet, get_space
from supernet.spaces.space import SearchSpace

SIZES = {"darts": {"channels": 8, "cells": 3}, "nasbench201": {"channels": 8, "cells": 1}}
CELLS = {"darts": {"normal": 1, "reduce": 2}, "nasbench201": {"cell": 3}}
SPACES = sorted(SIZES)


def new_architecture(tied: bool = True, keep: Mapping[str, Tensor] | None = None, **options: Any) -> Architecture:
    """Returns one in float64, with alphas and betas that are far from equal."""
    defaults: dict[str, Any] = {"space": "nasbench201", "epochs": 5}
    config = SearchConfig(tie_cells=tied, **defaults | options)
    cells = None if tied else CELLS[config.space]
    architecture = trainer.new_architecture(config, get_space(config.space), cells, torch.device("cpu"))
    for tables in (architecture.alphas, architecture.betas):
        for kind, table in tables.items():
            tables[kind] = nn.Parameter(torch.randn(table.shape, dtype=torch.float64))
    if keep is not None:
        architecture.restrict(keep)
    return architecture


def some_removed(space: SearchSpace) -> dict[str, Tensor]:
    """Half of the candidates, and whole edges: the last, and all that enter the first node."""
    keep = {kind: torch.rand(len(space.edges), len(space.candidates)) < 0.5 for kind in space.kinds}
    for table in keep.values():
        table[:, 0] = True
        table[-1] = False
        table[[target == space.inputs for _, target in space.edges]] = False
    return keep


def plain_mixture(
    space: SearchSpace, alphas: Mapping[str, Tensor], betas: Mapping[str, Tensor], keep: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """softmax(alpha) over the kept candidates times softmax(beta) over the edges into the same node that have any.

    DARTS, equation 2, and PC-DARTS, section 3.3; differentiable, one number at a time.
    """
    mixture = {}
    for kind, alpha in alphas.items():
        tables = []
        untied = alpha.ndim == 3
        cells = zip(alpha, betas[kind], strict=True) if untied else [(alpha, betas[kind])]
        for cell_alphas, cell_betas in cells:
            table = []
            for edge, (_, target) in enumerate(space.edges):
                kept = [column for column in range(len(space.candidates)) if keep[kind][edge, column]]
                into = [other for other, (_, end) in enumerate(space.edges) if end == target and keep[kind][other].any()]
                total = sum(cell_alphas[edge, column].exp() for column in kept)
                node = sum(cell_betas[other].exp() for other in into)
                for column in range(len(space.candidates)):
                    if column not in kept:
                        table.append(alpha.new_zeros(()))
                    else:
                        table.append(cell_betas[edge].exp() / node * cell_alphas[edge, column].exp() / total)
            tables.append(torch.stack(table).view(cell_alphas.shape))
        mixture[kind] = torch.stack(tables) if untied else tables[0]
    return mixture


def all_kept(space: SearchSpace) -> dict[str, Tensor]:
    return {kind: torch.ones(len(space.edges), len(space.candidates), dtype=torch.bool) for kind in space.kinds}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_edge_normalisation_shares_out_each_node(space: str, removed: bool, tied: bool) -> None:
    """Values, and gradients with respect to alphas and betas."""
    found = get_space(space)
    keep = some_removed(found) if removed else all_kept(found)
    architecture = new_architecture(tied, keep, space=space, edge_normalization=True)
    mixture, path = architecture.draw()
    expected = plain_mixture(found, architecture.alphas, architecture.betas, keep)
    assert path is None
    torch.testing.assert_close(mixture, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(architecture.mean(), expected, rtol=1e-12, atol=1e-15)
    upstream = [torch.randn_like(table) for table in mixture.values()]
    gradients, expected_gradients = (
        torch.autograd.grad(list(tables.values()), architecture.parameters(), upstream) for tables in (mixture, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-14)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_the_weights_into_a_node_sum_to_one(space: str, tied: bool) -> None:
    architecture = new_architecture(tied, space=space, edge_normalization=True)
    for table in architecture.draw()[0].values():
        for node in {target for _, target in architecture.space.edges}:
            rows = [edge for edge, (_, target) in enumerate(architecture.space.edges) if target == node]
            torch.testing.assert_close(table[..., rows, :].sum((-1, -2)), table.new_ones(table.shape[:-2]))


@pytest.mark.parametrize("name", ["gumbel", "straight_through", "dirichlet"])
def test_edge_normalisation_scales_any_draw(name: str) -> None:
    architecture = new_architecture(relaxation=RelaxationConfig(name), edge_normalization=True)
    bare = new_architecture(relaxation=RelaxationConfig(name))
    bare.alphas = architecture.alphas
    drawn = []
    for one in (architecture, bare):
        torch.manual_seed(3)
        drawn.append(one.draw()[0]["cell"])
    beta = architecture.betas["cell"]
    for edge, (_, target) in enumerate(architecture.space.edges):
        into = [other for other, (_, end) in enumerate(architecture.space.edges) if end == target]
        share = beta[edge].exp() / sum(beta[other].exp() for other in into)
        torch.testing.assert_close(drawn[0][edge], share * drawn[1][edge], rtol=1e-12, atol=1e-15)


def test_without_edge_normalisation_there_are_no_betas() -> None:
    architecture = new_architecture()
    assert architecture.betas == {} and architecture.parameters() == [architecture.alphas["cell"]]
    torch.testing.assert_close(architecture.draw()[0]["cell"], architecture.alphas["cell"].softmax(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_alphas_and_betas_in_single_precision(tied: bool) -> None:
    space = get_space("darts")
    cells, keep = None if tied else CELLS["darts"], SearchConfig().candidates(space)

    def new(**options: Any) -> Architecture:
        return Architecture(space, keep, cells, torch.device("cpu"), 50, **options)

    first, again = (new(edge_normalization=True) for _ in range(2))
    found = first.parameters()
    assert [id(one) for one in found] == [id(one) for one in [*first.alphas.values(), *first.betas.values()]]
    leading = [() if tied else (CELLS["darts"][kind],) for kind in space.kinds]
    assert [tuple(one.shape) for one in found] == [(*c, 14, 8) for c in leading] + [(*c, 14) for c in leading]
    assert all(one.dtype == torch.float32 and one.requires_grad and 0 < one.std() < 3e-3 for one in found)
    assert all(torch.equal(one, other) for one, other in zip(found, again.parameters(), strict=True))
    other_seed, bare = new(edge_normalization=True, seed=1), new()
    assert not torch.equal(other_seed.alphas["normal"], first.alphas["normal"])
    assert torch.equal(bare.alphas["reduce"], first.alphas["reduce"])


def test_temperature_falls_linearly_from_the_first_epoch_to_the_last() -> None:
    architecture = new_architecture(relaxation=RelaxationConfig("gumbel", 10.0, 0.5))
    for epoch, expected in enumerate([10.0, 7.625, 5.25, 2.875, 0.5, 0.5, 0.5]):
        architecture.begin_epoch(epoch)
        assert architecture.schedule() == {"temperature": expected}
        torch.manual_seed(epoch)
        drawn, _ = architecture.draw()
        torch.manual_seed(epoch)
        wanted = gumbel(architecture.alphas["cell"], architecture.keep["cell"], torch.tensor(expected))
        torch.testing.assert_close(drawn["cell"], wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("options", "expected"), [({"temperature": 3.0}, 3.0), ({"temperature_end": 0.5}, 1.0)])
def test_temperature_of_a_search_of_one_epoch_is_the_first(options: dict, expected: float) -> None:
    architecture = new_architecture(relaxation=RelaxationConfig("gumbel", **options), epochs=1)
    torch.manual_seed(0)
    drawn, _ = architecture.draw()
    torch.manual_seed(0)
    wanted = gumbel(architecture.alphas["cell"], architecture.keep["cell"], torch.tensor(expected))
    torch.testing.assert_close(drawn["cell"], wanted, rtol=1e-12, atol=1e-15)


def test_the_weight_of_the_regulariser_follows_its_schedule() -> None:
    architecture = new_architecture(space="darts", regulariser=RegulariserConfig("beta", 0.0, 50.0))
    value = sum(row.exp().sum().log() for alpha in architecture.alphas.values() for row in alpha) / 14
    for epoch, expected in enumerate([0.0, 12.5, 25.0, 37.5, 50.0, 50.0]):
        architecture.begin_epoch(epoch)
        assert architecture.schedule() == {"regulariser": expected}
        penalty = architecture.penalty()
        assert penalty is not None
        torch.testing.assert_close(penalty, expected * value, rtol=1e-12, atol=0)


def test_the_penalty_is_summed_over_the_kinds_of_cell_and_differentiable() -> None:
    relaxation = RelaxationConfig("dirichlet")
    keep = some_removed(get_space("darts"))
    architecture = new_architecture(
        True, keep, space="darts", relaxation=relaxation, regulariser=RegulariserConfig("kl", 0.5), edge_normalization=True
    )
    penalty = architecture.penalty()
    assert penalty is not None
    expected = 0.5 * sum(kl_to_uniform(alpha, keep[kind]) for kind, alpha in architecture.alphas.items())
    torch.testing.assert_close(penalty, expected, rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(penalty, list(architecture.alphas.values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_without_a_regulariser_there_is_no_penalty() -> None:
    architecture = new_architecture()
    assert architecture.penalty() is None and architecture.schedule() == {}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_the_auxiliary_skip_is_added_to_its_column_and_fades(space: str, tied: bool) -> None:
    architecture = new_architecture(tied, space=space, exclude=["none"], auxiliary_skip=2.0, epochs=4, edge_normalization=True)
    column = get_space(space).candidates.index("skip_connect")
    for epoch, expected in enumerate([2.0, 1.5, 1.0, 0.5, 0.0, 0.0]):
        architecture.begin_epoch(epoch)
        assert architecture.schedule() == {"auxiliary_skip": expected}
        bare = plain_mixture(architecture.space, architecture.alphas, architecture.betas, architecture.keep)
        for drawn, path in (architecture.draw(), architecture.evaluated()):
            assert path is None
            for kind, table in drawn.items():
                added = table - bare[kind]
                torch.testing.assert_close(added[..., column], torch.full_like(added[..., column], expected))
                added[..., column] = 0
                torch.testing.assert_close(added, torch.zeros_like(added), rtol=0, atol=1e-15)
        torch.testing.assert_close(architecture.mean(), bare, rtol=1e-12, atol=1e-15)


def test_the_auxiliary_skip_is_not_added_where_the_operation_is_gone() -> None:
    keep = all_kept(get_space("nasbench201"))
    keep["cell"][2, 1] = False
    architecture = new_architecture(True, keep, auxiliary_skip=1.0)
    drawn, _ = architecture.draw()
    assert drawn["cell"][2, 1] == 0 and (drawn["cell"][[0, 1, 3, 4, 5], 1] > 1).all()


def twins(architecture: Architecture, **options: Any) -> tuple[Supernet, PlainSupernet]:
    """The supernet for that architecture and the plain one, with the same weights, in float64."""
    name = architecture.space.name
    options |= {"candidates": architecture.keep, **SIZES[name]}
    network = Supernet(
        architecture.space, classes=5, tie_cells=all(alpha.ndim == 2 for alpha in architecture.alphas.values()), **options
    ).double()
    plain = PlainSupernet(name, classes=5, **options).double()
    copy_weights(network, plain)
    return network, plain


def assert_same(
    architecture: Architecture,
    network: Supernet,
    plain: PlainSupernet,
    mixture: Callable[[], Mapping[str, Tensor]],
    size: int = 7,
) -> None:
    """Logits, and gradients of weights, alphas and betas, agree to 1e-10; `mixture` is the plain network's."""
    images, labels = torch.randn(3, 3, size, size, dtype=torch.float64), torch.tensor([0, 3, 4])
    logits, plain_logits = network(images, *architecture.draw()), plain(images, mixture())
    torch.testing.assert_close(logits, plain_logits, rtol=1e-10, atol=1e-10)
    weights = [[*net.parameters()] for net in (network, plain)]
    gradients = []
    for one, parameters in zip((logits, plain_logits), weights, strict=True):
        targets = [*architecture.parameters(), *parameters]
        loss = F.cross_entropy(one, labels)
        gradients.append(dict(zip(targets, torch.autograd.grad(loss, targets, materialize_grads=True), strict=True)))
    ours, theirs = gradients
    for parameter in architecture.parameters():
        torch.testing.assert_close(ours[parameter], theirs[parameter], rtol=1e-9, atol=1e-10)
        assert ours[parameter].abs().max() > 1e-5
    for weight, row, other in pairs(network, plain):
        torch.testing.assert_close(part(ours[weight], row), theirs[other], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("removed", [False, True])
def test_pc_darts_equals_the_plain_network(space: str, tied: bool, removed: bool) -> None:
    """A quarter of the channels through operations, under edge normalisation."""
    found = get_space(space)
    keep = all_kept(found)
    if removed:
        for table in keep.values():
            table[1:3, 1:] = False
            table[1] = False
    architecture = new_architecture(tied, keep, space=space, partial=4, edge_normalization=True)
    network, plain = twins(architecture, partial=4)
    assert_same(architecture, network, plain, lambda: plain_mixture(found, architecture.alphas, architecture.betas, keep))


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 12])
def test_channel_shuffle_takes_one_channel_of_each_group_in_turn(groups: int) -> None:
    state = torch.randn(2, 12, 3, 2, requires_grad=True)
    shuffled = channel_shuffle(state, groups)
    each = 12 // groups
    for position in range(each):
        for group in range(groups):
            assert torch.equal(shuffled[:, position * groups + group], state[:, group * each + position])
    upstream = torch.randn_like(shuffled)
    (gradient,) = torch.autograd.grad(shuffled, state, upstream)
    assert torch.equal(channel_shuffle(gradient, groups), upstream)


@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize("space", SPACES)
def test_the_auxiliary_skip_is_an_identity_beside_every_edge(space: str, partial: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """DARTS-: edge(x) + beta x. On edges of stride 2 x goes through the candidate's factorised reduction."""
    architecture = new_architecture(space=space, exclude=["none"], auxiliary_skip=1.0, epochs=4, partial=partial)
    architecture.begin_epoch(1)
    network, plain = twins(architecture, partial=partial)
    mixed_edge = PlainCell._mixed_edge

    def with_skip(cell: PlainCell, edge: int, x: Tensor, weights: Tensor, chosen: int | None) -> Tensor:
        source, target = cell.edges[edge]
        inner = x.shape[1] // partial
        processed, bypass = x[:, :inner], x[:, inner:]
        if cell._stride(source) == 2:
            processed = cell.operations[f"{source}_{target}_skip_connect"](processed)
            bypass = F.max_pool2d(bypass, 2, 2, ceil_mode=True) if partial > 1 else processed[:, :0]
        skipped = torch.cat([processed, bypass], dim=1)
        return mixed_edge(cell, edge, x, weights, chosen) + 0.75 * channel_shuffle(skipped, partial)

    monkeypatch.setattr(PlainCell, "_mixed_edge", with_skip)
    assert_same(
        architecture, network, plain, lambda: {kind: alpha_softmax(alpha) for kind, alpha in architecture.alphas.items()}
    )


def alpha_softmax(alpha: Tensor) -> Tensor:
    """Returns the softmax of a table whose first candidate, none, is gone."""
    powers = alpha[..., 1:].exp()
    return F.pad(powers / powers.sum(-1, keepdim=True), (1, 0))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("edge_normalization", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_one_path_draws_run_what_they_chose(space: str, edge_normalization: bool, tied: bool) -> None:
    """The network on a path equals the plain one, which computes every candidate, under the same mixture."""
    found = get_space(space)
    keep = some_removed(found)
    architecture = new_architecture(
        tied, keep, space=space, relaxation=RelaxationConfig("straight_through"), edge_normalization=edge_normalization
    )
    for drawn, path in (architecture.draw(), architecture.evaluated()):
        assert path is not None
        for kind, table in drawn.items():
            chosen = path.choices[kind]
            assert isinstance(chosen, Tensor)
            assert ((chosen == -1) == ~keep[kind].any(-1)).all()
            at_path = F.one_hot(chosen.clamp_min(0), len(found.candidates)).bool() & keep[kind]
            assert (table[~at_path] == 0).all() and (table[at_path] > 0).all()
            if not edge_normalization:
                torch.testing.assert_close(table[at_path], torch.ones_like(table[at_path]))
        network, plain = twins(architecture)
        images = torch.randn(3, 3, 6, 6, dtype=torch.float64)
        torch.testing.assert_close(network(images, drawn, path), plain(images, drawn), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tied", [True, False])
def test_the_strongest_path_is_evaluated(tied: bool) -> None:
    space = get_space("nasbench201")
    keep = some_removed(space)
    architecture = new_architecture(tied, keep, relaxation=RelaxationConfig("straight_through"), edge_normalization=True)
    mixture, path = architecture.evaluated()
    again, _ = architecture.evaluated()
    torch.testing.assert_close(mixture, again, rtol=0, atol=0)
    assert path is not None and not mixture["cell"].requires_grad
    expected = plain_mixture(space, architecture.alphas, architecture.betas, keep)["cell"].detach().reshape(-1, 6, 5)
    alphas = architecture.alphas["cell"].detach().reshape(-1, 6, 5)
    choices, tables = torch.as_tensor(path.choices["cell"]).reshape(-1, 6).tolist(), mixture["cell"].reshape(-1, 6, 5)
    for cell, chosen in enumerate(choices):
        for edge in range(6):
            kept = [column for column in range(5) if keep["cell"][edge, column]]
            best = max(kept, key=alphas[cell, edge].tolist().__getitem__, default=-1)
            assert chosen[edge] == best
            share = expected[cell, edge].sum()
            wanted = [share if column == best else share * 0 for column in range(5)]
            torch.testing.assert_close(tables[cell, edge], torch.stack(wanted), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["softmax", "gumbel", "dirichlet"])
def test_other_relaxations_are_evaluated_at_their_mean(name: str) -> None:
    architecture = new_architecture(relaxation=RelaxationConfig(name))
    mixture, path = architecture.evaluated()
    assert path is None and not mixture["cell"].requires_grad
    alphas = architecture.alphas["cell"]
    concentrations = torch.where(alphas > 0, alphas + 1, alphas.exp())
    expected = concentrations / concentrations.sum(-1, keepdim=True) if name == "dirichlet" else alphas.softmax(-1)
    torch.testing.assert_close(mixture["cell"], expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(architecture.mean()["cell"], expected, rtol=1e-12, atol=0)


def test_the_mean_can_be_taken_of_other_alphas() -> None:
    architecture = new_architecture(space="darts", edge_normalization=True)
    others = {kind: torch.randn(14, 8, dtype=torch.float64, requires_grad=True) for kind in architecture.alphas}
    expected = plain_mixture(architecture.space, others, architecture.betas, architecture.keep)
    found = architecture.mean(others)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    gradients = torch.autograd.grad([table.square().sum() for table in found.values()], list(others.values()))
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients)


@pytest.mark.parametrize("tied", [True, False])
def test_state_is_restored(tied: bool) -> None:
    options: dict[str, Any] = {"space": "darts", "edge_normalization": True, "relaxation": RelaxationConfig("straight_through")}
    keep = some_removed(get_space("darts"))
    first = new_architecture(tied, keep, **options)
    state = copy.deepcopy(first.state_dict())
    second = new_architecture(tied, **options)
    before = [id(parameter) for parameter in second.parameters()]
    second.load_state_dict(state)
    assert [id(parameter) for parameter in second.parameters()] == before, "the optimiser holds these"
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(second.keep[kind], table) for kind, table in keep.items())
    drawn = []
    for architecture in (first, second):
        torch.manual_seed(4)
        mixture, path = architecture.draw()
        assert path is not None
        drawn.append((mixture, dict(path.choices)))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)


def test_state_without_betas_is_restored() -> None:
    first, second = new_architecture(), new_architecture()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first.alphas["cell"], second.alphas["cell"]) and second.betas == {}


def test_excluded_candidates_weigh_nothing_from_the_start() -> None:
    architecture = new_architecture(space="darts", exclude=["none", "max_pool_3x3"])
    for mixture in (architecture.draw()[0], architecture.mean()):
        for table in mixture.values():
            assert (table[:, :2] == 0).all() and (table[:, 2:] > 0).all()


def test_a_search_takes_a_relaxation_and_a_regulariser_of_ones_own() -> None:
    sigmoid = Relaxation(lambda alphas, keep, t: (alphas / t).sigmoid() * keep, lambda alphas, keep: alphas.sigmoid() * keep)
    with RELAXATIONS.temporarily(), REGULARISERS.temporarily():
        register_relaxation("sigmoid", sigmoid)
        register_regulariser("square", lambda alphas, keep: alphas.square().sum())
        options = {"relaxation": RelaxationConfig("sigmoid", 2.0), "regulariser": RegulariserConfig("square", 0.25)}
        architecture = new_architecture(**options)
        penalty = architecture.penalty()
    alphas = architecture.alphas["cell"]
    torch.testing.assert_close(architecture.draw()[0]["cell"], 1 / (1 + (-alphas / 2).exp()), rtol=1e-12, atol=0)
    torch.testing.assert_close(architecture.mean()["cell"], 1 / (1 + (-alphas).exp()), rtol=1e-12, atol=0)
    torch.testing.assert_close(penalty, 0.25 * (alphas**2).sum(), rtol=1e-12, atol=0)
