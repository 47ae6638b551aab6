"""`Genotype(normal=[...], ...)`, as DARTS, pt.darts and AutoDL print it.

DARTS (Liu et al. 2019) has one flat list for all nodes of a cell; pt.darts, and AutoDL for its
published cells, one list or tuple a node.
"""

from collections.abc import Mapping
from typing import Any

from base.checks import InputError
from base.texts import show
from supernet.genotypes.literals import Call
from supernet.genotypes.parsed import MOST_STATES, Form, ParsedGenotype, PlainCells, items, of_darts, state_number

_KINDS = ("normal", "reduce")
_INPUTS = 2
_NAMES = tuple(name for kind in _KINDS for name in (kind, f"{kind}_concat"))
_EMPTY = ("connectN", "connects")  # AutoDL's Genotype has them, too, always None for the cells here


def _write(cells: PlainCells, entries_of: Any) -> str:
    fields = []
    for kind, (nodes, concat) in cells.items():
        first, last = concat[0], concat[-1]
        contiguous = concat == tuple(range(first, last + 1))
        fields += [
            f"{kind}={entries_of(nodes)}",
            f"{kind}_concat={f'range({first}, {last + 1})' if contiguous else list(concat)}",
        ]
    return f"Genotype({', '.join(fields)})"


def write_darts(genotype: ParsedGenotype) -> str:
    """Writes a flat list for each cell, of pairs if every node has two inputs, otherwise of
    triples."""
    in_pairs = all(len(feeds) == 2 for nodes, _ in genotype.cells.values() for feeds in nodes)

    def entries_of(nodes: Any) -> list[Any]:
        return [
            (operation, source) if in_pairs else (operation, _INPUTS + node, source)
            for node, feeds in enumerate(nodes)
            for operation, source in feeds
        ]

    return _write(genotype.cells, entries_of)


def _darts_misfit(cells: PlainCells) -> str | None:
    for kind, (nodes, concat) in cells.items():
        if not nodes[-1] and _INPUTS + len(nodes) - 1 > max(concat):
            # Triples show how many nodes there are by naming the last one.
            return f"{kind}, node {len(nodes) - 1}: it has no input and is not concatenated"
    return None


def write_pt_darts(genotype: ParsedGenotype) -> str:
    """Writes a list for each node, as pt.darts (github.com/khanrc/pt.darts) does."""
    return _write(genotype.cells, lambda nodes: [list(feeds) for feeds in nodes])


def read_call(call: Call) -> ParsedGenotype:
    """Reads `Genotype(...)`, keywords in any order."""
    if call.arguments:
        raise InputError("Genotype(...): every value needs its keyword, such as normal=[...]")
    return read_fields("Genotype(...)", "keyword", call.keywords)


def read_fields(place: str, word: str, values: Mapping[str, Any]) -> ParsedGenotype:
    """Reads the lists and concatenations of both cells by their names, each a `word` of `place`."""
    for name, value in values.items():
        if name not in _NAMES and not (name in _EMPTY and value is None):
            raise InputError(f"{place}: unknown {word} {show(name)}; known: {', '.join(_NAMES)}")
    missing = [name for name in _NAMES if name not in values]
    if missing:
        raise InputError(f"{place}: {word} {missing[0]} is missing")
    cells = {}
    for kind in _KINDS:
        concat = _read_concat(f"{kind}, concat", values[f"{kind}_concat"])
        cells[kind] = _nodes_of(kind, items(kind, values[kind]), concat), concat
    return of_darts(cells)


def _read_concat(place: str, value: object) -> list[int]:
    """Reads a list of states, or range(...), which may be far too long to be written out."""
    if not isinstance(value, Call):
        states = [state_number(place, state) for state in items(place, value)]
    else:
        if value.name != "range" or value.keywords or not 1 <= len(value.arguments) <= 3:
            raise InputError(f"{place}: expected a list or range(first, last + 1)")
        numbers = [state_number(place, argument) for argument in value.arguments]
        if not all(-MOST_STATES <= number <= MOST_STATES for number in numbers) or 0 in numbers[2:]:
            raise InputError(f"{place}: range({', '.join(map(show, numbers))}) is out of range")
        states = list(range(*numbers))
    beyond = next((state for state in states if not 0 <= state < MOST_STATES), None)
    if beyond is not None:
        raise InputError(f"{place}: state {show(beyond)} is out of range, it must be 0 to {MOST_STATES - 1}")
    return states


def _is_row(entry: object) -> bool:
    """Says whether an entry holds the inputs of a node rather than one input, which begins with its
    operation."""
    return isinstance(entry, list | tuple) and all(isinstance(each, list | tuple) for each in entry[:1])


def _nodes_of(kind: str, entries: list[Any] | tuple[Any, ...], concat: list[int]) -> list[list[Any]]:
    """Returns the inputs of each node from entries: lists of pairs, one a node; pairs (operation,
    source), two a node; or triples (operation, target, source)."""
    if entries and _is_row(entries[0]):
        for node, row in enumerate(entries):
            if not _is_row(row):
                raise InputError(f"{kind}, node {node}: expected a list of pairs (operation, source), got {show(row)}")
        return [[_without_weight(feed) for feed in row] for row in entries]
    rows: list[Any] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, list | tuple) or len(entry) not in (2, 3):
            raise InputError(
                f"{kind}, entry {number}: expected (operation, source) or (operation, target, source), got {show(entry)}"
            )
        if rows and len(entry) != len(rows[0]):
            raise InputError(f"{kind}, entry {number}: pairs and triples are mixed, {show(entry)} after {show(rows[-1])}")
        rows.append(entry)
    if rows and len(rows[0]) == 2:
        if len(rows) % 2:
            raise InputError(f"{kind}: every node takes two pairs, but {len(rows)} is an odd number")
        return [[rows[number], rows[number + 1]] for number in range(0, len(rows), 2)]
    targets = []
    for number, (_, target, _) in enumerate(rows):
        place = f"{kind}, entry {number}"
        if not _INPUTS <= state_number(place, target) < MOST_STATES:
            raise InputError(f"{place}: target state {show(target)} is out of range, it must be {_INPUTS} to {MOST_STATES - 1}")
        targets.append(target)
    nodes: list[list[Any]] = [[] for _ in range(max([*targets, *concat], default=0) + 1 - _INPUTS)]
    for target, (operation, _, source) in zip(targets, rows, strict=True):
        nodes[target - _INPUTS].append((operation, source))
    return nodes


def _without_weight(feed: Any) -> Any:
    """Returns a pair in place of AutoDL's (operation, source, weight of the operation)."""
    return feed[:2] if len(feed) == 3 and type(feed[2]) is float else feed


DARTS = Form(write_darts, ("darts",), _darts_misfit)
PT_DARTS = Form(write_pt_darts, ("darts",))
