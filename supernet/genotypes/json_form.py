"""This project's JSON, which keeps all of a genotype."""

import json
from typing import Any

from base.checks import InputError
from base.texts import show
from supernet.genotypes.parsed import Form, ParsedGenotype
from supernet.spaces.skeleton import SKELETONS

FORMAT = 1  # version of the JSON
_LARGEST = 2**20  # characters: far above any genotype


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
    if len(text) > _LARGEST:
        raise InputError(f"not a genotype: {len(text)} characters of JSON are more than the {_LARGEST} allowed")
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_not_json)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON (half-written?): {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"not valid JSON: {error}") from None
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


JSON = Form(write_json)
