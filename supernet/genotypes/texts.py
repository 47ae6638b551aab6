"""The texts that genotypes are written in: this project's JSON, and the forms of DARTS and of
NAS-Bench-201.

Both ways go through `ParsedGenotype`. Readers only parse, into a `ParsedGenotype`; `Genotype`
checks that it is valid.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from base.checks import InputError
from base.texts import show
from supernet.spaces.skeleton import SKELETONS, Skeleton

FORMAT = 1  # version of the JSON
LARGEST_TEXT = 2**20  # characters, bytes of a file: far above any genotype, far below what would exhaust memory
MOST_STATES = 64  # of a cell: a text of a few bytes can name any number; published cells have 7
MOST_INPUTS = 512  # of all nodes of a cell together: all eight operations on all 14 edges of DARTS are 112


# The kinds of cell that a form writes, and the inputs of each; json takes all.
_CELLS: dict[str, tuple[tuple[str, ...], int]] = {"darts": (("normal", "reduce"), 2), "nasbench201": (("cell",), 1)}


class ParsedGenotype(NamedTuple):
    """The plain value of a genotype: (nodes, concat) of each kind of cell, as `CellGenotype` has
    them, and the other fields.

    The value that a reader makes is unchecked. The value that a writer gets is checked: it comes
    from a `Genotype`.
    """

    cells: Mapping[str, tuple[Any, Any]]
    skeleton: Skeleton
    space: Any
    seed: Any = None
    config_hash: Any = None


def items(place: str, value: object) -> list[Any] | tuple[Any, ...]:
    """Raises ValueError that names the place unless `value` is a list or tuple."""
    if not isinstance(value, list | tuple):
        raise InputError(f"{place}: expected a list, got {show(value)}")
    return value


def state_number(place: str, value: object) -> int:
    """Raises ValueError that names the place unless `value` is an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{place}: expected the number of a state, got {show(value)}")
    return value


def misfit_of(genotype: ParsedGenotype, form: str) -> str | None:
    """Returns why `genotype` cannot be written in `form`, None if it can."""
    if form == "json":
        return None
    skeleton = genotype.skeleton
    if skeleton.text_form != form or (skeleton.kinds, skeleton.inputs) != _CELLS.get(form):
        return f"its skeleton is {skeleton.name}"
    for kind, (nodes, concat) in genotype.cells.items():
        if form == "nasbench201":
            if len(nodes) != 3 or concat != (3,):
                return f"{kind}: it needs 3 nodes, the last of them the output"
            wrong = next(filter(None, (_wrong_sources(kind, node, feeds) for node, feeds in enumerate(nodes))), None)
            if wrong:
                return wrong
        elif not nodes[-1] and skeleton.inputs + len(nodes) - 1 > max(concat):
            # Triples show how many nodes there are by naming the last one.
            return f"{kind}, node {len(nodes) - 1}: it has no input and is not concatenated"
    return None


def _wrong_sources(kind: str, node: int, feeds: Iterable[tuple[str, int]]) -> str | None:
    """Returns the problem of the states that feed a node of a NAS-Bench-201 string; None if they
    are right."""
    sources = [source for _, source in feeds]
    if sorted(sources) == list(range(node + 1)):
        return None
    given = ", ".join(map(show, sources)) or "none"
    return f"{kind}, node {node}: it needs exactly one operation from each of the states 0 to {node}, but has {given}"


def write_json(genotype: ParsedGenotype) -> str:
    """Writes all of a genotype, one node a line."""
    skeleton = genotype.skeleton
    space = {"name": genotype.space, "skeleton": skeleton.name, "inputs": skeleton.inputs, "kinds": skeleton.kinds}
    cells = ",\n".join(f"    {json.dumps(kind)}: {_write_cell(*cell)}" for kind, cell in genotype.cells.items())
    entries = {
        "format": json.dumps(FORMAT),
        "space": json.dumps(space),
        "cells": f"{{\n{cells}\n  }}",
        "seed": json.dumps(genotype.seed),
        "config_hash": json.dumps(genotype.config_hash),
    }
    lines = ",\n".join(f'  "{key}": {value}' for key, value in entries.items())
    return f"{{\n{lines}\n}}\n"


def _write_cell(nodes: Any, concat: Any) -> str:
    # One node a line: json.dumps would write one value a line.
    lines = ",\n".join(f"        {json.dumps(feeds)}" for feeds in nodes)
    return f'{{\n      "nodes": [\n{lines}\n      ],\n      "concat": {json.dumps(concat)}\n    }}'


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content: dict[str, object] = {}
    for key, value in pairs:
        if key in content:
            raise InputError(f"key {show(key)} is there twice")
        content[key] = value
    return content


