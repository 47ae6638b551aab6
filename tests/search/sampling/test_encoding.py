"""Architectures as tuples of numbers: counted, drawn, changed and described as their definitions say."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from search.sampling.encoding import ABSENT, Encoding, Genome
from supernet import Genotype, get_space, list_spaces

ENCODINGS = {name: Encoding(get_space(name)) for name in list_spaces()}
SEEDS = st.integers(0, 2**31 - 1)
SIGNIFICANT = 1e-4


@st.composite
def architectures(draw: st.DrawFn) -> tuple[Encoding, Genome]:
    """Any architecture of any space, decision by decision."""
    encoding = ENCODINGS[draw(st.sampled_from(list_spaces()))]
    return encoding, encoding.of_values([draw(st.integers(0, variable.options - 1)) for variable in encoding.variables])


def with_operations(name: str, count: int) -> Encoding:
    """A space of which only the last `count` operations are left."""
    space = get_space(name)
    return Encoding(space, space.candidates[:-count])


def feeds(encoding: Encoding, genome: Genome) -> list[set[tuple[int, int]]]:
    """Returns the feeds of each node of each kind: pairs of an edge into it and the operation there."""
    edges = len(encoding.space.edges)
    found: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for place, column in enumerate(genome):
        node = found.setdefault((place // edges, encoding.space.edges[place % edges][1]), set())
        if column != ABSENT:
            node.add((place % edges, column))
    return list(found.values())


def all_feeds(encoding: Encoding) -> list[list[set[tuple[int, int]]]]:
    """Each node's possibilities, from the rule of the space: some inputs, each with an operation."""
    space = encoding.space
    usable = [column for column, name in enumerate(space.candidates) if space.derived_inputs is None or name != "none"]
    found = []
    for _ in space.kinds:
        for target in range(space.inputs, space.inputs + space.nodes):
            into = [row for row, (_, end) in enumerate(space.edges) if end == target]
            chosen = itertools.combinations(into, min(len(into), space.derived_inputs or len(into)))
            found.append(
                [
                    set(zip(rows, columns, strict=True))
                    for rows in chosen
                    for columns in itertools.product(usable, repeat=len(rows))
                ]
            )
    return found


def neighbours_by_definition(encoding: Encoding, genome: Genome) -> list[list[set[tuple[int, int]]]]:
    """One node differs, by one pair, in either its operation or its edge."""
    here = feeds(encoding, genome)
    found = []
    for number, options in enumerate(all_feeds(encoding)):
        for other in options:
            gone, come = here[number] - other, other - here[number]
            if len(gone) == len(come) == 1:
                ((edge, column),), ((new_edge, new_column),) = gone, come
                if (edge == new_edge) != (column == new_column):
                    found.append([*here[:number], other, *here[number + 1 :]])
    return found


# Which there are


@pytest.mark.parametrize(("name", "size"), [("nasbench201", 5**6), ("darts", (7**8 * 1 * 3 * 6 * 10) ** 2)])
def test_the_number_of_architectures_is_the_published_one(name: str, size: int) -> None:
    assert ENCODINGS[name].size == size


@pytest.mark.parametrize(("name", "operations"), [("nasbench201", 2), ("nasbench201", 5), ("darts", 1)])
def test_all_are_as_many_different_ones(name: str, operations: int) -> None:
    encoding = with_operations(name, operations)
    seen = set(encoding.all())
    assert len(seen) == encoding.size == math.prod(variable.options for variable in encoding.variables)
    for genome in itertools.islice(seen, 500):
        encoding.check(genome)


@settings(max_examples=200)
@given(architectures())
def test_values_and_genomes_are_the_same_architectures(drawn: tuple[Encoding, Genome]) -> None:
    encoding, genome = drawn
    encoding.check(genome)
    values = encoding.values(genome)
    assert all(0 <= value < variable.options for value, variable in zip(values, encoding.variables, strict=True))
    assert encoding.of_values(values) == genome


