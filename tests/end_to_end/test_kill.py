"""A run that is killed at any moment and resumed ends with the same bits as one that never was, and loses at most one epoch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from retrain.weights import Trained
from supernet.genotypes.genotype import Genotype
from training.run.checkpoint import Checkpoints

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(HERE.parents[1]),
    # One thread: the same bits each time, and nothing that a fork would lose.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}
EPOCHS = 4
NASBENCH_TEXT = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
SIZE = {"data.limit": 96, "batch_size": 16, "channels": 2, "epochs": EPOCHS, "device": "cpu", "threads": 1}
NASBENCH = {"space": "nasbench201", "cells": 1, "alphas.lr": 0.02, "eigenvalue_every": 0, **SIZE}


@dataclass(frozen=True)
class Scenario:
    program: str
    settings: dict[str, Any]
    results: tuple[str, ...]
    """Files that must be the same, byte for byte."""
    chains: tuple[tuple[str, ...], ...]
    """Moments at which a run is killed, one after the other; see killed_run.py for their names."""
    quick: int = 0
    """So many of the chains, the first ones, are not slow."""


SCENARIOS = {
    "first": Scenario(
        "search.darts",
        {"order": "first", **NASBENCH},
        ("genotype.json", "history.jsonl"),
        (
            ("config.yaml half written", "cell forward", "genotype.json half written"),
            ("architecture gradient", "checkpoint half written", "weights before step"),
            ("history.jsonl half written", "history.jsonl replaced"),
            ("alphas before step", "checkpoint written", "weights after step"),
            ("alphas after step", "checkpoint replaced", "genotype.json written"),
            ("curves unflushed", "genotype.json replaced"),
        ),
        quick=2,
    ),
    "second": Scenario(
        "search.darts",
        {"order": "second", **NASBENCH},
        ("genotype.json", "history.jsonl"),
        (
            ("alphas after step", "checkpoint half written", "weights after step"),
            ("architecture gradient", "alphas before step", "checkpoint replaced"),
            ("cell forward", "architecture gradient", "weights before step"),
        ),
        quick=1,
    ),
    "retrain": Scenario(
        "retrain",
        {"genotype": "", "cells": 1, "drop_path": 0.3, "auxiliary_weight": 0, **SIZE},
        ("genotype.json", "weights.safetensors", "metrics.json"),
        (
            ("checkpoint half written", "weights after step", "weights.safetensors half written"),
            ("checkpoint replaced", "curves unflushed", "weights.safetensors written"),
            ("genotype.json half written", "cell forward", "weights before step"),
            ("checkpoint written", "metrics.json half written", "metrics.json written"),
        ),
        quick=2,
    ),
    "darts": Scenario(
        "search.darts",
        {"space": "darts", "weights.name": "adamw", "weights.lr": 0.01, "cells": 3, "eigenvalue_every": 2, **SIZE}
        | {"data.limit": 32},
        ("genotype.json", "history.jsonl"),
        (("architecture gradient", "checkpoint half written"),),
    ),
    "retrain_darts": Scenario(
        "retrain",
        {"genotype": "DARTS_V2", "drop_path": 0.3, "validation_fraction": 0.25, "cells": 3, **SIZE, "data.limit": 64},
        ("genotype.json", "weights.safetensors", "metrics.json"),
        (("cell forward", "weights.safetensors replaced"),),
    ),
}
CHAINS = [
    pytest.param(name, chain, id=f"{name}: {', '.join(chain)}", marks=[] if number < scenario.quick else pytest.mark.slow)
    for name, scenario in SCENARIOS.items()
    for number, chain in enumerate(scenario.chains)
]
Run = Callable[..., tuple[int, list[tuple[str, int]]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a scenario into a directory, killed at the n-th of the moments called `fatal`, (moment, n).

    Returns the exit status and the moments that it passed, each with the epoch that was running.
    """
    files = tmp_path_factory.mktemp("server")
    (files / "genotype.txt").write_text(NASBENCH_TEXT)
    command = [sys.executable, "-P", str(HERE / "killed_run.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:

        def run_one(scenario: Scenario, path: Path, *flags: str, fatal: tuple[str, int] | None = None):
            request = {
                "program": scenario.program,
                "argv": arguments(scenario, path, files / "genotype.txt", *flags),
                "record": str(files / "record.json"),
                "output": str(files / "output.txt"),
                "fatal": fatal,
            }
            print(json.dumps(request), file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            assert status in (0, -signal.SIGKILL), (files / "output.txt").read_text()
            passed = json.loads((files / "record.json").read_text())
            return status, [(moment, epoch) for moment, epoch in passed]

        yield run_one
        server.stdin.close()


def arguments(scenario: Scenario, path: Path, genotype: Path, *flags: str) -> list[str]:
    """The command line; a scenario without a genotype of its own takes that of the file."""
    settings = {name: value if value != "" else genotype for name, value in scenario.settings.items()}
    return ["--run", str(path), *(f"--{name}={value}" for name, value in settings.items()), *flags]


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[tuple[str, int]]]]:
    """A run of a scenario that was never stopped, and the moments that it passed."""
    found: dict[str, tuple[Path, list[tuple[str, int]]]] = {}

    def find(name: str) -> tuple[Path, list[tuple[str, int]]]:
        if name not in found:
            path = tmp_path_factory.mktemp("whole") / name
            status, passed = run(SCENARIOS[name], path)
            assert status == 0
            found[name] = path, passed
        return found[name]

    return find


def choose(moment: str, passed: list[tuple[str, int]], saved: int, left: int, chance: random.Random) -> tuple[int, int]:
    """Which of the moments of that name to be killed at, counted from a start after `saved` epochs, and the epoch it is in.

    Any one of them that leaves an epoch for each of the `left` kills that are to follow, the first where there is none such.
    A process with all epochs behind it has no running one.
    """
    ahead = [epoch for name, epoch in passed if name == moment and (epoch >= saved or epoch == -1)]
    early = [number for number, epoch in enumerate(ahead, 1) if epoch <= EPOCHS - left] or [1]
    number = chance.choice(early)
    return number, ahead[number - 1] if saved < EPOCHS else -1


def newest_checkpoint(path: Path) -> int:
    return max((int(file.stem.removeprefix("epoch_")) for file in path.glob("checkpoints/epoch_*.pt")), default=0)


def check_results_are_whole(path: Path) -> None:
    """Whatever has its final name can be read."""
    if (path / "genotype.json").exists():
        Genotype.load(path / "genotype.json")
    if (path / "weights.safetensors").exists():
        Trained.load(path)
    if (path / "metrics.json").exists():
        json.loads((path / "metrics.json").read_text())


def check_same(found: Any, expected: Any, where: str = "state") -> None:
    """Nested containers with the same numbers, bit for bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            check_same(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            check_same(one, other, f"{where}[{number}]")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), where
    else:
        assert found == expected, where


def check_same_run(path: Path, expected: Path, results: tuple[str, ...]) -> None:
    """The same last checkpoint (weights, alphas, statistics, optimisers) and the same bytes in the results."""
    found, known = Checkpoints(path).latest(), Checkpoints(expected).latest()
    assert found is not None and known is not None
    check_same(found, known)
    assert found[1]["trainer"]["network"], "there are weights to compare"
    for name in results:
        assert (path / name).read_bytes() == (expected / name).read_bytes(), name
    assert not list(path.rglob("*.tmp"))


@pytest.mark.parametrize(("name", "chain"), CHAINS)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(
    name: str, chain: tuple[str, ...], run: Run, whole: Callable[[str], tuple[Path, list[tuple[str, int]]]], tmp_path: Path
) -> None:
    scenario, path = SCENARIOS[name], tmp_path / "run"
    expected, passed = whole(name)
    chance = random.Random(f"{name} {chain}")
    flags: tuple[str, ...] = ()
    saved = 0
    for left, moment in zip(reversed(range(len(chain))), chain, strict=True):
        number, epoch = choose(moment, passed, saved, left, chance)
        status, before_death = run(scenario, path, *flags, fatal=(moment, number))
        assert status == -signal.SIGKILL
        assert before_death[-1] == (moment, epoch)
        # All epochs before the one that was running are safe.
        saved = saved if epoch == -1 else epoch + (moment == "checkpoint replaced")
        assert newest_checkpoint(path) == saved
        if moment.endswith("half written"):
            assert list(path.rglob("*.tmp"))
        check_results_are_whole(path)
        flags = ("--resume",)
    assert run(scenario, path, *flags)[0] == 0
    check_same_run(path, expected, scenario.results)


LONG = Scenario("search.darts", {**NASBENCH, "epochs": 8}, ("genotype.json", "history.jsonl"), ())


@pytest.fixture(scope="module")
def long_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "run"
    assert run(LONG, path)[0] == 0
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_command_that_is_stopped_from_outside_goes_on_to_the_same_bits(
    number: signal.Signals, run: Run, long_run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-m", "search.darts", *arguments(LONG, path, tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path,
        # Where the tests run in the background, a shell may have told all of them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        while not newest_checkpoint(path) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.Random(number).uniform(0, 0.3))
        process.send_signal(number)
        while number == signal.SIGHUP and process.poll() is None:  # as terminals may send more than one
            time.sleep(0.02)
            process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    if number == signal.SIGINT:
        assert said == "search.darts: stopped by Ctrl-C; the same --run with --resume goes on\n"
    if number == signal.SIGHUP:
        assert said.startswith("search.darts: stopped by SIGHUP") and said.count("\n") == 1
    assert 1 <= newest_checkpoint(path) < 8
    assert run(LONG, path, "--resume")[0] == 0
    check_same_run(path, long_run, LONG.results)
