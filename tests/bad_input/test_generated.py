"""Every field of every configuration by its type, and every command, with the values that have broken programs before.

Each case either is refused in one short line, soon and in little memory, or was right: then the configuration that it makes
is written and read back as the same. Nothing is computed and no file is left.
"""

import contextlib
import dataclasses
import io
import math
import resource
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest

import fusenas.__main__
import retrain.__main__
import retrain.evaluate
import retrain.export
import retrain.predict
from base.checks import InputError
from fusenas.settings import FitConfig
from retrain.config import RetrainConfig
from search.methods import get_method, list_methods
from training.run.config import RunOptions, config_from_file, config_to_dict, config_to_yaml, parse_command_line
from training.run.schema import Leaf, leaves_of

SECONDS = 1.0  # of one case
MEMORY = 200 * 2**20  # bytes of all cases of a test
LONGEST = 500  # characters of a message
FEWEST = 1500  # cases

Sort = Literal["whole", "number", "truth", "text", "choice", "list"]


class Kind(NamedTuple):
    """A value that somebody may give."""

    name: str
    text: str
    """The value as it stands on a command line."""
    right: tuple[str, ...] = ("text",)
    """The sorts of field that may take it, "null" being those that take null as well."""


LONG = "9" * 400
KINDS = (
    Kind("400 digits", LONG),
    Kind("minus 400 digits", f"-{LONG}"),
    Kind("400 digits and a fraction", f"{LONG}.5"),
    Kind("5000 digits", "9" * 5000),
    Kind("twenty digits", "9" * 20),
    Kind("the largest of float64", "1e308"),
    Kind("the largest below zero", "-1.7e308"),
    Kind("beyond float32", "1e39"),
    Kind("beyond float64", "1e400"),
    Kind("next to zero", "1e-300", ("text", "number")),
    Kind("next to one", "0.99999999999999999", ("text", "number")),
    Kind("minus one and a half", "-1.5", ("text", "number")),
    Kind("nan", ".nan"),
    Kind("nan in words", "nan"),
    Kind("infinity", "-.inf"),
    Kind("leading zero", "010"),
    Kind("base 60", "1:30"),
    Kind("base 60, long", "1" + ":1" * 2000),
    Kind("base 16", "0x1f"),
    Kind("base 2", "0b11"),
    Kind("underscore", "1_000"),
    Kind("digits of another script", "\u0663"),
    Kind("a date", "2024-01-01"),
    Kind("tag", '!!int ""'),
    Kind("tag of Python", "!!python/object/apply:os.mkdir [pwned]"),
    Kind("tag of a truth", "!!bool maybe"),
    Kind("anchor and alias", "[&a 1, *a]"),
    Kind("merge key", "{<<: {a: 1}}"),
    Kind("escape beyond Unicode", '"\\UFFFFFFFF"'),
    Kind("half of a pair", '"\\ud800"'),
    Kind("nothing", ""),
    Kind("a space", " "),
    Kind("null", "null", ("text", "null")),
    Kind("an empty list", "[]", ("text", "list")),
    Kind("a mapping", "{a: 1}"),
    Kind("a list of lists", "[[1]]"),
    Kind("half of a list", "[1,"),
    Kind("a long list", f"[{'1,' * 2000}]"),
    Kind("a deep list", "[" * 300),
    Kind("deep mappings", "{a: " * 300),
    Kind("a list of a long text", f"[{'x' * 5000}]"),
    Kind("a long text", "x" * 5000),
    Kind("a line break", "a\nb"),
    Kind("an escape of the terminal", "\x1b[2J\x1b]0;a\x07"),
    Kind("text that turns", "\u202egnp.exe"),
    Kind("a zero byte", "a\0b", ()),
    Kind("bytes that are no UTF-8", "a\udcffb", ()),
    Kind("a tab", "\t1"),
    Kind("yes", "yes", ("text", "truth")),
    Kind("markup", "<b>%s{x}</b>"),
)  # fmt: skip


class Program(NamedTuple):
    """A command that takes a configuration."""

    schema: type[Any]
    parse: Callable[[list[str]], tuple[Any, RunOptions]]
    default: Any


def programs() -> dict[str, Program]:
    """Returns one program for each schema."""
    found = {
        "retrain": Program(
            RetrainConfig, lambda argv: parse_command_line(RetrainConfig, argv, "retrain", ""), dataclasses.MISSING
        ),
        "fusenas": Program(FitConfig, lambda argv: parse_command_line(FitConfig, argv, "fusenas", ""), dataclasses.MISSING),
    }
    for name in list_methods():
        method = get_method(name)
        defaults = method.defaults()
        if all(type(defaults) is not program.schema for program in found.values()):
            found[method.prog] = Program(type(defaults), method.parse, defaults)
    return found