@settings(max_examples=200)
@given(architectures(), st.data())
def test_other_values_are_another_architecture(drawn: tuple[Encoding, Genome], data: st.DataObject) -> None:
    encoding, genome = drawn
    values = list(encoding.values(genome))
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] = (values[place] + data.draw(st.integers(1, encoding.variables[place].options - 1))) % (
        encoding.variables[place].options
    )
    changed = encoding.of_values(values)
    assert changed != genome and encoding.values(changed) == tuple(values)


@settings(max_examples=100)
@given(architectures())
def test_genotypes_and_genomes_are_the_same_architectures(drawn: tuple[Encoding, Genome]) -> None:
    encoding, genome = drawn
    genotype = encoding.genotype(genome)
    assert encoding.of_genotype(genotype) == genome
    for form in ("json", encoding.space.name):
        assert encoding.of_genotype(Genotype.parse(genotype.to_text(form))) == genome


@settings(max_examples=100)
@given(architectures())
def test_a_path_has_the_operations_whose_results_lead_to_the_output(drawn: tuple[Encoding, Genome]) -> None:
    encoding, genome = drawn
    space = encoding.space
    path = encoding.path(genome).choices
    assert set(path) == set(space.kinds)
    for number, kind in enumerate(space.kinds):
        columns = genome[number * len(space.edges) : (number + 1) * len(space.edges)]

        def leads_on(state: int, columns: Genome = columns) -> bool:
            return state in space.concat or any(
                column != ABSENT and space.candidates[column] != "none" and leads_on(target, columns)
                for (source, target), column in zip(space.edges, columns, strict=True)
                if source == state
            )

        expected = [column if leads_on(target) else ABSENT for (_, target), column in zip(space.edges, columns, strict=True)]
        assert list(path[kind]) == expected


def test_a_genotype_with_operations_that_are_left_out_is_refused() -> None:
    whole = ENCODINGS["nasbench201"]
    genotype = whole.genotype((0,) * whole.length)
    with pytest.raises(ValueError, match="genome: node 1 of cell has the operation 0"):
        with_operations("nasbench201", 2).of_genotype(genotype)


@pytest.mark.parametrize("name", list_spaces())
def test_what_is_no_architecture_is_refused(name: str) -> None:
    encoding = ENCODINGS[name]
    genome = encoding.random(Random(0))
    with pytest.raises(ValueError, match=f"genome: {encoding.length} numbers are needed, not {encoding.length - 1}"):
        encoding.check(genome[1:])
    present = next(place for place, column in enumerate(genome) if column != ABSENT)
    with pytest.raises(ValueError, match=r"genome: node \d of \w+ has \d inputs, not \d"):
        encoding.check((*genome[:present], ABSENT, *genome[present + 1 :]))
    with pytest.raises(ValueError, match=r"genome: node \d of \w+ has the operation 99"):
        encoding.check((*genome[:present], 99, *genome[present + 1 :]))
    with pytest.raises(ValueError, match=f"exclude: nothing is left of space {name}"):
        Encoding(encoding.space, encoding.space.candidates)


# Drawn


@pytest.mark.parametrize(("name", "operations", "kept"), [("nasbench201", 2, 6), ("darts", 1, 14)])
def test_each_architecture_has_the_same_chance(name: str, operations: int, kept: int) -> None:
    """One kind of cell is looked at in DARTS; there each choice of inputs has the same chance."""
    encoding, random = with_operations(name, operations), Random(0)
    counts = Counter(encoding.random(random)[:kept] for _ in range(20_000))
    expected = {genome[:kept] for genome in encoding.all()}
    assert set(counts) == expected and len(expected) == {"nasbench201": 64, "darts": 180}[name]
    assert chisquare([counts[genome] for genome in sorted(expected)]).pvalue > SIGNIFICANT


@pytest.mark.parametrize("name", list_spaces())
def test_each_decision_has_the_same_chances(name: str) -> None:
    encoding, random = ENCODINGS[name], Random(1)
    drawn = np.array([encoding.values(encoding.random(random)) for _ in range(4000)])
    for column, variable in zip(drawn.T, encoding.variables, strict=True):
        assert chisquare(np.bincount(column, minlength=variable.options)).pvalue > SIGNIFICANT


