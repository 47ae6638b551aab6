"""Directories that are no place for a run, runs that cannot be resumed, and checkpoints that are damaged or foreign."""

import contextlib
import hashlib
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import search.random
from base.checks import InputError
from ops import register_op
from ops.registry import OPERATIONS
from retrain.config import RetrainConfig
from training.run.base import RunConfig
from training.run.checkpoint import Checkpoints
from training.run.directory import RunDirectory

ROOT = Path(__file__).parents[2]
CELL = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|my_op~2|"
Refuse = Callable[..., str]
Run = Callable[..., int | str | None]
Files = Callable[[Path], Mapping[str, bytes | str | None]]
both = pytest.mark.parametrize("command", ["search.darts", "retrain"])


# The directory of the run


@both
def test_directories_that_cannot_be_made(refuse: Refuse, here: Path, command: str) -> None:
    (here / "file").write_text("mine")
    for more in ([], ["--overwrite"], ["--resume"]):
        assert refuse(command, "--run=file", *more) == "file: is a file; choose another directory with --run"
    below = "file/run: the run directory cannot be made, "
    assert refuse(command, "--run=file/run").startswith(below)
    assert refuse(command, "--run=file/run", "--overwrite").startswith(below)
    unmakeable = "/proc/fusenas_run: the run directory cannot be written: "
    assert refuse(command, "--run=/proc/fusenas_run").startswith(unmakeable)
    assert refuse(command, f"--run={'x' * 300}").endswith(": File name too long")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@both
def test_directories_that_may_not_be_written(refuse: Refuse, here: Path, command: str) -> None:
    here.chmod(0o500)
    try:
        assert refuse(command, "--run=run").startswith("run: the run directory cannot be written, no permission for ")
    finally:
        here.chmod(0o700)


@both
def test_directories_of_somebody_else(refuse: Refuse, here: Path, command: str) -> None:
    (here / "thesis").mkdir()
    (here / "thesis/config.yaml").write_text("epochs: 3\n")
    (here / "thesis/log.txt").write_text("years of work")
    for more in ([], ["--overwrite"], ["--resume"]):
        message = refuse(command, "--run=thesis", *more)
        assert message == "thesis: not empty and not a run of this program; choose another directory with --run"


@both
def test_a_run_is_not_written_over_by_accident(refuse: Refuse, here: Path, command: str, finished: dict[str, Path]) -> None:
    shutil.copytree(finished[command], here / "run")
    assert refuse(command, "--run=run") == (
        "run: holds a run already, saved after epoch 2; continue it with --resume or replace it with --overwrite"
    )
    # What else is wrong is found before anything is replaced.
    assert refuse(command, "--run=run", "--overwrite", "--batch_size=65").startswith("batch_size: 65 is larger")
    assert refuse(command, "--run=run", "--overwrite", "--device=tpu").startswith("device: 'tpu' cannot be used")
    assert refuse(command, "--run=run", "--overwrite", "--data.limit=5000").startswith("data.limit: 5000 is more")


@both
def test_what_cannot_be_resumed(refuse: Refuse, here: Path, command: str, finished: dict[str, Path]) -> None:
    assert refuse(command, "--run=none", "--resume").startswith("none: nothing to resume, there is no such run; ")
    shutil.copytree(finished[command], here / "run")
    changed = refuse(command, "--run=run", "--resume", "--epochs=1")
    assert changed == (
        "run: the run was started with epochs 2, not 1; resume it without changes, or begin anew with --overwrite"
    )
    assert "; add --extend restart (" in refuse(command, "--run=run", "--resume", "--epochs=3")
    (here / "run/config.yaml").write_bytes((here / "run/config.yaml").read_bytes()[:100] + b"\nepochs: [")
    assert refuse(command, "--run=run", "--resume").endswith("; the run cannot be resumed, begin anew with --overwrite")
    (here / "run/config.yaml").unlink()
    assert refuse(command, "--run=run", "--resume").startswith("run: not empty and not a run of this program")
    shutil.copytree(finished["retrain" if command != "retrain" else "search.darts"], here / "theirs")
    assert refuse(command, "--run=theirs", "--resume").startswith("theirs: the run was started with ")


