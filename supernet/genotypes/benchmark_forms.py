"""Genotypes as nni, NASLib and NAS-Bench-301 write them: dictionaries of choices, and numbers of
operations.

The order of edges and operations is that of their sources: github.com/microsoft/nni (nas.hub),
github.com/automl/NASLib (search_spaces, conversions.py), github.com/automl/nasbench301
(representations.py).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from base.checks import InputError
from base.texts import excerpt, show
from supernet.genotypes.nasbench201_forms import misfit_of_edges
from supernet.genotypes.parsed import Form, ParsedGenotype, PlainCells, items, of_darts, of_nasbench201

_KINDS = ("normal", "reduce")
_CONCAT = (2, 3, 4, 5)
_OF_DARTS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The operations of DARTS without none, in the order that NASLib and NAS-Bench-301 number them."""
_OF_NASBENCH201 = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""In the order of NASLib: Identity, Zero, ReLUConvBN3x3, ReLUConvBN1x1, AvgPool1x1."""
_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""(source, target) of each edge of NAS-Bench-201, in the order of NASLib."""
_PREFIX = "NetworkSelectorDatasetInfo:darts:"
_NNI_NAMES = {"nor_conv_1x1": "conv_1x1", "nor_conv_3x3": "conv_3x3"}  # of NAS-Bench-201's operations
_NNI_DARTS = re.compile(r"(normal|reduce)/(op|input)_([0-9]{1,3})_([0-9]{1,3})")
_NNI_NASBENCH201 = re.compile(r"(?:cell/)?([0-9])_([0-9])")
_CONFIG = re.compile(f"(?:{_PREFIX})?(edge|inputs_node)_(normal|reduce)_([0-9]{{1,3}})")
_NNI_NODES = (
    "nodes 2 to 5 with two inputs each (nni's NASNet, ENAS, AmoebaNet and PNAS have five, and do not say which are the output)"
)


def _other_than_darts(cells: PlainCells) -> str | None:
    """Returns why cells are none of DARTS's own, which are all that its benchmarks know."""
    for kind, (nodes, concat) in cells.items():
        if len(nodes) != len(_CONCAT) or concat != _CONCAT:
            return f"{kind}: it needs 4 nodes, all of them concatenated in order"
        for node, feeds in enumerate(nodes):
            if len(feeds) != 2:
                return f"{kind}, node {node}: it needs two inputs, but has {len(feeds)}"
            for operation, _ in feeds:
                if operation not in _OF_DARTS:
                    return f"{kind}, node {node}: {operation} is none of {', '.join(_OF_DARTS)}"
    return None


def _other_than_nasbench201(cells: PlainCells) -> str | None:
    wrong = misfit_of_edges(cells)
    if wrong:
        return wrong
    ((nodes, _),) = cells.values()
    other = next((operation for feeds in nodes for operation, _ in feeds if operation not in _OF_NASBENCH201), None)
    return f"cell: {other} is none of {', '.join(_OF_NASBENCH201)}" if other else None


def _misfit(cells: PlainCells) -> str | None:
    return _other_than_nasbench201(cells) if set(cells) == {"cell"} else _other_than_darts(cells)


def _on_edges(genotype: ParsedGenotype) -> list[str]:
    """Returns the operation on each of `_EDGES`."""
    ((nodes, _),) = genotype.cells.values()
    return [next(operation for operation, source in nodes[target - 1] if source == start) for start, target in _EDGES]


def _from_edges(operations: Mapping[tuple[int, int], Any]) -> ParsedGenotype:
    return of_nasbench201([[(operations[source, node], source) for source in range(node)] for node in (1, 2, 3)])


def _json(content: Mapping[str, Any]) -> str:
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return f"{{\n{lines}\n}}"


# nni


