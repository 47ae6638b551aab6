"""README.md and docs/ are right: links lead somewhere, options exist, commands are accepted, examples run."""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

import benchmarks.nasbench201.runner as runner
import fusenas.__main__ as fusenas_main
import retrain.__main__ as retrain_main
import retrain.evaluate
import retrain.explain.__main__ as retrain_explain
import retrain.export
import retrain.predict
import search.explain.__main__ as explain_main
from search.methods import Percent, get_method, list_methods

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.exists()
}
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
EXTENDING = "docs/extending.md"

Main = Callable[[list[str]], int]
PROGRAMS: dict[str, Main] = {f"search.{name}": get_method(name).main for name in list_methods()}
PROGRAMS |= {"retrain": retrain_main.main, "fusenas": fusenas_main.main}
WITHOUT_CONFIG: dict[str, Main] = {
    "retrain.evaluate": retrain.evaluate.main,
    "retrain.export": retrain.export.main,
    "retrain.explain": retrain_explain.main,
    "retrain.predict": retrain.predict.main,
    "search.explain": explain_main.main,
}


def commands() -> list[tuple[str, str]]:
    """(page, command) of each line of a block without a language, and of each command with options that a sentence has."""
    found = []
    for page, text in PAGES.items():
        blocks = [block for language, block in BLOCK.findall(text) if not language]
        lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
        prose = BLOCK.sub("", text)
        lines += re.findall(r"^    (python -m .*)$", prose, re.MULTILINE)
        inline = re.findall(r"`(python -m [\w.]+ [^`]+)`", prose)
        lines += [line for line in inline if not re.search(r"\b[A-Z]+\b", re.sub(r"'.*?'|\S*/\S*", "", line))]
        found += [(page, line) for line in dict.fromkeys(lines) if line]
    return found


COMMANDS = commands()
OF_A_PROGRAM = re.compile(r"python -m (\S+)")
OTHERS = re.compile(r"make \w|tensorboard |optuna-dashboard |bash findings/|pip (install|download) |ruff |mypy$|git ")
"""Commands that start no program of ours."""


def of(program: str) -> list[Any]:
    """The commands that start `program`, a pattern, as parameters of a test."""
    pattern = re.compile(rf"python -m ({program})( |$)")
    return [pytest.param(line, id=f"{page}: {line[:100]}") for page, line in COMMANDS if pattern.match(line)]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    assert len(COMMANDS) > 60
    for page, line in COMMANDS:
        module = OF_A_PROGRAM.match(line)
        ours = module and (module[1] in PROGRAMS or module[1] in WITHOUT_CONFIG or module[1].startswith("benchmarks."))
        assert ours or OTHERS.match(line) or page == EXTENDING, (page, line)


def test_every_method_has_its_command() -> None:
    starts = {match[1] for _, line in COMMANDS if (match := OF_A_PROGRAM.match(line))}
    assert starts >= set(PROGRAMS) | set(WITHOUT_CONFIG)


