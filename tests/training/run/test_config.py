"""Tests of training/run/config.py."""

import dataclasses
import io
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base.checks import FieldError
from base.plain_yaml import read_yaml
from training.run.command import command
from training.run.config import (
    CONFIG_FILE,
    RunOptions,
    config_from_file,
    config_hash,
    config_to_dict,
    config_to_yaml,
    parse_command_line,
    shipped_configs,
)
from training.run.ownership.files import begin_record, belongings, write_file
from training.run.ownership.replaced import set_aside

ROOT = Path(__file__).parents[3]


@dataclass
class Data:
    """The examples of a configuration."""

    root: str = "data"
    """Folder of the images; 5% of them are looked at."""
    download: bool = False
    """Download what is absent."""
    crop: tuple[float, float] = (0.1, 1.0)
    """Smallest and largest share of an image."""
    limit: int | None = None
    """Use so many images only (null: all)."""


@dataclass
class Base:
    """Fields that are inherited."""

    seed: int = 0
    """Random seed."""


@dataclass
class Schema(Base):
    """A dummy run."""

    data: Data = field(default_factory=lambda: Data(root="other"))
    """The data."""
    epochs: int = 5
    """Number of epochs."""
    rate: float = 1e-3
    """Learning rate, per step."""
    order: Literal["first", "second"] = "first"
    """Order of the approximation."""
    names: list[str] = field(default_factory=list)
    """Names of candidates."""
    costs: dict[str, float] = field(default_factory=dict)
    """A cost for each name."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise FieldError("epochs", f"must be at least 1, not {self.epochs}")


@dataclass
class Required:
    """A schema with a field that has no default."""

    genotype: str
    """The architecture."""
    epochs: int = 2
    """Number of epochs."""


def parse(*argv: str, **options: str) -> tuple[Schema, RunOptions]:
    return parse_command_line(Schema, argv, prog="dummy.first", description="A dummy.", **options)


@pytest.fixture
def refused(capsys, tmp_path):
    """The one line on stderr for a command line that is refused; it may name a file of the given content."""

    def run(*argv: str, content: str | bytes | None = None, schema: type = Schema) -> str:
        if content is not None:
            path = tmp_path / "mine.yaml"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            argv = ("--config", str(path), *argv)
        with pytest.raises(SystemExit) as stopped:
            parse_command_line(schema, argv, prog="dummy.first", description="A dummy.")
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("dummy.first: error: ")
        assert err.endswith("\n") and err.count("\n") == 1
        return err.removeprefix("dummy.first: error: ").rstrip("\n").replace(f"{tmp_path}{os.sep}", "")

    return run


def test_without_options_the_defaults_hold():
    config, run = parse()
    assert config == Schema()
    assert config.data.root == "other"  # of the outer default, not of the nested class
    assert run == RunOptions(Path("runs/dummy_first"), resume=False, overwrite=False)


def test_every_field_is_an_option():
    config, _ = parse(
        "--seed=3", "--data.root", "123", "--data.crop", "[0.5, 1]", "--data.limit", "7", "--rate", "1e-2", "--order", "second",
        "--names", "[a, b]", "--costs", "{a: 1}",
    )  # fmt: skip
    expected = Schema(seed=3, data=Data("123", False, (0.5, 1.0), 7), rate=0.01, order="second", names=["a", "b"])
    expected.costs = {"a": 1.0}
    assert config == expected
    assert isinstance(config.data.crop, tuple) and isinstance(config.costs["a"], float)


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--data.download"], True),
        (["--data.download", "true"], True),
        (["--data.download=false"], False),
        (["--data.download", "--epochs", "3"], True),
        (["--data.download", "--data.download", "false"], False),
    ],
)
def test_a_bool_is_also_a_bare_flag(argv, value):
    assert parse(*argv)[0].data.download is value


def test_negative_numbers_are_values():
    assert parse("--rate", "-1e-3")[0].rate == -0.001
    assert parse("--seed", "-3")[0].seed == -3


def test_what_stands_later_wins(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("epochs: 7\nrate: 1e-2\ndata:\n  limit: 3\n")
    second.write_text("epochs: 8\n")
    assert parse("--config", str(first))[0] == Schema(epochs=7, rate=0.01, data=Data(root="other", limit=3))
    assert parse("--config", str(first), "--epochs", "9")[0].epochs == 9
    assert parse("--epochs", "9", "--config", str(first))[0].epochs == 7
    config, run = parse("--config", str(first), "--data.root=x", f"--config={second}")
    assert (config.epochs, config.rate, config.data) == (8, 0.01, Data(root="x", limit=3))
    assert run.run == Path("runs/second")


def test_default_config_is_read_only_without_config(tmp_path):
    default, other = tmp_path / "default.yaml", tmp_path / "other.yaml"
    default.write_text("epochs: 7\nrate: 0.5\n")
    other.write_text("epochs: 8\n")
    config, run = parse("--rate", "2", default_config=str(default))
    assert (config.epochs, config.rate, run.run) == (7, 2.0, Path("runs/default"))
    config, run = parse("--config", str(other), default_config=str(default))
    assert (config.epochs, config.rate, run.run) == (8, 1e-3, Path("runs/other"))


def test_run_options(tmp_path):
    _, run = parse("--run", str(tmp_path / "x"), "--overwrite")
    assert run == RunOptions(tmp_path / "x", resume=False, overwrite=True)
    _, run = parse("--resume")
    assert run.resume and not run.overwrite


def test_resume_without_config_takes_the_saved_one(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: 7\n")
    (tmp_path / "default.yaml").write_text("epochs: 3\n")
    default = str(tmp_path / "default.yaml")
    config, run = parse("--run", str(tmp_path), "--resume", "--rate", "2", default_config=default)
    assert (config.epochs, config.rate, run.run) == (7, 2.0, tmp_path)
    assert parse("--run", str(tmp_path), "--resume", "--config", default)[0].epochs == 3
    assert parse("--run", str(tmp_path), default_config=default)[0].epochs == 3


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in ("--config", "--run", "--resume", "--overwrite", "--print_config", "--seed", "--data.root", "--costs"):
        assert name in text
    for explained in ("5% of them are looked at. (text; default: other)", "Random seed. (a whole number; default: 0)"):
        assert explained in text
    assert "per step. (a number; default: 0.001)" in text


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("root", ["café", "\u202egnp", "a\x1b[2J"])
def test_print_config_is_a_config_where_characters_are_escaped(encoding, root, monkeypatch, tmp_path):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    with pytest.raises(SystemExit):
        command("prog", lambda: parse("--data.root", root, "--print_config") and None)
    assert all(map(str.isprintable, shown.getvalue().decode(encoding).split("\n")))
    (tmp_path / "printed.yaml").write_bytes(shown.getvalue())
    assert parse("--config", str(tmp_path / "printed.yaml"))[0].data.root == root


def test_print_config_is_a_config(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        parse("--print_config", "--epochs", "9", "--data.crop", "[0.25, 0.5]", "--names", "['1e-3', 'yes']")
    assert stopped.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    expected = Schema(epochs=9, data=Data(root="other", crop=(0.25, 0.5)), names=["1e-3", "yes"])
    assert parse("--config", str(path))[0] == expected
    assert set(yaml.safe_load(path.read_text())) == {entry.name for entry in dataclasses.fields(Schema)}


def test_print_config_checks_first(refused):
    assert refused("--print_config", "--epochs", "0") == "epochs: must be at least 1, not 0"


def test_required_field(refused, tmp_path):
    assert refused(schema=Required) == "genotype: must be given, with --genotype or in a configuration file"
    path = tmp_path / "some.yaml"
    path.write_text("genotype: DARTS_V2\n")
    config, _ = parse_command_line(Required, ["--config", str(path)], "dummy", "")
    assert config == Required("DARTS_V2", 2)
    assert config_from_file(Required, path) == config
    path.write_text("epochs: 3\n")
    with pytest.raises(ValueError, match=r"some\.yaml: genotype: must be given"):
        config_from_file(Required, path)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--epochs", "ten"], "epochs: must be a whole number, not ten"),
        (["--epochs", "1.5"], "epochs: must be a whole number, not 1.5"),
        (["--epochs", "null"], "epochs: must be a whole number, not null"),
        (["--epochs", "-3"], "epochs: must be at least 1, not -3"),
        (["--epochs", "a\nb"], "epochs: must be a whole number, not a b"),
        (["--rate", "fast"], "rate: must be a number, not fast"),
        (["--rate", ".nan"], "rate: must be finite, not nan"),
        (["--rate", "1e400"], "rate: must be finite, not inf"),
        (["--costs", "{a: .inf}"], "costs: must be finite, not inf"),
        (["--order", "third"], "order: must be one of first, second, not third"),
        (["--data.download", "perhaps"], "data.download: must be true or false, not perhaps"),
        (["--data.limit", "few"], "data.limit: must be a whole number or null, not few"),
        (["--data.crop", "[1]"], "data.crop: must be a list [a number, a number], not [1]"),
        (["--names", "a"], "names: must be a list, each entry text, not a"),
        (["--costs", "a"], "costs: must be a mapping, each value a number, not a"),
        (["--epoch", "3"], "--epoch: no such option; did you mean --epochs?"),
        (["--data.rooot=x"], "--data.rooot: no such option; did you mean --data.root?"),
        (["--root", "x"], "--root: no such option; did you mean --data.root?"),
        (["--overwrit"], "--overwrit: no such option; did you mean --overwrite?"),
        (["--zzzzzz"], "--zzzzzz: no such option"),
        (["digits"], "unexpected argument 'digits'; every option has a name that begins with --"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--config"], "--config: expected one argument"),
    ],
)
def test_wrong_options_are_one_line(refused, argv, line):
    assert refused(*argv) == line


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("epoch: 3", "mine.yaml, line 1: epoch: no such field; did you mean epochs?"),
        ("data: {rooot: x}", "mine.yaml, line 1: data.rooot: no such field; did you mean data.root?"),
        ("root: x", "mine.yaml, line 1: root: no such field; did you mean data.root?"),
        ("run: x", "mine.yaml, line 1: run: no such field"),
        ("config: x", "mine.yaml, line 1: config: no such field"),
        ("data: {1: x}", "mine.yaml, line 1: data.1: no such field"),
        ("data: 3", "mine.yaml, line 1: data: must hold fields of its own (`name: value`), not 3"),
        ("data:", "mine.yaml, line 1: data: must hold fields of its own (`name: value`), not None"),
        ("data: other.yaml", "mine.yaml, line 1: data: must hold fields of its own (`name: value`), not 'other.yaml'"),
        (
            "epochs: {class_path: os.system}",
            "mine.yaml, line 1: epochs: must be a whole number, not {'class_path': 'os.system'}",
        ),
        ("epochs: ten", "mine.yaml, line 1: epochs: must be a whole number, not ten"),
        ("epochs: true", "mine.yaml, line 1: epochs: must be a whole number, not True"),
        ("epochs: null", "mine.yaml, line 1: epochs: must be a whole number, not null"),
        ("epochs: -3", "mine.yaml, line 1: epochs: must be at least 1, not -3"),
        ("rate: .inf", "mine.yaml, line 1: rate: must be finite, not inf"),
        ("data: {crop: [1, 2, 3]}", "mine.yaml, line 1: data.crop: must be a list [a number, a number], not [1, 2, 3]"),
        ("data: {root: 3}", "mine.yaml, line 1: data.root: must be text, not 3"),
        ("", "mine.yaml: the file is empty"),
        ("# nothing\n", "mine.yaml: the file is empty"),
        ("[1, 2]", "mine.yaml: must hold lines of the form `name: value`"),
        ("epochs", "mine.yaml: must hold lines of the form `name: value`"),
        ("3: 4", "mine.yaml: must hold lines of the form `name: value`"),
        (b"\xff\xfe\x00\x01", "mine.yaml: not a text file in UTF-8"),
        (
            b"\x00\x01\x02",
            "mine.yaml, line 1: not plain YAML: unacceptable character #x0000: special characters are not allowed",
        ),
        ("epochs: 3\nepochs: 4", "mine.yaml, line 2: not plain YAML: 'epochs' stands twice"),
        ("rate: 2024-13-45", "mine.yaml, line 1: rate: must be a number, not 2024-13-45"),
    ],
)
def test_wrong_files_are_one_line(refused, content, line):
    refusal = refused(content=content)
    assert refusal.startswith(line)
    assert len(refusal) < len(line) + 80


@pytest.mark.parametrize(
    "content", ["data: {root: [1", "epochs: 3\n  rate: 4", "epochs: '3", "[" * 5_000, "a: *b", "? {}\n: 1"]
)
def test_half_written_files_are_one_line(refused, content):
    assert "not plain YAML" in refused(content=content)


def test_python_tags_are_not_run(refused, tmp_path):
    witness = tmp_path / "witness"
    for tag in ("python/object/apply:os.mkdir", "python/name:os.mkdir"):
        assert "not plain YAML" in refused(content=f"epochs: !!{tag} ['{witness}']")
    for value in (f"{{class_path: os.mkdir, init_args: {{path: '{witness}'}}}}", "os.mkdir"):
        assert "costs: must be" in refused(content=f"costs: {{a: {value}}}")
    assert not witness.exists()


def test_files_that_are_no_files(refused, tmp_path):
    assert refused("--config", str(tmp_path)).endswith(": is a folder, where a file is needed")
    missing = refused("--config", "nothing_of_the_kind")
    assert missing.startswith("--config 'nothing_of_the_kind': no such file")
    assert "File name too long" in refused("--config", "a" * 5000)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f"epochs: {text}".encode()))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(config_from_file(Schema, path), Schema)
    except ValueError as error:
        assert str(error).startswith(str(path))
        assert len(str(error).splitlines()) == 1


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
configs = st.builds(
    Schema,
    seed=st.integers(),
    epochs=st.integers(1, 10**6),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    order=st.sampled_from(["first", "second"]),
    names=st.lists(texts | st.sampled_from(["1e-3", "null", "yes", "2024-01-01", "~", "0x1"]), max_size=3),
    costs=st.dictionaries(texts, st.floats(0, 1), max_size=3),
    data=st.builds(
        Data,
        root=texts,
        download=st.booleans(),
        crop=st.tuples(st.floats(0, 1), st.floats(0, 1)),
        limit=st.none() | st.integers(),
    ),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configs)
def test_yaml_round_trip(tmp_path, config):
    path = tmp_path / "round.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    back = config_from_file(Schema, path)
    assert back == config
    assert config_hash(back) == config_hash(config)


def test_config_to_dict_is_plain():
    plain = config_to_dict(Schema(data=Data(crop=(0.5, 1.0))))
    assert plain["data"]["crop"] == [0.5, 1.0]
    assert json.loads(json.dumps(plain)) == plain


def test_hash_tells_configurations_apart():
    first = config_hash(Schema())
    assert len(first) == 12 and int(first, 16) >= 0
    assert first == config_hash(Schema()) != config_hash(Schema(rate=2e-3))
    assert config_hash(Schema(), ignore=["rate"]) == config_hash(Schema(rate=2e-3), ignore=["rate"]) != first


def test_a_schema_with_an_optional_section_is_refused():
    @dataclass
    class Optional:
        data: Data | None = None

    with pytest.raises(TypeError, match=r"Optional\.data: a nested dataclass"):
        parse_command_line(Optional, [], "dummy", "")


def test_shipped_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for name, file in shipped_configs().items():
        assert read_yaml(file), name
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "small.yaml").write_text("epochs: 4\n")
    monkeypatch.setattr("importlib.resources.files", lambda package: {"configs": folder}[package])
    config, run = parse("--config", "small")
    assert (config.epochs, run.run) == (4, Path("runs/small"))


def test_unknown_name_lists_the_shipped_ones(refused, tmp_path, monkeypatch):
    for name in ("small.yaml", "large.yaml", "__init__.py"):
        (tmp_path / name).write_text("epochs: 4\n")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    assert (
        refused("--config", "smal")
        == "--config 'smal': no such file, and no shipped configuration of this command (large, small)"
    )


def test_an_error_names_the_line_of_the_value_that_counts(refused, tmp_path):
    """That of the file that wins, and none where the command line has the value."""
    for name, text in (("one", "epochs: 3\n\ndata:\n  root: here\n"), ("two", "\n\nepochs: -2\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    one, two = (["--config", str(tmp_path / f"{name}.yaml")] for name in ("one", "two"))
    assert refused(*one, *two) == "two.yaml, line 3: epochs: must be at least 1, not -2"
    assert refused(*two, *one, "--epochs", "-5") == "epochs: must be at least 1, not -5"
    assert refused(*two, "--epochs", "4", "--rate", "x") == "rate: must be a number, not x"


def test_a_resumed_run_is_read_after_it_was_put_back(tmp_path: Path) -> None:
    """The settings are not those of an --overwrite that was killed before its first checkpoint."""
    begin_record(tmp_path)
    write_file(tmp_path, CONFIG_FILE, "limit: 7\n")
    set_aside(tmp_path, list(belongings(tmp_path)))
    begin_record(tmp_path)
    write_file(tmp_path, CONFIG_FILE, "limit: 9\n")
    config, _ = parse_command_line(Data, ["--resume", f"--run={tmp_path}"], "retrain", "Trains.")
    assert config.limit == 7
    assert (tmp_path / CONFIG_FILE).read_text() == "limit: 7\n"