def write_nni(genotype: ParsedGenotype) -> str:
    """Writes the dictionary that nni exports, as JSON, one choice a line."""
    if set(genotype.cells) == {"cell"}:
        choices = zip(_EDGES, _on_edges(genotype), strict=True)
        return _json({f"cell/{source}_{target}": _NNI_NAMES.get(name, name) for (source, target), name in choices})
    content: dict[str, Any] = {}
    for kind, (nodes, _) in genotype.cells.items():
        for node, feeds in enumerate(nodes, 2):
            for slot, (operation, source) in enumerate(feeds):
                content |= {f"{kind}/op_{node}_{slot}": operation, f"{kind}/input_{node}_{slot}": [source]}
    return _json(content)


def _read_nni_darts(content: Mapping[str, Any]) -> ParsedGenotype:
    choices, rest = _sorted_out(content, _NNI_DARTS)
    expected = [
        (kind, word, str(node), str(slot)) for kind in _KINDS for node in _CONCAT for slot in (0, 1) for word in ("op", "input")
    ]
    for key in (*expected, *choices):
        if key not in choices or key not in expected:
            what = "is missing" if key not in choices else "is one too many"
            raise InputError(f"nni's dictionary: {key[0]}/{'_'.join(key[1:])} {what}; it must have {_NNI_NODES}")
    cells: dict[str, Any] = {}
    for kind in _KINDS:
        nodes = []
        for node in _CONCAT:
            feeds = []
            for slot in (0, 1):
                source = choices[kind, "input", str(node), str(slot)]
                if isinstance(source, list | tuple) and len(source) == 1:
                    source = source[0]
                feeds.append((choices[kind, "op", str(node), str(slot)], source))
            nodes.append(feeds)
        cells[kind] = nodes, list(_CONCAT)
    return of_darts(cells, _left_out(rest))


def _read_nni_nasbench201(content: Mapping[str, Any]) -> ParsedGenotype:
    operations = {}
    ours = {name: operation for operation, name in _NNI_NAMES.items()}
    for (source, target), operation in _sorted_out(content, _NNI_NASBENCH201)[0].items():
        operations[int(source), int(target)] = ours.get(operation, operation) if isinstance(operation, str) else operation
    if set(operations) != set(_EDGES):
        raise InputError(
            f"nni's dictionary: it must have the edges {', '.join(f'{source}_{target}' for source, target in _EDGES)}"
        )
    return _from_edges(operations)


# NAS-Bench-301


def write_nasbench301(genotype: ParsedGenotype) -> str:
    """Writes the dictionary of a ConfigSpace configuration, as JSON, one choice a line."""
    content: dict[str, str] = {}
    for kind, (nodes, _) in genotype.cells.items():
        first = 0  # number of the first edge into the node
        for node, feeds in enumerate(nodes, 2):
            ordered = sorted(feeds, key=lambda feed: feed[1])
            content |= {f"{_PREFIX}edge_{kind}_{first + source}": operation for operation, source in ordered}
            if node > 2:
                content[f"{_PREFIX}inputs_node_{kind}_{node}"] = "_".join(str(source) for _, source in ordered)
            first += node
    return _json(content)


def _other_than_nasbench301(cells: PlainCells) -> str | None:
    wrong = _other_than_darts(cells)
    if wrong:
        return wrong
    for kind, (nodes, _) in cells.items():
        for node, feeds in enumerate(nodes):
            if len({source for _, source in feeds}) < 2:
                return f"{kind}, node {node}: its inputs need two different states"
    return None


def _read_nasbench301(content: Mapping[str, Any]) -> ParsedGenotype:
    found, rest = _sorted_out({key: value for key, value in content.items() if value is not None}, _CONFIG)
    cells: dict[str, Any] = {}
    for kind in _KINDS:
        nodes, first = [], 0
        for node in _CONCAT:
            place = f"{kind}, node {node - 2}"
            given = [(found.pop(("edge", kind, str(first + source)), None), source) for source in range(node)]
            feeds = [(operation, source) for operation, source in given if operation is not None]
            if len(feeds) != 2:
                raise InputError(
                    f"{place}: expected two of edge_{kind}_{first} to edge_{kind}_{first + node - 1}, got {len(feeds)}"
                )
            inputs = found.pop(("inputs_node", kind, str(node)), None)
            ours = "_".join(str(source) for _, source in feeds)
            if inputs not in (None, ours):
                raise InputError(f"{place}: inputs_node_{kind}_{node} says {show(inputs)}, but the edges are from {ours}")
            nodes.append(feeds)
            first += node
        cells[kind] = nodes, list(_CONCAT)
    if found:
        unknown = next(iter(found))
        raise InputError(f"the configuration of NAS-Bench-301: {'_'.join(unknown)} is none of its choices")
    return of_darts(cells, _left_out(rest))


