"""Tables name every map, weight and source of a plan once, where the kernels may read them."""

import pytest
import torch

from ops.plan import CellPlan
from ops.tables import write_tables
from supernet import Supernet, get_space

KINDS = [("darts", "normal"), ("darts", "reduce"), ("nasbench201", "cell")]
each_kind = pytest.mark.parametrize(("space", "kind"), KINDS)


def new_plan(space: str, kind: str, chosen: list[int] | None = None) -> CellPlan:
    network = Supernet(get_space(space), 16, 3, 10)
    cell = next(cell for cell in network.mixed_cells() if cell.position.kind == kind)
    return CellPlan(cell.operations(chosen))


@each_kind
def test_each_weight_of_the_mixture_enters_its_node_once(space: str, kind: str) -> None:
    plan, found = new_plan(space, kind), get_space(space)
    tables = write_tables(plan, torch.device("cpu"))
    for node, table in enumerate(tables.nodes):
        edges = [edge for edge, (_, target) in enumerate(found.edges) if target == found.inputs + node]
        places = [
            edge * len(found.candidates) + column
            for edge in edges
            for column, name in enumerate(found.candidates)
            if name != "none"
        ]
        assert sorted(table[:, 1].tolist()) == places
        for place, weight, normalised in table.tolist():
            if place < plan.maps:
                assert normalised == int(plan.norms[place] is not None)
            else:
                assert normalised == 0, "a state"
                assert found.candidates[weight % len(found.candidates)] == "skip_connect"


@each_kind
def test_a_table_is_read_sixteen_bytes_at_a_time(space: str, kind: str) -> None:
    tables = write_tables(new_plan(space, kind), torch.device("cpu"))
    everything = [*tables.nodes, *(table for tables_of_round in tables.rounds.values() for table in tables_of_round.values())]
    assert all(table.dtype == torch.int32 and table.is_contiguous() for table in everything)
    assert all(table.data_ptr() % 16 == 0 for table in everything if table.numel())


@each_kind
def test_starts_cut_their_table_into_the_rows_of_each_owner(space: str, kind: str) -> None:
    plan = new_plan(space, kind)
    tables = write_tables(plan, torch.device("cpu"))
    pairs = {"first_starts": "first_input", "second_starts": "second_input", "shared_starts": "shared"}
    pairs["pool_starts"] = "pool_backward"
    for current in plan.rounds:
        written = tables.rounds[current.sources.start]
        for starts, table in pairs.items():
            begins = written[starts].tolist()
            assert begins[0] == 0 and begins[-1] == len(written[table])
            assert begins == sorted(begins)
        for index, source in enumerate(current.sources if current.branches else ()):
            rows = written["first_input"][written["first_starts"][index] : written["first_starts"][index + 1], 0].tolist()
            assert all(current.branches[row].operation.source == source for row in rows)


def test_a_path_of_nothing_has_empty_tables() -> None:
    plan = new_plan("nasbench201", "cell", [-1] * 6)
    tables = write_tables(plan, torch.device("cpu"))
    assert plan.maps == plan.entries == 0 and tables.rounds == {}
    assert [len(table) for table in tables.nodes] == [0, 0, 0]
