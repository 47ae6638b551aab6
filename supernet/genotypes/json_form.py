"""This project's JSON, which keeps all of a genotype."""

import json
from typing import Any

from base.checks import InputError
from base.texts import show
from supernet.genotypes.parsed import Form, ParsedGenotype
from supernet.spaces.skeleton import SKELETONS

FORMAT = 1  # version of the JSON
_LARGEST = 2**18  # characters: above any genotype, indented or not
_SCAN = json.JSONDecoder().raw_decode


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


def _decode_json(text: str, start: int) -> tuple[object, int]:
    """Decodes the JSON that begins at `start` more strictly than `json.loads`: each key once, no NaN;
    returns also where it ends."""
    part = text[start : start + _LARGEST]
    try:
        content, length = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_not_json).raw_decode(part)
        return content, start + length
    except json.JSONDecodeError as error:
        at = start + error.pos
        if len(text) > at and error.pos >= _LARGEST - 1:
            raise InputError(f"not a genotype: more than the {_LARGEST} characters of JSON allowed") from None
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        raise InputError(f"not valid JSON (half-written?): {error.msg} at line {line}, column {column}") from None
    except ValueError as error:
        # A key that is there twice, or a number of thousands of digits.
        raise error if isinstance(error, InputError) else InputError(f"not valid JSON: {error}") from None
    except (RecursionError, MemoryError):
        raise InputError("not a genotype: JSON nested too deeply") from None


def end_of_json(text: str, start: int) -> int:
    """Returns where the JSON ends that begins at `start`, or where it breaks off."""
    part = text[start : start + _LARGEST]
    try:
        return start + _SCAN(part)[1]
    except json.JSONDecodeError as error:
        return start + error.pos
    except (ValueError, RecursionError, MemoryError):  # a number of thousands of digits, or deep nesting
        return start + len(part)


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


def read_json(text: str, start: int = 0) -> tuple[ParsedGenotype, int]:
    """Reads the text of `write_json` that begins at `start`, and returns also where it ends; strict,
    so that a slip of the pen is found."""
    content, end = _decode_json(text, start)
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
    found = ParsedGenotype(cells, skeleton, space["name"], content.get("seed"), content.get("config_hash"))
    return found, end


JSON = Form(write_json)
