"""Reads YAML files and the command line into dataclasses."""

import argparse
import dataclasses
import hashlib
import importlib.resources
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import yaml

from base.checks import FieldError, InputError, check_seed
from base.numbers import parse_whole
from base.plain_yaml import read_yaml, read_yaml_lines
from base.texts import did_you_mean, excerpt, show
from training.run import profile
from training.run.command import foreseen
from training.run.ownership.claim import restore
from training.run.schema import (
    Leaf,
    build,
    check_text,
    check_value,
    convert_value,
    describe,
    fields_in_order,
    leaves_of,
    parse_value,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

CONFIG_FILE = "config.yaml"
"""Name of a run's configuration in its directory."""

_MOST_SEEDS = 1000  # a run each


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options of a run beside its configuration: its directory, and its beginning."""

    run: Path
    """Directory of the run."""
    resume: bool
    """Go on from the last checkpoint."""
    overwrite: bool
    """Replace the run that the directory holds."""
    seeds: tuple[int, ...] = ()
    """Repeat the run with each of these seeds, in seed_0 and so on below `run`; none: once, with
    that of the configuration."""
    extend: Literal["restart", "tail"] | None = None
    """The way on of a run that is resumed with more epochs, whose schedules depend on them."""
    profile: Path | None = None
    """Directory into which the trace of some steps is written (`training.run.profile`)."""
    pictures: bool = True
    """Draw architectures and the like for TensorBoard and the report. It is no option of the
    command line but for callers in Python whose runs are so small that pictures would take most of
    the time."""


def shipped_configs() -> dict[str, Traversable]:
    """Returns the configurations that come with the project, by name."""
    files = sorted(_yaml_files(importlib.resources.files("configs")), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): entry for entry in files}


def _yaml_files(folder: Traversable) -> Iterator[Traversable]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _yaml_files(entry)
        elif entry.name.endswith(".yaml"):
            yield entry


def parse_command_line(
    schema: type[T],
    argv: Sequence[str] | None,
    prog: str,
    description: str,
    default_config: str | None = None,
    defaults: T | None = None,
    repeats: bool = True,
) -> tuple[T, RunOptions]:
    """Returns the configuration that `argv` (None: the process's own) describes, and the options of
    the run.

    Every field of `schema` is an option, `--data.root` for a field of a nested dataclass;
    `--config` reads a file, and of two values the later one wins; other fields are as in
    `defaults`, or else as in the schema. Without `--config`, `default_config` is read, or on
    `--resume` the saved configuration of the run. Without `repeats` there is no option `--seeds`.
    Wrong input ends with one line on stderr and exit status 2; `--help` and `--print_config` exit
    with 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    leaves = leaves_of(schema, dataclasses.MISSING if defaults is None else defaults)
    # The shipped files are read for their names in the help; no other command line needs them.
    own = _own_configs(leaves) if {"-h", "--help"}.intersection(arguments) else []
    parser = _parser(leaves, prog, description, own, repeats)
    try:
        values = _parse(parser, arguments, leaves)
        if values["run"] == "":
            raise InputError("--run: is empty; name a directory")
        if values["run"] is not None:
            check_text("--run", values["run"])
        run = Path(values["run"] or _default_run(values["config"] or default_config, prog))
        seeds = _seeds(values.get("seeds"))
        trace = _profile(values["profile"], run, seeds)
        if values["resume"] and not values["print_config"]:
            # Else the settings of a killed --overwrite would be read, whose run gives way later.
            for path in (run, *(seed_directory(run, seed) for seed in seeds)):
                restore(path)
        # Each repetition of a repeated run has saved its configuration, in which only the seed
        # differs.
        saved = next((path for path in (seed_directory(run, seed) / CONFIG_FILE for seed in seeds) if path.is_file()), None)
        saved = saved or run / CONFIG_FILE
        base = str(saved) if values["resume"] and saved.is_file() else default_config
        if values["config"] is None and base is not None:
            values = _parse(parser, ["--config", base, *arguments], leaves)
        try:
            config = build(schema, _checked(values, leaves))
        except FieldError as error:
            raise _placed(error, values.get("places", {})) from error
    except (InputError, OSError) as error:
        print(f"{prog}: error: {_said(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    if values["print_config"]:
        text = config_to_yaml(config)
        # Escaped by YAML's own rules, so that it stays a config file.
        print(text if _can_be_shown(text) else config_to_yaml(config, only_ascii=True), end="")
        raise SystemExit(0)
    return config, RunOptions(run, values["resume"], values["overwrite"], seeds, values.get("extend"), trace)


def _said(error: InputError | OSError) -> str:
    end = foreseen(error)
    assert end is not None
    return end.message


def seed_directory(run: Path, seed: int | str) -> Path:
    """Returns the directory in which `run` is repeated with `seed`; "*" gives the pattern of all of
    them."""
    return run / f"seed_{seed}"


def _profile(text: str | None, run: Path, seeds: Sequence[int]) -> Path | None:
    if text is None:
        return None
    if text == "":
        raise InputError("--profile: is empty; name a directory")
    check_text("--profile", text)
    for path in [seed_directory(Path(text), seed) for seed in seeds] or [Path(text)]:
        profile.check(path, run)
    return Path(text)


def _seeds(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = text.split(",", _MOST_SEEDS)
    if len(parts) > _MOST_SEEDS:
        raise InputError(f"--seeds: must be at most {_MOST_SEEDS} whole numbers, not {excerpt(text)}")
    try:
        seeds = tuple(parse_whole(part.strip()) for part in parts)
    except ValueError:
        raise InputError(f"--seeds: must be whole numbers with commas between them, such as 0,1,2, not {show(text)}") from None
    for seed in seeds:
        check_seed("--seeds", seed)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds: {excerpt(text)} has a seed twice")
    return seeds


def config_from_file(schema: type[T], path: Path | Traversable) -> T:
    """Returns the configuration that a YAML file describes; fields that it leaves out have their
    defaults.

    Raises:
        InputError: the file is no such configuration; the message begins with its path.
    """
    leaves = leaves_of(schema)
    found, places = _values_of_file(path, leaves)
    values = {name: leaf.default for name, leaf in leaves.items()} | found
    try:
        return build(schema, _checked(values, leaves))
    except FieldError as error:
        raise _placed(error, places, str(path)) from error
    except InputError as error:
        raise InputError(f"{path}: ", *error.parts) from error


def config_to_dict(config: "DataclassInstance") -> dict[str, Any]:
    """Returns the configuration as nested dictionaries of plain values (numbers, text, lists), for
    YAML and JSON."""
    values = {field.name: getattr(config, field.name) for field in fields_in_order(type(config))}
    return {
        name: config_to_dict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else _plain(value)
        for name, value in values.items()
    }


def config_to_yaml(config: "DataclassInstance", only_ascii: bool = False) -> str:
    """Returns the configuration as YAML, fields in the order of the schema; `--config` reads it
    back.

    With `only_ascii` all other characters are escaped as YAML has it.
    """
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=not only_ascii)


def _can_be_shown(text: str) -> bool:
    """Says whether standard output takes the text as it is (`training.run.command`)."""
    encoding = sys.stdout.encoding or "utf-8"
    return all(map(str.isprintable, text.split("\n"))) and text.encode(encoding, "replace").decode(encoding) == text


def config_hash(config: "DataclassInstance", ignore: Collection[str] = ()) -> str:
    """Returns 12 hexadecimal digits of the SHA-256 of the configuration without the fields in
    `ignore`."""
    values = {key: value for key, value in config_to_dict(config).items() if key not in ignore}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def _parser(
    leaves: Mapping[str, Leaf], prog: str, description: str, own: Sequence[str], repeats: bool = True
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"python -m {prog} [--config FILE_OR_NAME] [--run DIR] [--resume | --overwrite] [--FIELD VALUE ...]",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    run, names = parser.add_argument_group("the run"), ", ".join(own)
    run.add_argument(
        "--config",
        action=_ConfigAction,
        leaves=leaves,
        metavar="FILE_OR_NAME",
        help=f"Read a YAML file{f', or a shipped configuration by name ({names})' if own else ''}; "
        "what stands later on the command line wins.",
    )
    run.add_argument("--print_config", action="store_true", help="Print the merged configuration as YAML and exit.")
    directory = f"Directory of the run; where left out, runs/NAME of the configuration, or {_default_run(None, prog)}."
    run.add_argument("--run", metavar="DIR", help=directory)
    run.add_argument(
        "--resume",
        action="store_true",
        help="Go on from the run's last checkpoint, without --config with the configuration that it saved.",
    )
    if "extended" in leaves:
        run.add_argument(
            "--extend",
            choices=["restart", "tail"],
            help="With --resume and more --epochs: schedules begin anew for the further epochs, or stay at their last values.",
        )
    run.add_argument("--overwrite", action="store_true", help="Replace the run that the directory holds.")
    run.add_argument(
        "--profile",
        metavar="DIR",
        help="Write a trace of some steps, with named ranges, to DIR/trace.json, and a table of the ranges to the log.",
    )
    if repeats:
        run.add_argument(
            "--seeds",
            metavar="0,1,2",
            help="Repeat the run with each of these seeds, in DIR/seed_0 and so on, and end with mean and standard deviation.",
        )
    groups = {"": parser.add_argument_group("configuration")}
    for name, leaf in leaves.items():
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        text = f"{leaf.text} ({_describe_leaf(leaf)})".replace("%", "%%")
        groups[section].add_argument(f"--{name}", action=_ValueAction, leaf=leaf, default=argparse.SUPPRESS, help=text)
    return parser


def _describe_leaf(leaf: Leaf) -> str:
    """Returns the type of a field, unless the listed choices show it, and its default."""
    parts = [] if _listed(leaf.hint) else [describe(leaf.hint)]
    if leaf.default is dataclasses.MISSING:
        parts.append("must be given")
    elif leaf.default != "":
        default = _plain(leaf.default)
        parts.append(f"default: {default if isinstance(default, str) else json.dumps(default)}")
    return "; ".join(parts)


def _listed(hint: Any) -> list[str]:
    """Returns all values of a type that has few."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    listed = {bool: ["true", "false"], type(None): ["null"]}
    if hint in listed:
        return listed[hint]
    parts = [_listed(part) for part in get_args(hint)] if type(None) in get_args(hint) else []
    return [choice for part in parts for choice in part] if all(parts) else []


class _ValueAction(argparse.Action):
    """Reads the text of an option into the value of its field; a truth value without a text is
    true."""

    def __init__(self, *, leaf: Leaf, **options: Any) -> None:
        super().__init__(nargs="?" if leaf.hint is bool else None, **options)
        self._leaf = leaf
        listed = _listed(leaf.hint)
        sort = "[ITEM,...]" if get_origin(leaf.hint) in (list, tuple) else self.dest.rpartition(".")[2].upper()
        self.metavar = f"{{{','.join(listed)}}}" if listed else sort

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        value = True if values is None else parse_value(self.dest, self._leaf.hint, values)
        setattr(namespace, self.dest, value)
        getattr(namespace, "places", {}).pop(self.dest, None)


class _ConfigAction(argparse.Action):
    """Puts the values of a file in their place on the command line, so that later options override
    them."""

    def __init__(self, *, leaves: Mapping[str, Leaf], **options: Any) -> None:
        super().__init__(**options)
        self._leaves = leaves

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        shipped = shipped_configs()
        check_text("--config", values)
        path = shipped.get(values) or Path(values)
        if isinstance(path, Path) and not (values and path.exists()):
            known = ", ".join(_own_configs(self._leaves)) or "there is none"
            raise InputError(f"--config {show(values)}: no such file, and no shipped configuration of this command ({known})")
        try:
            found, places = _values_of_file(path, self._leaves)
        except InputError as error:
            own = ", ".join(_own_configs(self._leaves)) if values in shipped else ""
            raise InputError(*error.parts, f"; shipped for this command: {own}" if own else "") from error
        vars(namespace).update(found)
        # Of two files the later one wins, as of two values.
        namespace.places = {**getattr(namespace, "places", {}), **places}
        setattr(namespace, self.dest, values)


def _own_configs(leaves: Mapping[str, Leaf]) -> list[str]:
    """Returns the names of the shipped configurations that fit the schema and so are for this
    command."""
    own = []
    for name, path in shipped_configs().items():
        with suppress(InputError):
            _flatten(read_yaml(path), leaves)
            own.append(name)
    return own


def _values_of_file(path: Path | Traversable, leaves: Mapping[str, Leaf]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the values in a file by dotted name, each of the type of its field, and the place of
    each name, as errors quote it, in words."""
    content, lines = read_yaml_lines(path)
    places = {excerpt(name): f"{path}, line {line}" for name, line in lines.items()}
    try:
        flat = _flatten(content, leaves)
        values = {name: convert_value(name, leaves[name].hint, value) for name, value in flat.items()}
        for name, value in values.items():
            check_value(name, leaves[name], value)
    except FieldError as error:
        raise _placed(error, places, str(path)) from error
    return values, places


def _placed(error: FieldError, places: Mapping[str, str], otherwise: str = "") -> InputError:
    """Returns the error with the place, in words, of the value that it is about; `otherwise` is the
    place of values that have none."""
    of_part = (places[name] for name in places if name.startswith(f"{error.field}."))
    place = places.get(error.field) or next(of_part, otherwise)
    return InputError(f"{place}: ", *error.parts) if place else error


def _flatten(content: Mapping[str, Any], leaves: Mapping[str, Leaf], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to dotted names.

    Raises InputError for a name that is no field of the schema.
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if name in leaves:
            flat[name] = value
        elif not any(known.startswith(f"{name}.") for known in leaves):
            raise FieldError(excerpt(name), f"no such field{did_you_mean(name, leaves)}")
        elif not isinstance(value, dict):
            raise FieldError(name, f"must hold fields of its own (`name: value`), not {show(value)}")
        else:
            flat |= _flatten(value, leaves, f"{name}.")
    return flat


def _parse(parser: argparse.ArgumentParser, arguments: list[str], leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """Returns all options by dotted name."""
    try:
        namespace, others = parser.parse_known_args(_join_negative(arguments))
    except argparse.ArgumentError as error:
        said = "takes no value" if error.argument_name in ("--print_config", "--resume", "--overwrite") else error.message
        raise InputError(f"{error.argument_name}: {said}") from error
    if others and others[0].startswith("-"):
        name = others[0].partition("=")[0]
        known = [action.dest for action in parser._actions]
        raise InputError(f"{excerpt(name)}: no such option{did_you_mean(name.lstrip('-'), known, '--')}")
    if others:
        raise InputError(f"unexpected argument {show(others[0])}; every option has a name that begins with --")
    return {name: leaf.default for name, leaf in leaves.items()} | vars(namespace)


def _join_negative(arguments: list[str]) -> list[str]:
    """Joins `--rate -1e-3` to `--rate=-1e-3`: argparse takes a negative number with an exponent for
    an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-\.?\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _checked(values: Mapping[str, Any], leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """Returns the checked values of the fields; see `check_value`."""
    for name, leaf in leaves.items():
        check_value(name, leaf, values[name])
    return {name: values[name] for name in leaves}


def _default_run(config: str | None, prog: str) -> str:
    name = Path(config).stem if config is not None else prog.split()[-1].replace(".", "_") if prog else "run"
    return os.path.join("runs", name)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