# Changed


@settings(max_examples=200)
@given(architectures(), SEEDS)
def test_a_mutation_by_operation_changes_the_operation_of_one_edge(drawn: tuple[Encoding, Genome], seed: int) -> None:
    encoding, genome = drawn
    changed = encoding.mutate_operation(genome, Random(seed))
    encoding.check(changed)
    ((before, after),) = [pair for pair in zip(genome, changed, strict=True) if pair[0] != pair[1]]
    assert before != ABSENT and after != ABSENT


@settings(max_examples=200)
@given(architectures(), SEEDS)
def test_a_mutation_by_edge_exchanges_two_edges_of_one_node(drawn: tuple[Encoding, Genome], seed: int) -> None:
    encoding, genome = drawn
    changed = encoding.mutate_edge(genome, Random(seed))
    encoding.check(changed)
    if all(genome[one] == genome[other] for node in encoding.nodes for one, other in itertools.pairwise(node.places)):
        assert changed == genome
    else:
        one, other = (place for place in range(encoding.length) if genome[place] != changed[place])
        assert (changed[one], changed[other]) == (genome[other], genome[one])
        assert any({one, other} <= set(node.places) for node in encoding.nodes)


@pytest.mark.parametrize("name", list_spaces())
@pytest.mark.parametrize("by", ["mutate_operation", "mutate_edge"])
def test_all_changes_have_the_same_chance(name: str, by: str) -> None:
    encoding, random = ENCODINGS[name], Random(0)
    genome = encoding.random(Random(3))
    counts = Counter(getattr(encoding, by)(genome, random) for _ in range(10_000))
    if by == "mutate_operation":
        expected = sum(column != ABSENT for column in genome) * (len(encoding.operations) - 1)
    else:
        pairs = [pair for node in encoding.nodes for pair in itertools.combinations(node.places, 2)]
        expected = sum(genome[one] != genome[other] for one, other in pairs)
    assert len(counts) == expected
    assert chisquare(list(counts.values())).pvalue > SIGNIFICANT


@pytest.mark.parametrize("name", list_spaces())
@pytest.mark.parametrize("edge_share", [0.0, 0.3, 1.0])
def test_mutations_are_by_edge_as_often_as_they_are_told(name: str, edge_share: float) -> None:
    encoding, random = ENCODINGS[name], Random(0)
    genome = encoding.random(Random(3))
    by_edge = 0
    for _ in range(2000):
        changed = encoding.mutate(genome, random, edge_share)
        by_edge += sum(before != after for before, after in zip(genome, changed, strict=True)) == 2
    assert abs(by_edge - 2000 * edge_share) <= 5 * math.sqrt(2000 * edge_share * (1 - edge_share))


def test_where_no_exchange_changes_anything_an_operation_is_mutated() -> None:
    encoding = ENCODINGS["nasbench201"]
    genome = (3,) * encoding.length
    assert encoding.mutate_edge(genome, Random(0)) == genome
    assert sorted(encoding.mutate(genome, Random(0), edge_share=1.0))[1:-1] == [3] * 4


@pytest.mark.parametrize("name", list_spaces())
def test_with_one_operation_there_is_nothing_to_mutate_but_edges(name: str) -> None:
    encoding = with_operations(name, 1)
    genome = encoding.random(Random(0))
    assert encoding.mutate_operation(genome, Random(0)) == genome
    assert (encoding.mutate(genome, Random(0), edge_share=1.0) == genome) == (encoding.size == 1)


@settings(max_examples=30)
@given(architectures())
def test_neighbours_are_all_that_are_one_edit_away(drawn: tuple[Encoding, Genome]) -> None:
    encoding, genome = drawn
    found = encoding.neighbours(genome)
    for neighbour in found:
        encoding.check(neighbour)
    expected = neighbours_by_definition(encoding, genome)
    assert sorted(map(str, (list(map(sorted, feeds(encoding, one))) for one in found))) == sorted(
        map(str, (list(map(sorted, one)) for one in expected))
    )
    assert len(set(found)) == len(found) == {"nasbench201": 24, "darts": 120}[encoding.space.name]
    assert all(genome in encoding.neighbours(neighbour) for neighbour in found[::9]), "both ways"