# NASLib


def write_naslib(genotype: ParsedGenotype) -> str:
    """Writes the numbers of operations: one an edge for NAS-Bench-201, and (source, operation) for
    both cells of DARTS, two a node."""
    if set(genotype.cells) == {"cell"}:
        return str(tuple(map(_OF_NASBENCH201.index, _on_edges(genotype))))
    cells = (nodes for nodes, _ in genotype.cells.values())
    return str(tuple(tuple((source, _OF_DARTS.index(name)) for feeds in nodes for name, source in feeds) for nodes in cells))


def read_numbers(value: list[Any] | tuple[Any, ...]) -> ParsedGenotype:
    """Reads what `write_naslib` writes, tuples or lists."""
    if len(value) == len(_EDGES) and not any(isinstance(each, list | tuple) for each in value):
        return _from_edges(
            {edge: _operation("cell", _OF_NASBENCH201, number) for edge, number in zip(_EDGES, value, strict=True)}
        )
    if len(value) != len(_KINDS) or not all(isinstance(each, list | tuple) and len(each) == 8 for each in value):
        raise InputError(
            "NASLib's numbers: expected six, one for each edge of NAS-Bench-201, or two cells of DARTS with eight pairs "
            f"(source, operation) each, got {show(value)}"
        )
    cells: dict[str, Any] = {}
    for kind, pairs in zip(_KINDS, value, strict=True):
        feeds = []
        for number, pair in enumerate(pairs):
            place = f"{kind}, entry {number}"
            if len(items(place, pair)) != 2:
                raise InputError(f"{place}: expected (source, operation), got {show(pair)}")
            feeds.append((_operation(place, _OF_DARTS, pair[1]), pair[0]))
        cells[kind] = [feeds[first : first + 2] for first in range(0, 8, 2)], list(_CONCAT)
    return of_darts(cells)


def _operation(place: str, names: tuple[str, ...], number: Any) -> str:
    if type(number) is not int or not 0 <= number < len(names):
        known = ", ".join(f"{index} {name}" for index, name in enumerate(names))
        raise InputError(f"{place}: operation {show(number)} is none of NASLib's: {known}")
    return names[number]


# Dictionaries


def read_dictionary(content: Mapping[str, Any]) -> ParsedGenotype | None:
    """Reads the dictionary of nni or NAS-Bench-301; None for any other."""
    for pattern, read in (
        (_NNI_DARTS, _read_nni_darts),
        (_CONFIG, _read_nasbench301),
        (_NNI_NASBENCH201, _read_nni_nasbench201),
    ):
        if any(pattern.fullmatch(key) for key in content):
            return read(content)
    return None


def _sorted_out(content: Mapping[str, Any], pattern: re.Pattern[str]) -> tuple[dict[Any, Any], list[str]]:
    """Returns the values whose keys have the pattern, by the groups of it, and the other keys."""
    found: dict[Any, Any] = {}
    rest = []
    for key, value in content.items():
        match = pattern.fullmatch(key)
        if match is None:
            rest.append(key)
        else:
            found[match.groups()] = value
    return found, rest


def _left_out(keys: list[str]) -> str:
    """Returns a line on the choices that are none of cells."""
    first = ", ".join(excerpt(key.rpartition(":")[2]) for key in keys[:3])
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"only the cells of the dictionary are taken, without {first}{more}" if keys else ""


NNI = Form(write_nni, ("darts", "nasbench201"), _misfit)
NASLIB = Form(write_naslib, ("darts", "nasbench201"), _misfit)
NASBENCH301 = Form(write_nasbench301, ("darts",), _other_than_nasbench301)