@pytest.mark.parametrize("command", of(r"search\.(?!explain)\w+|retrain|fusenas"))
def test_commands_are_accepted(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is read to the end by the program that it names, which prints what it amounts to."""
    _, _, module, *arguments = shlex.split(command)
    with pytest.raises(SystemExit) as end:
        PROGRAMS[module]([*arguments, "--print_config"])
    captured = capsys.readouterr()
    assert end.value.code == 0, captured.err
    assert "seed: 0" in captured.out


@pytest.mark.parametrize("command", of(r"retrain\.\w+|search\.explain"))
def test_commands_on_a_run_are_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Their options are taken, so that what is missing is the run."""
    monkeypatch.chdir(tmp_path)
    _, _, module, *arguments = shlex.split(command)
    assert WITHOUT_CONFIG[module](arguments) == 2
    assert re.search(
        r"(runs/\w+|cifar10\.csv\.gz).*(no such|is no|there is no|holds no)", message := capsys.readouterr().err
    ), message


@pytest.mark.parametrize("command", of(r"benchmarks\.(?:nasbench201|explanations)"))
def test_commands_of_benchmarks_that_search_are_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are run as far as the searches that they would begin."""
    asked: list[tuple[Any, list[str]]] = []
    _, _, module, *arguments = shlex.split(command)
    program = importlib.import_module(f"{module}.__main__")

    def search(options: Any, through: list[str], typed: str) -> int:
        asked.append((options, through))
        return 0

    monkeypatch.setattr(program, "benchmark", search)
    assert program.main(arguments) == 0
    assert asked
    for options, through in asked:
        for method in options.methods:
            assert runner.configuration(method, options.tabular, through).space == "nasbench201"


class _Parsed(Exception):
    """The options of a benchmark have been taken."""


@pytest.mark.parametrize("command", of(r"benchmarks\.(?:(?!nasbench201|explanations)\w+|explanations\.speed)"))
def test_commands_of_other_benchmarks_are_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are run as far as their options are read."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        parse(self, *given, **named)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    module, *arguments = shlex.split(command)[2:]
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(_Parsed):
        importlib.import_module(module).main()


def test_programs_exist() -> None:
    """Each that a sentence names."""
    named = {module for text in PAGES.values() for module in re.findall(r"python -m ([\w.]+[a-z0-9])(?=[ `\n])", text)}
    assert len(named) > 20
    assert [module for module in named if importlib.util.find_spec(module) is None] == []


def percent(value: Percent | None) -> str:
    """Returns the share as the tables write it."""
    return "-" if value is None else f"{value[0]:.2f}" if value[1] is None else f"{value[0]:.2f}±{value[1]:.2f}"


def test_tables_of_methods_say_what_their_files_say_was_published() -> None:
    lines = [line for text in PAGES.values() for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    columns: list[str] = []
    seen = set()
    for row, below in pairwise([*rows, [""]]):
        columns = row if set(below[0]) == {"-"} else columns
        if columns[0] != "method" or row[0] not in list_methods():
            continue
        published, said = get_method(row[0]).published, dict(zip(columns, row, strict=True))
        for column, value in (
            ("CIFAR-10 error", published.cifar10_error),
            ("NAS-Bench-201", published.nasbench201),
            ("published test accuracy", published.nasbench201),
        ):
            # Beside the number there may be that of a variant, in brackets.
            if column in said:
                assert said[column].partition(" (")[0] == percent(value), (row[0], column)
                seen.add((row[0], column))
    assert {*product(list_methods(), ("CIFAR-10 error", "NAS-Bench-201"))} <= seen


@pytest.mark.parametrize("target", sorted({line.split()[1] for _, line in COMMANDS if line.startswith("make ")}))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def help_of(program: Main) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        program(["--help"])
    return output.getvalue()


def test_options_exist() -> None:
    """Every `--option` in a sentence or a table is one of some program."""
    known = {name for program in (PROGRAMS | WITHOUT_CONFIG).values() for name in re.findall(r"--[\w.]+", help_of(program))}
    assert len(known) > 100
    for page in PAGES:
        if page != "CONTRIBUTING.md":
            quoted = re.findall(r"`(--[^`]+)`", BLOCK.sub("", PAGES[page]))
            named = {name for text in quoted for name in re.findall(r"(?<!\S)--[\w.]+", text)}
            assert named <= known, (page, sorted(named - known))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_linked_exist(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", PAGES[page])) if "://" not in link]
    files = [link.partition("#")[0] for link in links]
    assert [file for file in files if file and not ((ROOT / page).parent / file).exists()] == []
    headings = [
        re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in PAGES[page].splitlines() if line[:2] == "##"
    ]
    assert [link for link in links if link[0] == "#" and link[1:] not in headings] == []


def test_files_that_are_named_exist() -> None:
    """A path with a folder, in backticks."""
    ours = tuple(
        f"{folder}/"
        for folder in (
            "base",
            "ops",
            "supernet",
            "training",
            "search",
            "retrain",
            "fusenas",
            "benchmarks",
            "configs",
            "tests",
            "findings",
        )
    )
    for page, text in PAGES.items():
        paths = [path for path in re.findall(r"`([\w./]+)(?:: \w+)?`", BLOCK.sub("", text)) if path.startswith(ours)]
        assert [path for path in paths if not list(ROOT.glob(path.replace("METHOD", "*")))] == [], page


# The examples of docs/extending.md

EXAMPLES = {
    block.splitlines()[0].removeprefix("# "): block
    for language, block in BLOCK.findall(PAGES[EXTENDING])
    if language == "python"
}
SMALL = shlex.split("--data.limit 64 --batch_size 32 --epochs 1 --channels 2 --threads 1 --device cpu")
SMALLER = {
    "my_sampler.py": ["--cells", "1", "--evaluations", "8", "--round", "4"],
    "my_proxy.py": ["--cells", "1", "--evaluations", "4"],
    "runs/attending_random": ["--cells", "3", "--evaluations", "4"],
    "nasbench201": ["--cells", "1", "--eigenvalue_every", "0"],
    "darts": ["--cells", "3", "--eigenvalue_every", "0"],
    "retrain": ["--cells", "3"],
}
RUNNER = """
import json, os, runpy, sys, traceback
import retrain.__main__, search.darts, search.random, sklearn.datasets, torch.utils.tensorboard, training.vision
training.vision.import_torchvision()
sys.path.insert(0, os.getcwd())
for line in sys.stdin:
    argv = json.loads(line)
    process = os.fork()
    if process == 0:
        status = 70
        try:
            sys.argv = argv[1:] if argv[0] == "-c" else argv
            if argv[0] == "-c":
                exec(argv[1], {"__name__": "__main__"})
            elif argv[0] == "-m":
                raise SystemExit(sys.modules[argv[1] + ".__main__"].main(argv[2:]))
            else:
                runpy.run_path(argv[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status:
        sys.exit(f"{argv}: exit status {status}")
"""
"""Runs the command line of each line of stdin in a process that is forked, which spares it the seconds of the imports."""


def smaller(arguments: list[str]) -> list[str]:
    """The same command with less to do, where it is a run."""
    if "--run" not in arguments:
        return arguments
    for name, options in SMALLER.items():
        if name in arguments[:1] or (name in arguments and arguments[arguments.index(name) - 1] in ("--space", "--run")):
            return [*arguments, *SMALL, *options]
    return [*arguments, *SMALL, *SMALLER["retrain" if "--genotype" in arguments else "darts"]]


def test_each_example_is_a_file_that_a_command_runs() -> None:
    text = "\n".join(line for page, line in COMMANDS if page == EXTENDING)
    assert len(EXAMPLES) >= 6
    for name in EXAMPLES:
        assert re.fullmatch(r"my_\w+\.py", name) and re.search(rf"^python {re.escape(name)}\b", text, re.MULTILINE)


def test_examples_run(tmp_path: Path) -> None:
    """All commands of the page, in its order, each with less to do."""
    for name, block in EXAMPLES.items():
        (tmp_path / name).write_text(block)
    lines = [shlex.split(line)[1:] for page, line in COMMANDS if page == EXTENDING and line.startswith("python ")]
    asked = "\n".join(json.dumps(smaller(line)) for line in lines)
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=asked, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    runs = [line[line.index("--run") + 1] for line in lines if "--run" in line]
    assert len(runs) >= len(EXAMPLES)
    for run in runs:
        assert (tmp_path / run / "genotype.json").is_file(), run
    assert '"mine"' in (tmp_path / "runs/mine/genotype.json").read_text()
    for run in ("mine_retrained", "attending_retrained", "tower_retrained", "stripes_retrained", "values_retrained"):
        assert (tmp_path / "runs" / run / "weights.safetensors").is_file()
    scores = [json.loads(line) for line in (tmp_path / "runs/climber/evaluations.jsonl").open()]
    assert len(scores) == 8