@pytest.mark.parametrize("name", list_spaces())
def test_blocks_part_nothing_that_has_to_stay_together(name: str) -> None:
    encoding = ENCODINGS[name]
    assert sorted(place for block in encoding.blocks for place in block) == list(range(encoding.length))
    assert len(encoding.blocks) == {"nasbench201": 6, "darts": 10}[name]


# For predictors


@settings(max_examples=50)
@given(architectures(), SEEDS)
def test_one_hot_has_a_row_of_operations_for_each_edge(drawn: tuple[Encoding, Genome], seed: int) -> None:
    encoding, genome = drawn
    genomes = [genome, encoding.random(Random(seed))]
    table = encoding.one_hot(genomes)
    assert table.dtype == np.float32 and table.shape == (2, encoding.length * len(encoding.operations))
    for row, one in zip(table.reshape(2, encoding.length, -1), genomes, strict=True):
        for entries, column in zip(row, one, strict=True):
            assert entries.tolist() == [float(column == other) for other in encoding.operations]


def paths_by_walking(encoding: Encoding, genome: Genome) -> set[tuple[str, int, tuple[int, ...]]]:
    """Kind, input and operations of each way from an input state to a state that the output is made of."""
    space, found = encoding.space, set()

    def walk(kind: str, start: int, state: int, operations: Sequence[int]) -> None:
        if state in space.concat:
            found.add((kind, start, tuple(operations)))
        for row, (source, target) in enumerate(space.edges):
            column = genome[space.kinds.index(kind) * len(space.edges) + row]
            if source == state and column != ABSENT and space.candidates[column] != "none":
                walk(kind, start, target, [*operations, column])

    for kind in space.kinds:
        for start in range(space.inputs):
            walk(kind, start, start, [])
    return found


@pytest.mark.parametrize("name", list_spaces())
def test_the_path_encoding_has_the_paths_that_a_walk_finds(name: str) -> None:
    """One entry for each kind, input, length and sequence of operations, in that order."""
    encoding = ENCODINGS[name]
    space = encoding.space
    steps = [column for column, candidate in enumerate(space.candidates) if candidate != "none"]
    lengths = range(1, space.nodes + 1)
    sequences = [sequence for length in lengths for sequence in itertools.product(steps, repeat=length)]
    entries = list(itertools.product(space.kinds, range(space.inputs), sequences))
    random = Random(0)
    genomes = [encoding.random(random) for _ in range(100)]
    table = encoding.paths(genomes)
    assert table.dtype == np.float32 and table.shape == (100, len(entries))
    assert set(np.unique(table)) <= {0.0, 1.0}
    for row, genome in zip(table, genomes, strict=True):
        assert {entries[place] for place in row.nonzero()[0]} == paths_by_walking(encoding, genome)


def test_parts_that_no_path_runs_through_do_not_matter_to_the_path_encoding() -> None:
    encoding = ENCODINGS["nasbench201"]
    none, other = encoding.space.candidates.index("none"), encoding.space.candidates.index("nor_conv_3x3")
    # Edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3: nothing leaves node 2, so what leads to it is the same.
    one, same = (other, none, other, other, none, none), (other, other, none, other, none, none)
    assert (encoding.paths([one]) == encoding.paths([same])).all() and encoding.paths([one]).sum() == 1
    assert (encoding.one_hot([one]) != encoding.one_hot([same])).any()


def test_the_encodings_by_name() -> None:
    encoding = ENCODINGS["nasbench201"]
    genome = encoding.random(Random(0))
    assert set(encoding.features) == {"one_hot", "path"}
    assert encoding.features["one_hot"]([genome]).shape == (1, 30)
    assert encoding.features["path"]([genome]).shape == (1, 4 + 16 + 64)