def _not_json(name: str) -> object:
    raise InputError(f"{name} is not a number of JSON")


def _decode_json(text: str) -> object:
    """Decodes JSON more strictly than `json.loads`: each key once, no NaN."""
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_not_json)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON (half-written?): {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (RecursionError, MemoryError):
        raise InputError("not a genotype: JSON nested too deeply") from None


def _fields(place: str, value: object, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Raises ValueError unless `value` is an object with these keys."""
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected an object with the keys {', '.join(needed)}, got {show(value)}")
    missing = [key for key in needed if key not in value]
    if missing:
        raise InputError(f"{place}: key {missing[0]!r} is missing")
    unknown = [key for key in value if key not in needed + optional]
    if unknown:
        raise InputError(f"{place}: unknown key {show(unknown[0])}; known: {', '.join(needed + optional)}")
    return value


def read_json(text: str) -> ParsedGenotype:
    """Reads the text of `write_json`; strict, so that a slip of the pen is found."""
    content = _decode_json(text)
    if not isinstance(content, dict) or "format" not in content:
        raise InputError("genotype: key 'format' is missing")
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise InputError(f"genotype: unknown format {show(content['format'])}; this version reads format {FORMAT}")
    _fields("genotype", content, ("format", "space", "cells"), ("seed", "config_hash"))
    space = _fields("space", content["space"], ("name", "skeleton", "inputs", "kinds"))
    if not isinstance(space["skeleton"], str) or space["skeleton"] not in SKELETONS:
        raise InputError(f"space: {SKELETONS.unknown(space['skeleton'])}")
    skeleton = SKELETONS[space["skeleton"]]
    for key, expected in (("inputs", skeleton.inputs), ("kinds", list(skeleton.kinds))):
        if type(space[key]) is not type(expected) or space[key] != expected:
            raise InputError(f"space: {key} of the {skeleton.name} skeleton are {expected}, not {show(space[key])}")
    cells = {}
    for kind, cell in _fields("cells", content["cells"], skeleton.kinds).items():
        fields = _fields(kind, cell, ("nodes", "concat"))
        cells[kind] = fields["nodes"], fields["concat"]
    return ParsedGenotype(cells, skeleton, space["name"], content.get("seed"), content.get("config_hash"))


def write_nasbench201(genotype: ParsedGenotype) -> str:
    """Writes `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` (Dong & Yang 2020), the inputs of each node
    ordered by their source."""
    ((nodes, _),) = genotype.cells.values()
    ordered = (sorted(feeds, key=lambda feed: feed[1]) for feeds in nodes)
    return "+".join("|" + "".join(f"{operation}~{source}|" for operation, source in feeds) for feeds in ordered)


def read_nasbench201(text: str) -> ParsedGenotype:
    """Reads a NAS-Bench-201 string, the inputs of each node in any order."""
    groups = [group.strip() for group in text.split("+")]
    if len(groups) != 3:
        raise InputError(f"cell: a NAS-Bench-201 string has 3 nodes with + between them, not {len(groups)}")
    nodes = []
    for node, group in enumerate(groups):
        if len(group) < 3 or group[0] != "|" or group[-1] != "|":
            raise InputError(f"cell, node {node}: expected |operation~state|...|, got {show(group)}")
        feeds = []
        for number, edge in enumerate(group[1:-1].split("|")):
            match = re.fullmatch(r"\s*(\w+)\s*~\s*([0-9]{1,4})\s*", edge)
            if match is None:
                raise InputError(f"cell, node {node}, input {number}: expected operation~state, got {show(edge)}")
            feeds.append((match[1], int(match[2])))
        wrong = _wrong_sources("cell", node, feeds)
        if wrong:
            raise InputError(wrong)
        nodes.append(feeds)
    return ParsedGenotype({"cell": (nodes, [len(nodes)])}, SKELETONS["nasbench201"], "nasbench201")


def write_darts(genotype: ParsedGenotype) -> str:
    """Writes `Genotype(normal=[...], ...)` with pairs if every node has two inputs, otherwise with
    triples."""
    inputs = genotype.skeleton.inputs
    in_pairs = all(len(feeds) == 2 for nodes, _ in genotype.cells.values() for feeds in nodes)
    fields = []
    for kind, (nodes, concat) in genotype.cells.items():
        entries = [
            (operation, source) if in_pairs else (operation, inputs + node, source)
            for node, feeds in enumerate(nodes)
            for operation, source in feeds
        ]
        first, last = concat[0], concat[-1]
        contiguous = concat == tuple(range(first, last + 1))
        fields += [f"{kind}={entries}", f"{kind}_concat={f'range({first}, {last + 1})' if contiguous else list(concat)}"]
    return f"Genotype({', '.join(fields)})"


def read_darts(text: str) -> ParsedGenotype:
    """Reads `Genotype(normal=[...], normal_concat=range(2, 6), reduce=[...], reduce_concat=[...])`,
    keywords in any order."""
    kinds, inputs = _CELLS["darts"]
    names = [name for kind in kinds for name in (kind, f"{kind}_concat")]
    values: dict[str, ast.expr] = {}
    for keyword in _parse_call(text).keywords:
        if keyword.arg not in names:
            raise InputError(f"Genotype(...): unknown keyword {show(keyword.arg)}; known: {', '.join(names)}")
        if keyword.arg in values:
            raise InputError(f"Genotype(...): keyword {keyword.arg} is there twice")
        values[keyword.arg] = keyword.value
    missing = [name for name in names if name not in values]
    if missing:
        raise InputError(f"Genotype(...): keyword {missing[0]} is missing")
    cells = {}
    for kind in kinds:
        concat = _read_concat(f"{kind}, concat", values[f"{kind}_concat"])
        entries = items(kind, _literal(kind, values[kind]))
        cells[kind] = _nodes_of_entries(kind, entries, concat, inputs), concat
    return ParsedGenotype(cells, SKELETONS["darts"], "darts")


def _parse_call(text: str) -> ast.Call:
    """Returns the syntax tree of `Genotype(...)` with keywords alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd literals; whatever they are, they are checked below
            tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise InputError(f"Genotype(...): {error.msg} at line {error.lineno or 1} (cut short?)") from None
    except (ValueError, RecursionError, MemoryError):
        raise InputError("Genotype(...): zero bytes in the text, or nested too deeply") from None
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.func.id != "Genotype":
        raise InputError("Genotype(...): there is something else before or after it")
    if tree.args:
        raise InputError("Genotype(...): every value needs its keyword, such as normal=[...]")
    return tree


def _literal(place: str, value: ast.expr) -> object:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise InputError(f"{place}: only lists and tuples of plain texts and integers are read") from None


def _read_concat(place: str, value: ast.expr) -> list[int]:
    """Reads a list of states, or range(...), which may be far too long to be written out."""
    if not isinstance(value, ast.Call):
        states = [state_number(place, state) for state in items(place, _literal(place, value))]
    else:
        if not isinstance(value.func, ast.Name) or value.func.id != "range" or value.keywords or not 1 <= len(value.args) <= 3:
            raise InputError(f"{place}: expected a list or range(first, last + 1)")
        numbers = [state_number(place, _literal(place, argument)) for argument in value.args]
        if not all(-MOST_STATES <= number <= MOST_STATES for number in numbers) or 0 in numbers[2:]:
            raise InputError(f"{place}: range({', '.join(map(show, numbers))}) is out of range")
        states = list(range(*numbers))
    beyond = next((state for state in states if not 0 <= state < MOST_STATES), None)
    if beyond is not None:
        raise InputError(f"{place}: state {show(beyond)} is out of range, it must be 0 to {MOST_STATES - 1}")
    return states


def _nodes_of_entries(kind: str, entries: Iterable[object], concat: list[int], inputs: int) -> list[list[object]]:
    """Returns the inputs of each node from pairs (operation, source), two a node, or triples
    (operation, target, source)."""
    rows: list[list[Any] | tuple[Any, ...]] = []
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
        if not inputs <= state_number(place, target) < MOST_STATES:
            raise InputError(f"{place}: target state {show(target)} is out of range, it must be {inputs} to {MOST_STATES - 1}")
        targets.append(target)
    nodes: list[list[object]] = [[] for _ in range(max([*targets, *concat], default=0) + 1 - inputs)]
    for target, (operation, _, source) in zip(targets, rows, strict=True):
        nodes[target - inputs].append((operation, source))
    return nodes


FORMS = ("darts", "nasbench201", "json")
WRITERS: dict[str, Callable[[ParsedGenotype], str]] = {
    "darts": write_darts,
    "nasbench201": write_nasbench201,
    "json": write_json,
}
# Readers by the beginning of a text.
READERS: dict[str, Callable[[str], ParsedGenotype]] = {"Genotype": read_darts, "|": read_nasbench201, "{": read_json}