def test_a_genotype_that_was_damaged_since(refuse: Refuse, here: Path, finished: dict[str, Path]) -> None:
    shutil.copytree(finished["retrain"], here / "run")
    (here / "run/genotype.json").write_text("{")
    message = refuse("retrain", "--run=run", "--resume")
    assert message.startswith("run/genotype.json: not valid JSON")
    assert message.endswith("; delete it to read DARTS_V2 again, or begin anew with --overwrite")


# Two processes in one directory


@pytest.fixture
def other_process() -> Iterator[Callable[[Path], int]]:
    """Lets another process work in a directory; returns its id."""
    code = "import sys, time; from pathlib import Path; from training.run.ownership.lock import Lock; "
    code += "lock = Lock.take(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    with contextlib.ExitStack() as stack:

        def start(path: Path) -> int:
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline()
            return process.pid

        yield start


@both
def test_a_directory_where_another_process_is_at_work(
    refuse: Refuse, here: Path, command: str, finished: dict[str, Path], other_process: Callable[[Path], int]
) -> None:
    shutil.copytree(finished[command], here / "run")
    pid = other_process(here / "run")
    for more in ([], ["--overwrite"], ["--resume"]):
        message = refuse(command, "--run=run", *more)
        assert re.fullmatch(
            rf"run: process {pid} on .+ has been at work in it since 20.+; wait for its end or stop it, .+", message
        )
    # A search and a retraining of several seeds are a directory, too, and so is each of them.
    shutil.copytree(finished[command], here / "seeds/seed_1")
    other_process(here / "seeds/seed_1")
    for more in (["--overwrite"], ["--resume"]):
        assert refuse(command, "--run=seeds", "--seeds=0,1", *more).startswith("seeds/seed_1: process ")
    other_process(here / "seeds")
    assert refuse(command, "--run=seeds", "--seeds=3").startswith("seeds: process ")


# What is refused leaves nothing behind


def test_a_run_from_python_whose_names_no_file_can_hold(tmp_path: Path) -> None:
    bad = os.fsdecode(b"data\xff")
    with pytest.raises(ValueError, match=r"^genotype: holds bytes that are no text in UTF-8"):
        RunDirectory.check(tmp_path / "run", RetrainConfig(genotype=bad), resume=False, overwrite=False)
    with pytest.raises(ValueError, match=r"^--run: holds bytes that are no text in UTF-8"):
        RunDirectory.check(tmp_path / bad, RetrainConfig(), resume=False, overwrite=False)


@both
def test_names_that_no_file_can_hold(refuse: Refuse, here: Path, command: str, finished: dict[str, Path]) -> None:
    bad = os.fsdecode(b"data\xff")
    assert refuse(command, "--run=run", f"--data.root={bad}").startswith("data.root: holds bytes that are no text in UTF-8")
    assert refuse(command, f"--run={bad}").startswith("--run: holds bytes that are no text in UTF-8")
    assert refuse(command, "--run=run", f"--seeds=1,{'9' * 300}").startswith(("--seeds: ", "run/seed_999"))
    assert refuse(command, "--run=" + "y/" * 2040).endswith(
        "the path of the run directory is too long; choose another one with --run"
    )
    assert refuse(command, "--run=a/b/" + "x" * 300).endswith("the run directory cannot be written: File name too long")


