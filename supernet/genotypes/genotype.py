"""Genotypes: the operations in the cells of one architecture, as a checked value that is saved and
loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from base.checks import InputError
from base.files import read_limited, write_atomically
from base.texts import excerpt, show
from ops.registry import OPERATIONS
from supernet.genotypes.parsed import MOST_INPUTS, MOST_STATES, ParsedGenotype, items, misfit_of, state_number
from supernet.genotypes.texts import FORMS, LARGEST_TEXT, read_text
from supernet.spaces.skeleton import SKELETONS, Skeleton

GENOTYPE_FILE = "genotype.json"  # of a run


@dataclass(frozen=True, eq=False)
class CellGenotype:
    """One cell: `nodes[i]` are the inputs (operation, source state) of intermediate node i, any
    number of them.

    States are numbered from 0: the cell's input states, then its nodes. `concat` are the states
    whose channels are concatenated to the cell's output. The order of the inputs within a node does
    not count in a comparison. Raises ValueError for a value with other parts than operation names
    and state numbers.
    """

    nodes: tuple[tuple[tuple[str, int], ...], ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        nodes = tuple(
            tuple(_feed(f"node {node}, input {number}", feed) for number, feed in enumerate(items(f"node {node}", feeds)))
            for node, feeds in enumerate(items("nodes", self.nodes))
        )
        concat = tuple(state_number("concat", state) for state in items("concat", self.concat))
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "concat", concat)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, CellGenotype) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return tuple(tuple(sorted(feeds)) for feeds in self.nodes), self.concat


@dataclass(frozen=True, eq=False)
class Genotype:
    """The cells of one architecture, {kind: cell}, with the skeleton that they belong to and the
    name of their search space.

    `seed` and `config_hash` identify the search that found it. A comparison ignores them and the
    order of the inputs within a node. An input state can be concatenated if the skeleton allows it.
    A cell has at most 64 states, and its nodes together 512 inputs. Raises ValueError, naming the
    place, for cells that the skeleton has no use for, unknown operations and states out of range.
    """

    cells: Mapping[str, CellGenotype]
    skeleton: Skeleton
    space: str
    seed: int | None = None
    config_hash: str | None = None

    def __post_init__(self) -> None:
        if SKELETONS[self.skeleton.name] != self.skeleton:
            raise InputError(f"skeleton {self.skeleton.name}: another one is registered by this name")
        if not isinstance(self.space, str) or not self.space or not self.space.isprintable():
            raise InputError(f"space: expected a name, got {show(self.space)}")
        if self.seed is not None and type(self.seed) is not int:
            raise InputError(f"seed: expected an integer or none, got {show(self.seed)}")
        if self.config_hash is not None and not isinstance(self.config_hash, str):
            raise InputError(f"config_hash: expected a text or none, got {show(self.config_hash)}")
        kinds = self.skeleton.kinds
        if set(self.cells) != set(kinds):
            given = ", ".join(show(kind) for kind in self.cells) or "none"
            raise InputError(f"cells: the {self.skeleton.name} skeleton has the kinds {', '.join(kinds)}, not {given}")
        for kind in kinds:
            _check_cell(kind, self.cells[kind], self.skeleton)
        object.__setattr__(self, "cells", MappingProxyType({kind: self.cells[kind] for kind in kinds}))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Genotype) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return tuple(self.cells.items()), self.skeleton, self.space

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy can be neither pickled nor copied.
        return Genotype, (dict(self.cells), self.skeleton, self.space, self.seed, self.config_hash)

    @property
    def text_form(self) -> str:
        """Returns the form for `to_text` that the skeleton names, "json" if the genotype does not
        fit it."""
        form = self.skeleton.text_form
        return "json" if self.misfit(form) else form

    def to_text(self, form: str) -> str:
        """Returns the genotype as "json", which keeps everything, or in a form of its field, cells
        alone.

        For DARTS these are "darts", "pt_darts", "nni", "naslib" and "nasbench301", for
        NAS-Bench-201 "nasbench201", "autodl", "nni" and "naslib". Raises ValueError for a genotype
        that the form cannot express.
        """
        if form not in FORMS:
            raise InputError(f"unknown text form {show(form)}; known: {', '.join(FORMS)}")
        misfit = self.misfit(form)
        if misfit:
            raise InputError(
                f"a genotype of space {self.space} has no {form} text: {misfit}; the form json takes every genotype"
            )
        return FORMS[form].write(self._plain())

    def misfit(self, form: str) -> str | None:
        """Returns why the genotype cannot be written in the text form `form`, None if it can."""
        return misfit_of(self._plain(), FORMS[form])

    def _plain(self) -> ParsedGenotype:
        cells = {kind: (cell.nodes, cell.concat) for kind, cell in self.cells.items()}
        return ParsedGenotype(cells, self.skeleton, self.space, self.seed, self.config_hash)

    @classmethod
    def parse(cls, text: str, which: str | None = None) -> "Genotype":
        """Reads a genotype from any text form, without evaluating code.

        Known are this project's JSON and all that `to_text` writes, as the projects print it. It
        may be the value of an assignment or stand in a log, of which the last genotype is read.
        `which` is the name or number (from 1) of one among several. Raises ValueError that names
        the place for anything else.
        """
        return cls.of(read_text(text, which))

    @classmethod
    def of(cls, found: ParsedGenotype) -> "Genotype":
        """Returns the checked genotype of what a reader found.

        Raises ValueError that names the place if it is none.
        """
        cells = {kind: _make_cell(kind, nodes, concat) for kind, (nodes, concat) in found.cells.items()}
        return cls(cells, found.skeleton, found.space, found.seed, found.config_hash)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON to a file, wholly or not at all.

        Raises OSError if that cannot be done.
        """
        write_atomically(Path(path), self.to_text("json"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Genotype":
        """Reads a file that holds a genotype in any text form.

        Raises ValueError that names the file.
        """
        return load_noted(path)[0]


def load_noted(path: str | os.PathLike[str], which: str | None = None) -> tuple[Genotype, str]:
    """Returns the genotype that `Genotype.parse` finds in a file, and a line on what was chosen or
    left out; "" if there is nothing to say.

    Raises ValueError that names the file.
    """
    name = os.fspath(path)
    if not os.path.lexists(name):
        raise InputError(f"{excerpt(name)}: no such file")
    if os.path.isdir(name):
        saved = os.path.join(name, GENOTYPE_FILE)
        instead = f"did you mean {saved}?" if os.path.isfile(saved) else "where a file is needed"
        raise InputError(f"{name}: is a folder, {instead}")
    content = read_limited(Path(name), LARGEST_TEXT)
    try:
        found = read_text(_decoded(content), which)
        return Genotype.of(found), found.note and f"{excerpt(name)}: {found.note}"
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def _decoded(content: bytes) -> str:
    """Returns the text of a file, which shells of Windows may have written as UTF-16."""
    try:
        return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("not a genotype: binary, or not UTF-8") from None


def _feed(place: str, value: object) -> tuple[str, int]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not isinstance(value[0], str):
        raise InputError(f"{place}: expected an operation and its source state, got {show(value)}")
    return value[0], state_number(place, value[1])


def _make_cell(kind: str, nodes: object, concat: object) -> CellGenotype:
    try:
        return CellGenotype(nodes, concat)  # type: ignore[arg-type]  # checked there
    except ValueError as error:
        raise InputError(f"{kind}, {error}") from None


def _check_cell(kind: str, cell: CellGenotype, skeleton: Skeleton) -> None:
    inputs = skeleton.inputs
    states = inputs + len(cell.nodes)
    if not cell.nodes or states > MOST_STATES:
        raise InputError(f"{kind}: a cell has 1 to {MOST_STATES - inputs} nodes, not {len(cell.nodes)}")
    count = sum(map(len, cell.nodes))
    if count > MOST_INPUTS:
        raise InputError(f"{kind}: the nodes of a cell have at most {MOST_INPUTS} inputs together, not {count}")
    for node, feeds in enumerate(cell.nodes):
        for number, (operation, source) in enumerate(feeds):
            place = f"{kind}, node {node}, input {number}"
            if operation not in OPERATIONS:
                raise InputError(
                    f"{place}: {OPERATIONS.unknown(operation)}; "
                    "one of your own is known once the file with its @register_op is imported"
                )
            if not 0 <= source < inputs + node:
                raise InputError(f"{place}: state {show(source)} is out of range, it must be 0 to {inputs + node - 1}")
    if not cell.concat:
        raise InputError(f"{kind}, concat: must name at least one state")
    for number, state in enumerate(cell.concat):
        if not 0 <= state < states:
            raise InputError(f"{kind}, concat: state {show(state)} is out of range, it must be 0 to {states - 1}")
        if state in cell.concat[:number]:
            raise InputError(f"{kind}, concat: state {state} is there twice")
        if state < inputs and kind not in skeleton.concatenates_inputs:
            raise InputError(
                f"{kind}, concat: state {state} is an input, which need not have the size of the nodes in such a cell "
                f"of the {skeleton.name} skeleton"
            )
