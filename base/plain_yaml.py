"""YAML files that hold plain values: numbers, text, lists and mappings."""

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from base.checks import InputError
from base.files import read_limited
from base.texts import one_line

LARGEST_FILE = 2**18  # bytes: far above any configuration; the reader needs seconds for one MiB


class _PlainLoader(yaml.SafeLoader):
    """A loader that refuses tags of Python, aliases and keys that are there twice.

    Aliases let a few lines stand for gigabytes. Each key once is YAML's own rule; the plain reader
    would silently keep the last of two.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read here; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else "")
        return super().construct_mapping(node, deep)


def parse_plain(text: str, source: object = "the text") -> Any:
    """Returns the value that a text of YAML stands for.

    Raises InputError, which names its `source`, if it is no plain YAML.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{source}{where}: not plain YAML: {one_line(error.problem or error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not plain YAML: {one_line(error)}") from error


def read_yaml(path: Path | Traversable) -> dict[str, Any]:
    """Returns the mapping that a YAML file holds.

    Raises:
        InputError: the file cannot be read, is empty, or is anything else than a mapping of names
            in plain YAML and UTF-8.
    """
    try:
        content = parse_plain(read_limited(path, LARGEST_FILE).decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8") from error
    if content is None:
        raise InputError(f"{path}: the file is empty")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: must hold lines of the form `name: value`")
    return content