def test_an_incomplete_table_is_refused_before_anything_is_replaced(
    here: Path, capsys: pytest.CaptureFixture[str], files: Files
) -> None:
    head = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10\n"
    architectures = [
        "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*chosen)
        for chosen in itertools.product(("none", "skip_connect"), repeat=6)
    ]
    (here / "whole.csv").write_text(head + "".join(f"{one},50,40,30,1,2\n" for one in architectures))
    (here / "less.csv").write_text(head + "".join(f"{one},50,40,30,1,2\n" for one in architectures[:-1]))
    few = "--exclude=[nor_conv_1x1,nor_conv_3x3,avg_pool_3x3]"
    asked = ["--space=nasbench201", "--evaluate=table", few, "--evaluations=4", "--round=2", "--run=run", "--threads=1"]
    assert search.random.main([*asked, "--tabular=whole.csv"]) == 0
    before = files(here)
    capsys.readouterr()
    assert search.random.main([*asked, "--tabular=less.csv", "--overwrite"]) == 2
    assert f"tabular: the table has no {architectures[-1]}; " in capsys.readouterr().err
    assert files(here) == before
    assert search.random.main([*asked, "--tabular=less.csv", "--run=new"]) == 2
    assert files(here) == before


@pytest.mark.parametrize("command", ["search.darts", pytest.param("retrain", marks=pytest.mark.slow)])
def test_a_run_that_is_overwritten_goes_when_the_new_one_has_a_checkpoint(
    refuse: Refuse,
    run: Run,
    here: Path,
    command: str,
    finished: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    files: Files,
) -> None:
    shutil.copytree(finished[command], here / "run")
    (here / "run/genotype_best.json").write_text("mine")
    (here / "run/checkpoints/epoch_best.pt").write_text("mine")
    before = files(here)

    def late(self: Checkpoints, epoch: int, state: object) -> Path:
        raise InputError("late: no checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", late)
        assert refuse(command, "--run=run", "--overwrite", "--seed=3") == "late: no checkpoint"
    assert files(here) == before
    assert run(command, "--run=run", "--overwrite", "--seed=1") == 0
    other = files(finished[f"other {command}"])
    after = files(here / "run")
    assert (here / "run/genotype_best.json").read_text() == (here / "run/checkpoints/epoch_best.pt").read_text() == "mine"
    assert after["checkpoints/epoch_0002.pt"] == other["checkpoints/epoch_0002.pt"]
    new = {"genotype_best.json", "checkpoints/epoch_best.pt", *other}
    assert {name for name in after if "events" not in name} == {name for name in new if "events" not in name}


# Checkpoints


class Bomb:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pwned",)