PROGRAMS = programs()


def own_leaves(schema: type[Any], prefix: str = "") -> Iterator[tuple[type[Any], str, str]]:
    """Yields, for each field, the class that introduces it, its name there and its dotted name."""
    hints = get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        hint = hints[entry.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from own_leaves(hint, f"{prefix}{entry.name}.")
        else:
            bases = [base for base in schema.__mro__ if entry.name in getattr(base, "__annotations__", {})]
            yield bases[-1], entry.name, prefix + entry.name


def fields_of_programs() -> list[tuple[str, str]]:
    """Returns each field that there is once: a program, and the dotted name in its configuration."""
    seen: set[tuple[type[Any], str]] = set()
    found = []
    for program, (schema, _, _) in PROGRAMS.items():
        for owner, name, dotted in own_leaves(schema):
            if (owner, name) not in seen:
                seen.add((owner, name))
                found.append((program, dotted))
    return found


FIELDS = fields_of_programs()
LEAVES = {program: leaves_of(schema, default) for program, (schema, _, default) in PROGRAMS.items()}


def sorts_of(hint: Any) -> set[str]:
    """Returns the sorts of value that a type takes."""
    if get_origin(hint) in (Union, types.UnionType):
        return set().union(*map(sorts_of, get_args(hint)))
    if get_origin(hint) is Literal:
        return {"choice"}
    if get_origin(hint) in (list, tuple, dict):
        return {"list"}
    return {{int: "whole", float: "number", bool: "truth", str: "text", Path: "text", type(None): "null"}[hint]}


def may_be_right(leaf: Leaf, kind: Kind, way: str) -> bool:
    """Returns whether a field may take a value of this kind."""
    is_nothing = way == "file" and not kind.text.strip()  # `name:` is null in YAML
    return bool(sorts_of(leaf.hint) & {*kind.right, *(["null"] if is_nothing else [])})


def refusal(run: Callable[[], object]) -> str | None:
    """Returns what `run` says on stderr as it ends with status 2; None if it returns.

    Raises AssertionError for any other end, and for what is not one short line said soon.
    """
    err, out = io.StringIO(), io.StringIO()
    started = time.process_time()
    status: object = None
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            result = run()
        except SystemExit as stopped:
            status = stopped.code
        else:
            status = result if type(result) is int else None
    seconds = time.process_time() - started
    assert seconds < SECONDS, f"took {seconds:.1f} s"
    if status is None:
        return None
    message = err.getvalue()
    assert status == 2 and out.getvalue() == "", (status, message)
    assert message.endswith("\n") and message.count("\n") == 1, message[:500]
    assert message[:-1].isprintable() and "Traceback" not in message and len(message) < LONGEST, message
    assert ": error: " in message and "internal error" not in message, message
    return message


def check_whole_configuration(config: Any, path: Path) -> None:
    """Asserts that a configuration that was taken is one that a file holds, of numbers that float32 can compute with."""
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert config_from_file(type(config), path) == config
    path.unlink()

    def check(value: Any) -> None:
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list):
            for entry in value:
                check(entry)
        elif isinstance(value, (int, float)):
            assert math.isfinite(value) and abs(value) <= (1e30 if isinstance(value, float) else 2**63)

    check(config_to_dict(config))


def in_file(name: str, text: str) -> str:
    """Returns a configuration file in which the field has that text as its value."""
    *parts, last = name.split(".")
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    return "\n".join([*lines, f"{'  ' * len(parts)}{last}: {text}", ""])


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    before = peak()
    yield
    assert peak() - before < MEMORY


WAYS = ("command line", "file")
Files = Callable[[Path], Mapping[str, bytes | str | None]]


def cases(program: str, way: str) -> list[tuple[str, Kind]]:
    """Returns the fields and what they are given: every kind, in turns on the command line and in a file."""
    names = [name for owner, name in FIELDS if owner == program]
    turn = WAYS.index(way)
    return [(name, kind) for row, name in enumerate(names) for at, kind in enumerate(KINDS) if (row + at) % len(WAYS) == turn]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("way", WAYS)
