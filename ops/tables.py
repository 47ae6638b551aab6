"""The tables that tell the fused kernels where the maps of a plan lie.

A table is int32 [rows, columns] on the device, or [rows] where it has one column. Each kernel's
docstring says what the columns of its `table` and `starts` are.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ops.kernels.pool import AVERAGE, MAXIMUM
from ops.plan import CellPlan, Chain, Round

Rows = list[tuple[int, ...]]


class CellTables(NamedTuple):
    """The tables of one plan on one device."""

    nodes: list[Tensor]
    """For each node [entries, 3]: map (states count on from the maps), weight, 1 if it is
    normalised."""
    rounds: dict[int, dict[str, Tensor]]
    """The tables of each round, found by its first source and by the kernel that reads them."""


def write_tables(plan: CellPlan, device: torch.device) -> CellTables:
    """Returns all tables of `plan`, brought to `device` in one copy."""
    tables: dict[tuple[int, str], Rows] = {}
    for node, entries in enumerate(plan.entries_of):
        tables[node, "node"] = [
            (entry.map if entry.map >= 0 else plan.maps - 1 - entry.map, entry.weight, int(entry.normalised))
            for entry in entries
        ]
    for current in plan.rounds:
        tables |= {(current.sources.start, name): rows for name, rows in _of_round(plan, current).items()}
    written = _to_device(tables, device)
    rounds: dict[int, dict[str, Tensor]] = {current.sources.start: {} for current in plan.rounds}
    for (owner, name), table in written.items():
        if name != "node":
            rounds[owner][name] = table
    return CellTables([written[node, "node"] for node in range(plan.nodes)], rounds)


def _of_round(plan: CellPlan, current: Round) -> dict[str, Rows]:
    """Returns the tables of one round, by the kernel and the half that each is for."""
    count = len(current.sources)
    pairs = list(enumerate(current.branches))
    by_source = sorted(pairs, key=lambda pair: pair[1].operation.source)
    separable = pairs[: current.separable]

    def source(branch: Chain) -> int:
        return branch.operation.source - current.sources.start

    def shape(branch: Chain, stage: int) -> tuple[int, int]:
        return branch.stencils[stage].kernel, branch.stencils[stage].dilation

    def gradient(index: int, branch: Chain) -> tuple[int, int]:
        """Returns the gradient that enters a branch's first stencil, and the row of its
        coefficients.

        The gradients of second halves are stored after those of the nodes.
        """
        if len(branch.stencils) == 2:
            return plan.nodes + index, plan.entries + index
        assert branch.entry is not None
        return branch.entry.node, plan.row_of[branch.entry]

    tables: dict[str, Rows] = {
        "first": [(source(branch), *shape(branch, 0), *branch.places[0]) for branch in current.branches],
        "second": [(index, *shape(branch, 1), *branch.places[1]) for index, branch in separable],
        "pool": [(shared.source, shared.kind) for shared in current.shared if shared.kind in (MAXIMUM, AVERAGE)],
        "first_backward": [],
        "second_backward": [],
        "first_input": [(index, *shape(branch, 0), branch.places[0][0]) for index, branch in by_source],
        "first_starts": _starts((source(branch) for _, branch in by_source), count),
        "second_input": [(index, *shape(branch, 1), branch.places[1][0]) for index, branch in separable],
        "second_starts": [(index,) for index in range(len(separable) + 1)],
        "second_norm": [(current.first.start + index, -1, 1) for index, _ in separable],
    }
    for index, branch in pairs:
        node, row = gradient(index, branch)
        place = current.first.start + index
        tables["first_backward"].append((node, place, row, source(branch), *shape(branch, 0), *branch.places[0]))
    for index, branch in separable:
        assert branch.entry is not None
        node, row, place = branch.entry.node, plan.row_of[branch.entry], current.second.start + index
        tables["second_backward"].append((node, place, row, index, *shape(branch, 1), *branch.places[1]))
    members = [(index, shared, entry) for index, shared in enumerate(current.shared) for entry in shared.entries]
    tables["shared"] = [(entry.node, plan.row_of[entry], shared.map) for _, shared, entry in members]
    tables["shared_starts"] = _starts((index for index, _, _ in members), len(current.shared))
    pooled = [(index, shared) for index, shared in enumerate(current.shared) if shared.kind is not None]
    pooled.sort(key=lambda pair: pair[1].source)
    tables["pool_backward"] = [(index, shared.kind or 0, index if shared.kind == MAXIMUM else 0) for index, shared in pooled]
    tables["pool_starts"] = _starts((shared.source for _, shared in pooled), count)
    return tables


def _starts(owners: Iterable[int], count: int) -> Rows:
    """Returns the row at which each of `count` owners begins, and the end of the last.

    `owners` has the owner of each row of a table, in rising order.
    """
    owners = list(owners)
    return [(sum(owner < limit for owner in owners),) for limit in range(count + 1)]


def _to_device(tables: dict[tuple[int, str], Rows], device: torch.device) -> dict[tuple[int, str], Tensor]:
    """Returns every table as int32 on `device`, all moved by one copy.

    Each begins at a multiple of 16 bytes, as the kernels expect it.
    """
    values: list[int] = []
    begins = {}
    for name, table in tables.items():
        begins[name] = len(values)
        values += [value for row in table for value in row]
        values += [0] * (-len(values) % 4)
    everything = torch.tensor(values, dtype=torch.int32).to(device)
    views = {}
    for name, table in tables.items():
        width = len(table[0]) if table else 1
        view = everything[begins[name] : begins[name] + len(table) * width]
        views[name] = view if width == 1 else view.view(len(table), width)
    return views