def saved(content: object, signed: bool = False) -> bytes:
    """Returns the bytes that torch.save writes; `signed`: behind the first line that a checkpoint of this program has."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return (f"fusenas checkpoint 1 {digest}\n".encode() if signed else b"") + buffer.getvalue()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@both
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-100], "the checkpoint is damaged or cut short"),
        (lambda content: content[:10], "not a checkpoint of this program"),
        (lambda content: b"", "not a checkpoint of this program"),
        (flipped, "the checkpoint is damaged or cut short"),
        (lambda content: bytes(range(256)) * 10, "not a checkpoint of this program"),
        (lambda content: saved({"model": torch.ones(2)}), "not a checkpoint of this program"),
        (lambda content: saved(Bomb()), "not a checkpoint of this program"),
        (lambda content: saved(Bomb(), signed=True), "this version of torch cannot read the checkpoint"),
        (lambda content: saved({"model": torch.ones(2)}, signed=True), "not a checkpoint of this program"),
        (lambda content: saved([1], signed=True), "not a checkpoint of this program"),
        (lambda content: saved({"epoch": 2, "header": None, "state": {}}, signed=True), "not a checkpoint of this program"),
        (lambda content: saved({"epoch": 1, "header": {}, "state": {}}, signed=True), "the file was renamed, it holds epoch 1"),
    ],
    ids=["cut", "short", "empty", "bit", "bytes", "torch", "bomb", "signed bomb", "other", "list", "header", "renamed"],
)
def test_checkpoints(
    refuse: Refuse, here: Path, command: str, damage: Callable[[bytes], bytes], message: str, finished: dict[str, Path]
) -> None:
    shutil.copytree(finished[command], here / "run")
    (here / "run/checkpoints/epoch_0001.pt").unlink()
    file = here / "run/checkpoints/epoch_0002.pt"
    file.write_bytes(damage(file.read_bytes()))
    told = refuse(command, "--run=run", "--resume")
    is_damaged = "damaged" in message or "not a checkpoint" in message
    undo = "put back the file as it was" if is_damaged else "undo what has changed since"
    assert told == f"run/checkpoints/epoch_0002.pt: {message}; {undo}, or begin anew with --overwrite"
    assert not (here / "pwned").exists()


@both
def test_checkpoints_of_another_run(refuse: Refuse, here: Path, command: str, finished: dict[str, Path]) -> None:
    shutil.copytree(finished[command], here / "run")
    shutil.copy(finished[f"other {command}"] / "checkpoints/epoch_0002.pt", here / "run/checkpoints")
    assert "epoch_0002.pt: of another run (config_hash " in refuse(command, "--run=run", "--resume")
    other = finished["retrain" if command != "retrain" else "search.darts"]
    shutil.copy(other / "checkpoints/epoch_0002.pt", here / "run/checkpoints")
    assert "epoch_0002.pt: of another run (kind " in refuse(command, "--run=run", "--resume")


def test_a_run_of_another_command(refuse: Refuse, here: Path, finished: dict[str, Path]) -> None:
    """Nobody is told to delete its checkpoints."""
    shutil.copytree(finished["search.darts"], here / "run")
    config = here / "run" / "config.yaml"
    config.write_text(config.read_text().replace("# Kind: darts", "# Kind: gdas"))
    message = "run: is a run of gdas, not of darts; resume it with the command that began it"
    assert refuse("search.darts", "--run=run", "--resume") == message
    assert len(list((here / "run" / "checkpoints").iterdir())) == 2


def test_an_operation_that_has_changed_since(refuse: Refuse, here: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def of_kernel(kernel: int) -> Callable[[int, int, bool], nn.Module]:
        return lambda channels, stride, affine: nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2)

    (here / "mine.txt").write_text(CELL)
    mine = ["--run=run", "--genotype=mine.txt", "--cells=1"]
    with OPERATIONS.temporarily():
        register_op("my_op")(of_kernel(3))
        assert run("retrain", *mine) == 0
    with OPERATIONS.temporarily():
        register_op("my_op")(of_kernel(5))
        message = refuse("retrain", *mine, "--resume")
    assert message.startswith("run/checkpoints/epoch_0002.pt: trainer.network.layers.")
    assert " is a tensor float32 [" in message and "; of 2 checkpoints none is good; undo what has changed since" in message


# What --overwrite removes


@both
def test_overwriting_leaves_nothing_of_a_whole_run(here: Path, command: str, finished: dict[str, Path], files: Files) -> None:
    shutil.copytree(finished[command], here / "run")
    # Another command knows nothing of the files of this one.
    with RunDirectory.open(here / "run", RunConfig(), resume=False, overwrite=True) as new:
        new.begin()
        new.keep()
        assert sorted(files(here / "run")) == [".fusenas", ".fusenas/files", ".fusenas/lock", "config.yaml"]


def test_overwriting_leaves_nothing_of_a_search_that_samples(here: Path, files: Files) -> None:
    size = ["--space=nasbench201", "--cells=1", "--channels=2", "--epochs=1", "--batch_size=16", "--threads=1"]
    data = ["--data.limit=64", "--evaluations=4", "--round=2", "--evaluated_images=16", "--recalibrate=1"]
    assert search.random.main([*size, *data, "--run=run"]) == 0
    assert (here / "run/genotype_1.json").is_file() and (here / "run/report.md").is_file()
    with RunDirectory.open(here / "run", RunConfig(), resume=False, overwrite=True) as new:
        new.begin()
        new.keep()
        assert sorted(files(here / "run")) == [".fusenas", ".fusenas/files", ".fusenas/lock", "config.yaml"]