def test_fields(program: str, way: str, here: Path, files: Files) -> None:
    _, parse, _ = PROGRAMS[program]
    wrong = []
    for name, kind in cases(program, way):
        leaf = LEAVES[program][name]
        argv = [f"--{name}={kind.text}"]
        if way == "file":
            (here / "mine.yaml").write_bytes(in_file(name, kind.text).encode("utf-8", "surrogateescape"))
            argv = ["--config=mine.yaml"]
        before = files(here)
        taken = []
        try:
            message = refusal(lambda argv=argv, taken=taken: taken.append(parse(argv)[0]))  # type: ignore[misc]
            assert files(here) == before
            if message is None:
                assert may_be_right(leaf, kind, way), f"taken as {config_to_dict(taken[0])}"
                check_whole_configuration(taken[0], here / "again.yaml")
        except Exception as error:
            wrong.append(f"{name}, {kind.name}: {type(error).__name__}: {str(error)[:300]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_field_takes_its_default(program: str, here: Path) -> None:
    """So that what is refused elsewhere is refused for its value."""
    _, parse, _ = PROGRAMS[program]
    config, _ = parse([])
    (here / "whole.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    again, _ = parse(["--config=whole.yaml"])
    assert again == config and len(LEAVES[program]) > 10
    check_whole_configuration(config, here / "again.yaml")


NUMBERS: tuple[Any, ...] = (
    10**400, -(10**400), 10**5000, 10**20, -(10**20), 1e308, -1e308, 1e39, 1e-300, -1e-300, math.nan, math.inf, -math.inf,
)  # fmt: skip


def parts_of(config: Any) -> Iterator[Any]:
    yield config
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            yield from parts_of(value)


PARTS = {type(part): part for program in PROGRAMS for part in parts_of(PROGRAMS[program].schema())}


def numbers_of(part: type[Any]) -> list[str]:
    hints = get_type_hints(part)
    return [entry.name for entry in dataclasses.fields(part) if sorts_of_numbers(hints[entry.name])]


def sorts_of_numbers(hint: Any) -> bool:
    return not dataclasses.is_dataclass(hint) and bool(sorts_of(hint) & {"whole", "number"})


@pytest.mark.parametrize("part", PARTS.values(), ids=lambda part: type(part).__name__)
def test_numbers_of_configurations_that_are_made_in_python(part: Any) -> None:
    wrong = []
    for name in numbers_of(type(part)):
        for value in NUMBERS:
            try:
                made = dataclasses.replace(part, **{name: value})
            except InputError as error:
                if not (str(error).isprintable() and len(str(error)) < 300):
                    wrong.append(f"{name}: {str(error)[:300]}")
            except Exception as error:
                wrong.append(f"{name}={str(value)[:20] if value != 10**5000 else '10**5000'}: {error!r}")
            else:
                if not abs(getattr(made, name)) <= 1e-299:  # next to nothing may be nothing
                    wrong.append(f"{name}: taken as {getattr(made, name)}")
    assert not wrong, "\n".join(wrong)


# Commands

MAINS: dict[str, Callable[[list[str]], int]] = {
    **{get_method(name).prog: get_method(name).main for name in list_methods()},
    "retrain": retrain.__main__.main,
    "fusenas": fusenas.__main__.main,
    "retrain.evaluate": retrain.evaluate.main,
    "retrain.export": retrain.export.main,
    "retrain.predict": retrain.predict.main,
}
ARGUMENTS = {
    "an unknown option": ["--nope"],
    "an unknown option of one letter": ["-x"],
    "a long option": [f"--{'x' * 5000}"],
    "a long word": ["x" * 5000],
    "an escape as a word": ["\x1b[2J"],
    "an escape as an option": ["--\x1b]0;a\x07"],
    "a zero byte": ["a\0b"],
    "half of a pair": ["--\ud800"],
    "nothing": [""],
    "an option without a name": ["--=1"],
    "many words": ["x"] * 5000,
    "no value": ["--run"],
    "a value too many": ["--epochs", "1", "2"],
    "no configuration": ["--config"],
    "an empty configuration": ["--config="],
    "a long configuration": [f"--config={'x' * 5000}"],
    "a configuration with a zero byte": ["--config=a\0b"],
    "a configuration with an escape": ["--config=\x1b[2J"],
    "a configuration that is no UTF-8": ["--config=\udcff"],
    "a device as a configuration": ["--config=/dev/zero"],
    "a folder as a configuration": ["--config=."],
    "an empty run": ["--run="],
    "a long run": [f"--run={'x' * 5000}"],
    "a run with a zero byte": ["--run=a\0b"],
    "a run that is no UTF-8": ["--run=\udcff"],
    "an empty profile": ["--profile="],
    "a long profile": [f"--profile={'x' * 5000}"],
    "a profile with a zero byte": ["--profile=a\0b"],
    "a profile that is no UTF-8": ["--profile=\udcff"],
    "a device as a profile": ["--profile=/dev/zero"],
    "a profile in the run": ["--run=nope", "--profile=nope/trace"],
    "nothing to resume": ["--run=nope", "--resume"],
    "both": ["--run=nope", "--resume", "--overwrite"],
    "resume with a value": ["--resume=yes"],
    "empty seeds": ["--seeds="],
    "long seeds": [f"--seeds={LONG}"],
    "many seeds": [f"--seeds={'1,' * 100_000}"],
    "seeds in words": ["--seeds=one"],
    "seeds with an escape": ["--seeds=\x1b[2J"],
    "seeds in another way": ["--seeds=0,01"],
    "a device with an escape": ["--device=\x1b[2J"],
    "a long device": [f"--device={'x' * 5000}"],
    "a device of a plug-in": ["--device=privateuseone"],
    "a device by its remainder": ["--device=cuda:256"],
}
STOP = ["--epochs=0"]
"""Refused by each of them, so that no command goes on to compute."""


@pytest.mark.slow
@pytest.mark.parametrize("command", MAINS)
def test_commands(command: str, here: Path, files: Files) -> None:
    wrong = []
    for name, argv in ARGUMENTS.items():
        try:
            assert refusal(lambda argv=argv: MAINS[command]([*argv, *STOP])) is not None  # type: ignore[misc]
            assert files(here) == {}
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    assert not wrong, "\n".join(wrong)


PARSERS = {
    "retrain.evaluate": retrain.evaluate._parser,
    "retrain.export": retrain.export._parser,
    "retrain.predict": retrain.predict._parser,
}


def options_of(command: str) -> list[str]:
    return [
        action.option_strings[-1]
        for action in PARSERS[command]()._actions
        if action.option_strings[-1:] not in ([], ["--help"])
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", PARSERS)
def test_options_of_commands_for_finished_runs(command: str, here: Path, files: Files) -> None:
    wrong = []
    for option in options_of(command):
        for kind in KINDS:
            argv = ["nope", *(["nope"] if command == "retrain.predict" else []), f"{option}={kind.text}"]
            argv += ["--format=onnx"] if command == "retrain.export" and option != "--format" else []
            try:
                assert refusal(lambda argv=argv: MAINS[command](argv)) is not None  # type: ignore[misc]
                assert files(here) == {}
            except Exception as error:
                wrong.append(f"{option}, {kind.name}: {type(error).__name__}: {str(error)[:300]}")
    assert not wrong, "\n".join(wrong)


def test_there_are_as_many_cases_as_is_said() -> None:
    in_fields = sum(len(cases(program, way)) for program in PROGRAMS for way in WAYS)
    made = sum(len(numbers_of(part)) * len(NUMBERS) for part in PARTS)
    of_commands = len(MAINS) * len(ARGUMENTS) + sum(len(options_of(command)) * len(KINDS) for command in PARSERS)
    assert in_fields + made + of_commands > FEWEST


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--weights.lr=1000", "--weights.name=adagrad"],
        ["--weights.lr=1000", "--weights.name=adamw", "--weights.weight_decay=1000"],
        ["--weights.lr=1e-12", "--weights.lr_min=0", "--weights.momentum=0.999999", "--weights.clip=1e-300"],
        ["--weights.lr=1000", "--order=second", "--hessian_epsilon=1000", "--weights.clip=1e12"],
        ["--order=second", "--hessian_epsilon=1e-12", "--alphas.lr=1e-300", "--alphas.scale=1e-300"],
        ["--alphas.lr=1000", "--alphas.scale=1000", "--alphas.beta1=0.999999", "--alphas.beta2=0.999999"],
        ["--auxiliary_skip=1000", "--alphas.weight_decay=1000"],
        ["--relaxation.name=gumbel", "--relaxation.temperature=1e4", "--relaxation.temperature_end=1e-4"],
        ["--relaxation.name=straight_through", "--relaxation.temperature=1e-4"],
        ["--relaxation.name=dirichlet", "--regulariser.name=kl", "--regulariser.weight=1e6", "--alphas.scale=1000"],
        ["--regulariser.name=beta", "--regulariser.weight=1e6"],
    ],
    ids=lambda options: options[0],
)
def test_the_arithmetic_carries_the_ends_of_the_ranges(
    options: list[str], run: Callable[..., int | str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A search comes to its end, or says that its loss is not finite."""
    status = run("search.darts", *options)
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    if status == 0:
        assert said == []
    else:
        assert status == 1 and len(said) == 1 and "is NaN or infinite; try a lower learning rate" in said[0]
