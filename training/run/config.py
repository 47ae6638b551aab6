"""Reads YAML files and the command line into dataclasses."""

import argparse
import dataclasses
import difflib
import hashlib
import importlib.resources
import json
import math
import os
import re
import sys
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse
import yaml

from base.checks import FieldError, InputError
from base.plain_yaml import read_yaml
from base.texts import one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

CONFIG_FILE = "config.yaml"
"""Name of a run's configuration in its directory."""
_RUN_OPTIONS = ("config", "print_config", "run", "resume", "overwrite", "seeds")

# A configuration is data: nothing in it may name something to import.
jsonargparse.set_parsing_settings(import_path_denylist=["*"], instantiate_subclass_spec_in_any=False)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What is said of a run beside its configuration: where it is and how it begins."""

    run: Path
    """Directory of the run."""
    resume: bool
    """Go on from the last checkpoint."""
    overwrite: bool
    """Replace the run that the directory holds."""
    seeds: tuple[int, ...] = ()
    """Repeat the run with each of these seeds, in seed_0 and so on below `run`; none: once, with that of the configuration."""
    pictures: bool = True
    """Draw architectures and the like for TensorBoard and the report. No option of the command line: it is for callers in
    Python whose runs are so small that pictures would take most of the time."""


class _Field(NamedTuple):
    """One leaf of a schema; its key in the table of fields is dotted, `data.root`."""

    hint: Any
    default: Any  # dataclasses.MISSING where the field has none
    text: str

    @property
    def optional(self) -> bool:
        return type(None) in get_args(self.hint)


def shipped_configs() -> dict[str, Traversable]:
    """The configurations that come with the project, by name."""
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
    """The configuration that `argv` (None: the process's own) describes, and the options of the run.

    Every field of `schema` is an option, `--data.root` for a field of a nested dataclass; `--config` reads a file, and of two
    values the one that stands later wins; what nothing says is as in `defaults`, or else as in the schema. Without `--config`,
    `default_config` is read, or on `--resume` what the run saved. Without `repeats` there is no option `--seeds`.
    Wrong input is said in one line on stderr with exit status 2; `--help` and `--print_config` exit with 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    fields = _fields(schema, dataclasses.MISSING if defaults is None else defaults)
    options = tuple(name for name in _RUN_OPTIONS if repeats or name != "seeds")
    try:
        values = _parse(_parser(fields, prog, description, options), arguments, fields, options)
        if values["run"] == "":
            raise InputError("--run: is empty; name a directory")
        run = Path(values["run"] or _default_run(values["config"] or default_config, prog))
        seeds = _seeds(values.get("seeds"))
        # Of a run that was repeated, each repetition has saved its configuration, in which only the seed differs.
        saved = next((path for path in (seed_directory(run, seed) / CONFIG_FILE for seed in seeds) if path.is_file()), None)
        saved = saved or run / CONFIG_FILE
        base = str(saved) if values["resume"] and saved.is_file() else default_config
        if values["config"] is None and base is not None:
            values = _parse(_parser(fields, prog, description, options), ["--config", base, *arguments], fields, options)
        config = _build(schema, _checked(values, fields))
    except (argparse.ArgumentError, ValueError, OSError) as error:
        print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    if values["print_config"]:
        print(config_to_yaml(config), end="")
        raise SystemExit(0)
    return config, RunOptions(run, values["resume"], values["overwrite"], seeds)


def seed_directory(run: Path, seed: int | str) -> Path:
    """Where `run` is repeated with `seed`; "*": the pattern of all such directories."""
    return run / f"seed_{seed}"


def _seeds(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds: must be whole numbers with commas between them, such as 0,1,2, not {text!r}") from None
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds: {text} has a seed twice")
    return seeds


def config_from_file(schema: type[T], path: Path | Traversable) -> T:
    """The configuration that a YAML file describes; what it leaves out has its default.

    Raises:
        ValueError: the file is no such configuration; the message begins with its path.
    """
    fields = _fields(schema)
    defaults = {key: field.default for key, field in fields.items()}
    values = defaults | _values_of_file(_parser(fields, "", ""), path, fields)
    try:
        return _build(schema, _checked(values, fields))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def config_to_dict(config: "DataclassInstance") -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values (numbers, text, lists): what YAML and JSON can hold."""
    plain = _plain(dataclasses.asdict(config))
    assert isinstance(plain, dict)
    return plain


def config_to_yaml(config: "DataclassInstance") -> str:
    """The configuration as YAML, fields in the order of the schema; `--config` reads it back to an equal one."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


def config_hash(config: "DataclassInstance", ignore: Collection[str] = ()) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the configuration, without the top-level fields in `ignore`."""
    values = {key: value for key, value in config_to_dict(config).items() if key not in ignore}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def _fields(schema: type["DataclassInstance"], default: Any = dataclasses.MISSING, prefix: str = "") -> dict[str, _Field]:
    """The leaves of a schema by dotted name, in its order; `default`: the instance that gives their default values."""
    leaves: dict[str, _Field] = {}
    hints, texts = get_type_hints(schema), _field_texts(schema)
    for field in dataclasses.fields(schema):
        name, hint = prefix + field.name, hints[field.name]
        value = field.default
        if default is not dataclasses.MISSING:
            value = getattr(default, field.name)
        elif callable(field.default_factory):
            value = field.default_factory()
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            leaves |= _fields(hint, value, f"{name}.")
        elif any(dataclasses.is_dataclass(argument) for argument in get_args(hint)):
            raise TypeError(f"{schema.__name__}.{field.name}: a nested dataclass cannot be optional or in a list")
        else:
            leaves[name] = _Field(hint, value, texts.get(field.name, ""))
    return leaves


def _field_texts(schema: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of those it inherits from."""
    texts: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if dataclasses.is_dataclass(base):
            parsed = docstring_parser.parse_from_object(base)
            texts |= {entry.arg_name: one_line(entry.description or "") for entry in parsed.params}
    return texts


def _parser(
    fields: Mapping[str, _Field], prog: str, description: str, run_options: Collection[str] = _RUN_OPTIONS
) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=f"python -m {prog} [--config FILE_OR_NAME] [--run DIR] [--resume | --overwrite] [--FIELD VALUE ...]",
        description=description,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    run, own = parser.add_argument_group("the run"), ", ".join(_own_configs(fields))
    run.add_argument(
        "--config",
        action=partial(_ConfigAction, fields=fields),
        metavar="FILE_OR_NAME",
        help=f"Read a YAML file{f', or a shipped configuration by name ({own})' if own else ''}; "
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
    run.add_argument("--overwrite", action="store_true", help="Replace the run that the directory holds.")
    if "seeds" in run_options:
        run.add_argument(
            "--seeds",
            metavar="0,1,2",
            help="Repeat the run with each of these seeds, in DIR/seed_0 and so on, and end with mean and standard deviation.",
        )
    groups = {"": parser.add_argument_group("configuration")}
    for name, field in fields.items():
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        default = None if field.default is dataclasses.MISSING else field.default
        text = f"{field.text} ({_describe_field(field)})"
        action = groups[section].add_argument(f"--{name}", type=field.hint, default=default, help=text)
        if field.hint is bool:
            action.nargs, action.const = "?", True
    return parser


class _HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """The texts as they are: types and defaults in them are written for people, not for Python."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""


def _describe_field(field: _Field) -> str:
    """What may be given, where the listed choices do not say it, and what holds otherwise."""
    listed = get_origin(field.hint) is Literal or bool in (field.hint, *get_args(field.hint))
    parts = [] if listed else [_describe(field.hint)]
    if field.default is dataclasses.MISSING:
        parts.append("must be given")
    elif field.default != "":
        default = _plain(field.default)
        parts.append(f"default: {default if isinstance(default, str) else json.dumps(default)}")
    return "; ".join(parts)


class _ConfigAction(argparse.Action):
    """Puts the values of a file where they stand on the command line, so that later options override them."""

    def __init__(self, *, fields: Mapping[str, _Field], **options: Any) -> None:
        super().__init__(**options)
        self.fields = fields

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        shipped = shipped_configs()
        path = shipped.get(values) or Path(values)
        own = ", ".join(_own_configs(self.fields))
        if isinstance(path, Path) and not (values and path.exists()):
            known = own or "there is none"
            raise InputError(f"--config {values!r}: no such file, and no shipped configuration of this command ({known})")
        try:
            found = _values_of_file(parser, path, self.fields)
        except ValueError as error:
            hint = f"; shipped for this command: {own}" if own and values in shipped else ""
            raise InputError(f"{error}{hint}") from error
        for key, value in found.items():
            namespace[key] = value
        namespace[self.dest] = values


def _own_configs(fields: Mapping[str, _Field]) -> list[str]:
    """Names of the shipped configurations that fit the schema: they are for this command."""
    own = []
    for name, path in shipped_configs().items():
        with suppress(ValueError):
            _flatten(read_yaml(path), fields)
            own.append(name)
    return own


def _values_of_file(
    parser: jsonargparse.ArgumentParser, path: Path | Traversable, fields: Mapping[str, _Field]
) -> dict[str, Any]:
    """The values in a file by dotted name, each of the type of its field."""
    content = read_yaml(path)
    try:
        flat = _flatten(content, fields)
        parsed = parser.parse_object(flat, defaults=False)
        values = {key: parsed[key] for key in flat}
        _checked(values, {key: fields[key] for key in flat})
    except (argparse.ArgumentError, ValueError) as error:
        raise InputError(f"{path}: {_short(str(error), fields)}") from error
    return values


def _flatten(content: Mapping[str, Any], fields: Mapping[str, _Field], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted names; a name that is no field of the schema is refused."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if name in fields:
            flat[name] = value
        elif not any(known.startswith(f"{name}.") for known in fields):
            raise InputError(f"{name}: no such field{_did_you_mean(name, fields)}")
        elif not isinstance(value, dict):
            raise InputError(f"{name}: must hold fields of its own (`name: value`), not {one_line(repr(value))}")
        else:
            flat |= _flatten(value, fields, f"{name}.")
    return flat


def _parse(
    parser: jsonargparse.ArgumentParser, arguments: list[str], fields: Mapping[str, _Field], run_options: Collection[str]
) -> dict[str, Any]:
    """All options by dotted name."""
    try:
        namespace = parser.parse_args(_join_negative(arguments))
    except argparse.ArgumentError as error:
        raise InputError(_short(str(error), fields, run_options)) from error
    return {name: namespace[name] for name in (*fields, *run_options)}


def _join_negative(arguments: list[str]) -> list[str]:
    """`--rate -1e-3` as `--rate=-1e-3`: argparse takes a negative number with an exponent for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-\.?\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _checked(values: Mapping[str, Any], fields: Mapping[str, _Field]) -> dict[str, Any]:
    """The values of the fields; refuses what the parser lets pass: a field without a value, NaN and infinity."""
    for name, field in fields.items():
        value = values[name]
        if field.default is dataclasses.MISSING and (value is None or value is dataclasses.MISSING) and not field.optional:
            raise InputError(f"{name}: must be given, with --{name} or in a configuration file")
        if value is None and not field.optional:
            raise InputError(f"{name}: must be {_describe(field.hint)}, not null")
        for entry in _leaf_values(value):
            if isinstance(entry, float) and not math.isfinite(entry):
                raise InputError(f"{name}: must be finite, not {entry}")
    return {name: values[name] for name in fields}


def _leaf_values(value: Any) -> Iterator[Any]:
    if isinstance(value, (Mapping, list, tuple)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _leaf_values(entry)
    else:
        yield value


def _build(schema: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """The dataclass, the nested ones first; each checks its ranges as it is made."""
    hints = get_type_hints(schema)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(schema):
        name, hint = prefix + field.name, hints[field.name]
        nested = dataclasses.is_dataclass(hint) and isinstance(hint, type)
        try:
            arguments[field.name] = _build(hint, values, f"{name}.") if nested else values[name]
        except FieldError as error:
            raise error.within(field.name) from error
    return schema(**arguments)


def _default_run(config: str | None, prog: str) -> str:
    name = Path(config).stem if config is not None else prog.split()[-1].replace(".", "_") if prog else "run"
    return os.path.join("runs", name)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _short(message: str, fields: Mapping[str, _Field], run_options: Collection[str] = ()) -> str:
    """One line from the several in which the parser says what is wrong."""
    if found := re.match(r'Parser key "([^"]+)":', message):
        name = found[1]
        got = re.split(r"(?:Got|Given) value: ", message, maxsplit=0)[-1]
        if below := re.match(r"NestedArg\(key='([^']+)'", got):  # --data.size where data is no group but a field
            below_it = f"{name}.{below[1]}"
            return f"--{below_it}: no such option{_did_you_mean(below_it, [*fields, *run_options], '--')}"
        got = "null" if got == "None" else one_line(got)
        return f"{name}: must be {_describe(fields[name].hint)}, not {got}"
    if message.startswith("unrecognized arguments: "):
        argument = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
        if not argument.startswith("-"):
            return f"unexpected argument {argument!r}; every option has a name that begins with --"
        return f"{argument}: no such option{_did_you_mean(argument.lstrip('-'), [*fields, *run_options], '--')}"
    message = re.sub(r": ignored explicit argument .*", ": takes no value", message)
    return one_line(message.removeprefix("argument "))


def _did_you_mean(name: str, known: Collection[str], dashes: str = "") -> str:
    # `--root` is meant for `--data.root`: where no whole name is close, the last part decides.
    endings = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, n=1)
    close = close or [endings[end] for end in difflib.get_close_matches(name.rpartition(".")[2], endings, n=1)]
    return f"; did you mean {dashes}{close[0]}?" if close else ""


_TYPE_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    type(None): "null",
}


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _TYPE_NAMES:
        return _TYPE_NAMES[hint]
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return "a list [" + ", ".join(_describe(argument) for argument in arguments) + "]"
    if origin in (list, tuple):
        return f"a list, each entry {_describe(arguments[0])}"
    if origin is dict:
        return f"a mapping, each value {_describe(arguments[1])}"
    return str(hint)
