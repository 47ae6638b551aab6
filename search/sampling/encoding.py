"""The architectures of a search space as tuples of whole numbers: draws, changes, features."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

from base.checks import FieldError
from supernet import Genotype, Path, SearchSpace
from supernet.genotypes.genotype import CellGenotype

Genome = tuple[int, ...]
"""One architecture: for each kind of cell and each of its edges, in the order of the space, the
index of the candidate that runs there; -1 where the edge is left out."""

ABSENT = -1


@dataclass(frozen=True)
class Variable:
    """One decision of an architecture: a number from 0 to `options` - 1.

    Every choice of a value for each variable is an architecture, and each architecture is one such
    choice. A controller decides the variables in turn, an optimiser of categorical parameters has
    them as parameters, and a sequence model reads them.
    """

    name: str
    """"cell/0-2": the operation from state 0 to state 2; "normal/4/inputs" and "normal/4/first":
    which inputs node 4 has, and the operation on the first of them."""
    options: int
    is_inputs: bool
    """Whether it decides the states that feed a node rather than an operation."""


@dataclass(frozen=True)
class NodeSlots:
    """The edges into one node of one kind of cell."""

    kind: str
    target: int
    places: tuple[int, ...]
    """Places of those edges in a genome."""
    inputs: int
    """Number of them that an architecture has."""


class Encoding:
    """The encoding of all architectures of `space` without the operations in `exclude`.

    In a space that keeps some inputs of every node (DARTS) an architecture has exactly as many,
    with operations other than none, on different edges; otherwise (NAS-Bench-201) every edge has an
    operation, none included. Raises ValueError if no operation is left.
    """

    def __init__(self, space: SearchSpace, exclude: Sequence[str] = ()) -> None:
        self.space = space
        without = {*exclude, *(("none",) if space.derived_inputs is not None else ())}
        self.operations = tuple(column for column, name in enumerate(space.candidates) if name not in without)
        """Candidates that an architecture may have, as indices."""
        if not self.operations:
            raise FieldError("exclude", f"nothing is left of space {space.name}")
        self.nodes = [
            NodeSlots(kind, target, places, min(len(places), space.derived_inputs or len(places)))
            for number, kind in enumerate(space.kinds)
            for target in range(space.inputs, space.inputs + space.nodes)
            if (places := tuple(number * len(space.edges) + row for row, (_, end) in enumerate(space.edges) if end == target))
        ]
        self.length = len(space.kinds) * len(space.edges)
        """Length of a genome."""

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Returns the decisions, node by node: its inputs if there is a choice, then an operation
        for each."""
        found = []
        for node in self.nodes:
            name, count = f"{node.kind}/{node.target}", math.comb(len(node.places), node.inputs)
            if count > 1:
                found.append(Variable(f"{name}/inputs", count, True))
            for number, place in enumerate(node.places[: node.inputs]):
                source, _ = self.space.edges[place % len(self.space.edges)]
                label = f"{name}/{_ordinal(number)}" if count > 1 else f"{node.kind}/{source}-{node.target}"
                found.append(Variable(label, len(self.operations), False))
        return tuple(found)

    @cached_property
    def size(self) -> int:
        """Returns the number of architectures."""
        return math.prod(variable.options for variable in self.variables)

    def all(self) -> Iterator[Genome]:
        """Yields every architecture once."""
        for values in itertools.product(*(range(variable.options) for variable in self.variables)):
            yield self.of_values(values)

    def random(self, random: Random) -> Genome:
        """Draws one of all architectures, each with the same chance."""
        return self.of_values([random.randrange(variable.options) for variable in self.variables])

    def check(self, genome: Sequence[int]) -> None:
        """Raises ValueError, naming the place, unless `genome` is an architecture of this space."""
        if len(genome) != self.length:
            raise ValueError(f"genome: {self.length} numbers are needed, not {len(genome)}")
        for node in self.nodes:
            present = [genome[place] for place in node.places if genome[place] != ABSENT]
            if len(present) != node.inputs:
                raise ValueError(f"genome: node {node.target} of {node.kind} has {len(present)} inputs, not {node.inputs}")
            for column in present:
                if column not in self.operations:
                    raise ValueError(f"genome: node {node.target} of {node.kind} has the operation {column}")

    # As decisions

    def values(self, genome: Genome) -> tuple[int, ...]:
        """Returns the value of each variable."""
        values = []
        for node in self.nodes:
            present = tuple(number for number, place in enumerate(node.places) if genome[place] != ABSENT)
            if node.inputs < len(node.places):
                values.append(_choices(len(node.places), node.inputs).index(present))
            values += [self.operations.index(genome[node.places[number]]) for number in present]
        return tuple(values)

    def of_values(self, values: Sequence[int]) -> Genome:
        """Returns the architecture with these values of the variables."""
        genome = [ABSENT] * self.length
        left = iter(values)
        for node in self.nodes:
            present: Sequence[int] = range(node.inputs)
            if node.inputs < len(node.places):
                present = _choices(len(node.places), node.inputs)[next(left)]
            for number in present:
                genome[node.places[number]] = self.operations[next(left)]
        return tuple(genome)

    # As a graph

    def genotype(self, genome: Genome, seed: int | None = None, config_hash: str | None = None) -> Genotype:
        """Returns the genotype of an architecture; `seed` and `config_hash` identify the search
        that found it."""
        space = self.space
        cells: dict[str, list[tuple[tuple[str, int], ...]]] = {kind: [] for kind in space.kinds}
        for node in self.nodes:
            feeds = [
                (space.candidates[genome[place]], space.edges[place % len(space.edges)][0])
                for place in node.places
                if genome[place] != ABSENT
            ]
            cells[node.kind].append(tuple(feeds))
        made = {kind: CellGenotype(tuple(nodes), space.concat) for kind, nodes in cells.items()}
        return Genotype(made, space.skeleton, space.name, seed, config_hash)

    def of_genotype(self, genotype: Genotype) -> Genome:
        """Returns the architecture of `genotype`.

        Raises ValueError for a genotype of another space.
        """
        genome = Path.of_genotype(genotype, self.space).flat(self.space)
        self.check(genome)
        return genome

    def path(self, genome: Genome) -> Path:
        """Returns the path of an architecture through the supernet, without operations whose
        results are not read."""
        edges, choices = self.space.edges, {}
        for number, kind in enumerate(self.space.kinds):
            columns = list(genome[number * len(edges) : (number + 1) * len(edges)])
            read = set(self.space.concat)
            # Edges are in the order of their targets: backwards, all readers of a node come before
            # the edges into it.
            for row in reversed(range(len(edges))):
                source, target = edges[row]
                if target not in read:
                    columns[row] = ABSENT
                elif columns[row] != ABSENT and self.space.candidates[columns[row]] != "none":
                    read.add(source)
            choices[kind] = columns
        return Path(choices)

    # Changed

    def mutate_operation(self, genome: Genome, random: Random) -> Genome:
        """Puts another operation on one edge, all such changes with the same chance.

        The genome stays the same if there is only one operation.
        """
        if len(self.operations) == 1:
            return genome
        place = random.choice([place for place, column in enumerate(genome) if column != ABSENT])
        column = random.choice([column for column in self.operations if column != genome[place]])
        return _with(genome, {place: column})

    def mutate_edge(self, genome: Genome, random: Random) -> Genome:
        """Exchanges the operations of two edges into the same node.

        All exchanges that change something have the same chance. The genome stays the same if there
        are none.
        """
        pairs = [
            (one, other)
            for node in self.nodes
            for one, other in itertools.combinations(node.places, 2)
            if genome[one] != genome[other]
        ]
        if not pairs:
            return genome
        one, other = random.choice(pairs)
        return _with(genome, {one: genome[other], other: genome[one]})

    def mutate(self, genome: Genome, random: Random, edge_share: float) -> Genome:
        """Mutates by edge with the chance `edge_share`, by operation otherwise or if no exchange of
        edges changes anything."""
        changed = self.mutate_edge(genome, random) if random.random() < edge_share else genome
        return self.mutate_operation(genome, random) if changed == genome else changed

    def neighbours(self, genome: Genome) -> list[Genome]:
        """Returns all architectures one edit away: another operation on an edge, or an operation on
        an edge that was left out."""
        found = []
        for node in self.nodes:
            for place in node.places:
                if genome[place] == ABSENT:
                    continue
                found += [_with(genome, {place: column}) for column in self.operations if column != genome[place]]
                found += [_with(genome, {place: ABSENT, free: genome[place]}) for free in node.places if genome[free] == ABSENT]
        return found

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Returns the places of a genome that a crossover keeps together: an edge by itself, or a
        whole node that has a choice of inputs."""
        blocks: list[tuple[int, ...]] = []
        for node in self.nodes:
            blocks += [node.places] if node.inputs < len(node.places) else [(place,) for place in node.places]
        return tuple(blocks)

    # For predictors

    @cached_property
    def features(self) -> dict[str, Callable[[Sequence[Genome]], np.ndarray]]:
        """Returns the encodings for a predictor, by name."""
        return {"one_hot": self.one_hot, "path": self.paths}

    def one_hot(self, genomes: Sequence[Genome]) -> np.ndarray:
        """Encodes the operation of each edge: 0 and 1, float32 [genomes, edges * operations], zeros
        on edges that are left out."""
        columns = np.array(genomes, dtype=np.int64).reshape(len(genomes), self.length, 1)
        return (columns == np.array(self.operations)).reshape(len(genomes), -1).astype(np.float32)

    def paths(self, genomes: Sequence[Genome]) -> np.ndarray:
        """Encodes the sequences of operations from an input to the output of a cell: 0 and 1,
        float32 [genomes, paths].

        It is the path encoding of White et al. 2021 (BANANAS, section 3.1), with one entry for each
        kind, input state and sequence of operations other than none, of every length up to the
        number of nodes. Architectures that differ in parts that no path runs through are the same
        here.
        """
        found = np.zeros((len(genomes), self._paths_of_input * self.space.inputs * len(self.space.kinds)), np.float32)
        for row, genome in zip(found, genomes, strict=True):
            row[list(self._path_places(genome))] = 1
        return found

    @cached_property
    def _steps(self) -> dict[int, int]:
        """Returns the candidates that a path can run through, numbered."""
        names = self.space.candidates
        return {column: number for number, column in enumerate(c for c in self.operations if names[c] != "none")}

    @cached_property
    def _paths_of_input(self) -> int:
        return sum(len(self._steps) ** length for length in range(1, self.space.nodes + 1))

    def _path_places(self, genome: Genome) -> Iterator[int]:
        space, steps = self.space, self._steps
        for number in range(len(space.kinds)):
            # For each state the sequences that lead to it: (input, length, the sequence as a number
            # to the base of steps).
            ways: list[set[tuple[int, int, int]]] = [{(state, 0, 0)} for state in range(space.inputs)]
            ways += [set() for _ in range(space.nodes)]
            for row, (source, target) in enumerate(space.edges):
                step = steps.get(genome[number * len(space.edges) + row])
                if step is not None:
                    ways[target] |= {(origin, length + 1, code * len(steps) + step) for origin, length, code in ways[source]}
            for origin, length, code in set().union(*(ways[state] for state in space.concat)):
                shorter = sum(len(steps) ** shorter for shorter in range(1, length))
                yield (number * space.inputs + origin) * self._paths_of_input + shorter + code


def _with(genome: Genome, changes: dict[int, int]) -> Genome:
    return tuple(changes.get(place, column) for place, column in enumerate(genome))


def _choices(count: int, chosen: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(count), chosen))


def _ordinal(number: int) -> str:
    names = ("first", "second", "third")
    return names[number] if number < len(names) else f"input {number + 1}"
