"""The plain executor against explicit sums of one module for each edge and operation, in float64."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops import build_op
from ops.banks import ModuleBank, SharedBank, make_bank
from ops.executor import CellExecutor, CellOperations, Edge, Operation
from ops.reference import ReferenceCell

INPUTS, NODES, CHANNELS = 2, 3, 8
EDGES = [(source, target) for target in range(INPUTS, INPUTS + NODES) for source in range(target)]
CANDIDATES = ("none", "skip_connect", "max_pool_3x3_bn", "avg_pool_3x3", "dil_conv_3x3", "own")
"""Shared maps, chains, and a user's own operation without a bank; `skip_connect` halves where the stride is 2."""
EVERYTHING = torch.ones(len(EDGES), len(CANDIDATES), dtype=torch.bool)
Modules = dict[tuple[int, int], nn.Module]


def new_module(name: str, channels: int, stride: int) -> nn.Module:
    if name == "own":
        return nn.Conv2d(channels, channels, 3, stride, padding=1).double()
    return build_op(name, channels, stride, affine=False).double()


class Example:
    """The description of a cell, and apart from it the modules of its edges.

    `keep` [edges, candidates] says which operations have weights; `chosen` is the candidate that runs
    on each edge, -1 for no candidate.
    """

    def __init__(
        self,
        keep: Tensor = EVERYTHING,
        stride: int = 1,
        partial: int = 1,
        chosen: Sequence[int] | None = None,
        concat: tuple[int, ...] = (2, 3, 4),
    ) -> None:
        self.modules: Modules = {}
        self.chosen = chosen
        operations = []
        for source in range(INPUTS + NODES):
            for column, name in enumerate(CANDIDATES):
                edges = [edge for edge, (start, _) in enumerate(EDGES) if start == source and keep[edge, column]]
                modules = [new_module(name, CHANNELS // partial, stride if source < INPUTS else 1) for _ in edges]
                self.modules |= {(edge, column): deepcopy(module) for edge, module in zip(edges, modules, strict=True)}
                bank = make_bank(modules) if modules else None
                rows = tuple(row for row, edge in enumerate(edges) if self.runs(edge, column))
                if bank is not None and rows:
                    targets = tuple(EDGES[edges[row]][1] - INPUTS for row in rows)
                    weights = tuple(edges[row] * len(CANDIDATES) + column for row in rows)
                    operations.append(Operation(bank, source, rows, targets, weights))
        running = tuple(
            Edge(row, source, target - INPUTS)
            for row, (source, target) in enumerate(EDGES)
            if chosen is None or chosen[row] >= 0
        )
        self.operations = CellOperations(tuple(operations), running, INPUTS, NODES, concat, stride, CHANNELS, partial)

    def runs(self, edge: int, column: int) -> bool:
        return self.chosen is None or self.chosen[edge] == column

    def train(self, training: bool) -> "Example":
        for module in (*self.modules.values(), *(each.bank for each in self.operations.operations)):
            module.train(training)
        return self

    def sums(self, states: Sequence[Tensor], mixture: Tensor, bypass: Tensor | None = None) -> Tensor:
        """The output as the definition has it, term by term."""
        cell, known = self.operations, list(states)
        bypass = mixture.sum(-1) if bypass is None else bypass
        halved = F.max_pool2d(known[0], 2, 2, ceil_mode=True) if cell.stride == 2 else known[0]
        for node in range(INPUTS, INPUTS + NODES):
            total = torch.zeros_like(halved)
            for edge, (source, target) in enumerate(EDGES):
                if target != node or (self.chosen is not None and self.chosen[edge] < 0):
                    continue
                state = known[source]
                through = state[:, : cell.inner]
                past = (F.max_pool2d(state, 2, 2, ceil_mode=True) if cell.stride_of(source) == 2 else state)[:, cell.inner :]
                mixed = torch.zeros_like(halved[:, : cell.inner])
                for column in range(len(CANDIDATES)):
                    if (edge, column) in self.modules and self.runs(edge, column):
                        mixed = mixed + mixture[edge, column] * self.modules[edge, column](through)
                total = total + torch.cat((mixed, bypass[edge] * past), dim=1)
            shuffled = [total[:, first :: cell.inner] for first in range(cell.inner)]
            known.append(torch.cat(shuffled, dim=1))
        return torch.cat([known[state] for state in cell.concat], dim=1)

    def weight_pairs(self) -> list[tuple[nn.Parameter, int | None, nn.Parameter]]:
        """(the bank's parameter, its row or None for the whole, the parameter of the edge's own module)."""
        found = []
        for operation in self.operations.operations:
            for row, place in zip(operation.rows, operation.weights, strict=True):
                for name, parameter in self.modules[divmod(place, len(CANDIDATES))].named_parameters():
                    assert not isinstance(operation.bank, SharedBank)
                    if isinstance(operation.bank, ModuleBank):
                        found.append((operation.bank.modules_of_edges[row].get_parameter(name), None, parameter))
                    else:
                        stacked = operation.bank.stacked(name)
                        assert isinstance(stacked, nn.Parameter)
                        found.append((stacked, row, parameter))
        return found

    def assert_executor_computes_the_sums(self, size: tuple[int, int] = (6, 5), bypass: Tensor | None = None) -> None:
        """Values and the gradients of states, mixture, bypass and weights agree to 1e-10."""
        executor: CellExecutor = ReferenceCell(self.operations)
        states = [torch.randn(2, CHANNELS, *size, dtype=torch.float64) for _ in range(INPUTS)]
        mixture = torch.randn(len(EDGES), len(CANDIDATES), dtype=torch.float64)
        upstream = None
        found = []
        for compute in (executor, self.sums):
            leaves = [leaf.clone().requires_grad_() for leaf in (*states, mixture, *([] if bypass is None else [bypass]))]
            output = compute(leaves[:INPUTS], leaves[INPUTS], leaves[INPUTS + 1] if len(leaves) > INPUTS + 1 else None)
            upstream = torch.randn_like(output) if upstream is None else upstream
            (output * upstream).sum().backward()
            found.append([output.detach(), *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)])
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
        for parameter, row, own in self.weight_pairs():
            whole, expected = (torch.zeros_like(one) if one.grad is None else one.grad for one in (parameter, own))
            torch.testing.assert_close(whole if row is None else whole[row], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("partial", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_cell_is_its_sums(stride: int, partial: int, training: bool) -> None:
    Example(stride=stride, partial=partial).train(training).assert_executor_computes_the_sums()


@pytest.mark.parametrize("size", [(1, 4), (3, 2), (9, 7)])
def test_any_size_of_image(size: tuple[int, int]) -> None:
    for stride in (1, 2):
        Example(stride=stride, partial=2).assert_executor_computes_the_sums(size)


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_operations_and_whole_edges_may_be_missing(partial: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(EVERYTHING.shape, generator=generator) < 0.3
    keep[seed] = False
    Example(keep, stride=1 + seed % 2, partial=partial).assert_executor_computes_the_sums()


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_path_runs_its_operations_alone(partial: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(-1, len(CANDIDATES), (len(EDGES),), generator=generator).tolist()
    Example(stride=1 + seed % 2, partial=partial, chosen=chosen).assert_executor_computes_the_sums()


@pytest.mark.parametrize("partial", [1, 2])
def test_a_node_without_inputs_is_zero(partial: int) -> None:
    cell = Example(stride=2, partial=partial, chosen=[-1] * len(EDGES), concat=(3,))
    output = ReferenceCell(cell.operations)(torch.randn(INPUTS, 2, CHANNELS, 5, 4), torch.rand(EVERYTHING.shape))
    assert output.shape == (2, CHANNELS, 3, 2) and not output.any()


@pytest.mark.parametrize("concat", [(4,), (3, 2)])
def test_the_output_has_the_states_that_are_asked_for_in_their_order(concat: tuple[int, ...]) -> None:
    Example(concat=concat).assert_executor_computes_the_sums()


def test_an_edge_of_none_still_lets_channels_pass() -> None:
    """`none` is an operation of the path, so that its edge runs; -1 runs nothing at all."""
    none, nothing = (Example(partial=2, chosen=[chosen] * len(EDGES)) for chosen in (0, -1))
    states, mixture = torch.rand(INPUTS, 2, CHANNELS, 4, 4), torch.rand(EVERYTHING.shape)
    assert ReferenceCell(none.operations)(states, mixture).any()
    assert not ReferenceCell(nothing.operations)(states, mixture).any()


@pytest.mark.parametrize("stride", [1, 2])
def test_bypassing_channels_take_their_own_scale(stride: int) -> None:
    cell = Example(stride=stride, partial=2)
    cell.assert_executor_computes_the_sums(bypass=torch.rand(len(EDGES), dtype=torch.float64))
    states, mixture = torch.rand(INPUTS, 2, CHANNELS, 4, 4).double(), torch.rand(EVERYTHING.shape).double()
    executor = ReferenceCell(cell.operations)
    sums = mixture.sum(-1)
    assert torch.equal(executor(states, mixture), executor(states, mixture, sums))
    assert not torch.equal(executor(states, mixture), executor(states, mixture, 2 * sums))


def test_a_cell_can_be_differentiated_twice() -> None:
    keep = torch.zeros_like(EVERYTHING)
    keep[:, 1:5] = torch.rand(len(EDGES), 4) < 0.5
    executor = ReferenceCell(Example(keep, partial=2, concat=(4,)).operations)
    states = [torch.randn(2, CHANNELS, 2, 2, dtype=torch.float64) for _ in range(INPUTS)]
    mixture = torch.rand(EVERYTHING.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda table: executor(states, table).mean((2, 3)).sin().sum(), (mixture,))


def test_shared_maps_are_computed_once_for_all_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = F.max_pool2d
    monkeypatch.setattr(F, "max_pool2d", lambda *arguments, **options: calls.append(1) or real(*arguments, **options))
    cell = Example()
    ReferenceCell(cell.operations)(torch.rand(INPUTS, 2, CHANNELS, 4, 4).double(), torch.rand(EVERYTHING.shape).double())
    assert len(calls) == INPUTS + NODES - 1, "one for each state that an edge leaves"
