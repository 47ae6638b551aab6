"""Tests of training/run/directory.py."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from training.run.base import MAY_CHANGE, RunConfig
from training.run.config import config_from_file
from training.run.directory import RunDirectory
from training.run.ownership.files import RECORD_FILE, record, write_file


@dataclass
class Stop:
    hours: float | None = None


@dataclass
class Config(RunConfig):
    epochs: int = 5
    rate: float = 1e-3
    stop: Stop = field(default_factory=Stop, metadata=MAY_CHANGE)


@dataclass
class LongerConfig(Config):
    epochs: int = field(default=6, metadata=MAY_CHANGE)


@dataclass
class OtherConfig(RunConfig):
    epochs: int = 5
    genotype: str = "DARTS_V2"


def start(path: Path, config: RunConfig | None = None, resume: bool = False, overwrite: bool = False) -> RunDirectory:
    """Begins a run, or goes on with it, and lets it end; the one that it replaces is gone."""
    with RunDirectory.open(path, config or Config(), resume=resume, overwrite=overwrite) as run:
        run.begin()
        run.keep()
    return run


@pytest.fixture
def finished(tmp_path) -> Path:
    """The directory of a run with all of its files."""
    path = tmp_path / "run"
    checkpoints = start(path).checkpoints("search")
    checkpoints.save(1, {"x": 1})
    checkpoints.save(2, {"x": 2})
    results = ("genotype.json", "history.jsonl", "metrics.json", "weights.safetensors")
    for name in ("log.txt", "events.out.tfevents.1.host.2.0", *results):
        write_file(path, name, "old")
    return path


def contents(path: Path) -> dict[str, bytes]:
    """Returns all files but the record."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.match(RECORD_FILE))
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_a_new_run_writes_its_config(tmp_path):
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert start(path, Config(epochs=7)).path == path
        assert config_from_file(Config, path / "config.yaml") == Config(epochs=7)
        assert list(contents(path)) == ["config.yaml"]


def test_overwrite_of_nothing_is_a_new_run(tmp_path):
    start(tmp_path / "new", overwrite=True)
    assert (tmp_path / "new" / "config.yaml").is_file()


def test_a_second_run_needs_a_flag(finished):
    before = contents(finished)
    with pytest.raises(ValueError, match=r"run: holds a run already, saved after epoch 2; .*--resume .*--overwrite"):
        start(finished, Config(epochs=9))
    with pytest.raises(ValueError, match="exclude each other"):
        start(finished, resume=True, overwrite=True)
    assert contents(finished) == before


def test_overwrite_removes_the_run_and_nothing_else(finished):
    (finished / "notes.txt").write_text("mine")
    (finished / "checkpoints" / "best.pt").write_text("mine")
    record(finished, "checkpoints/epoch_0003.pt")
    (finished / "checkpoints" / ".epoch_0003.pt.0123abcd.tmp").write_text("old")
    start(finished, Config(epochs=9), overwrite=True)
    assert list(contents(finished)) == ["checkpoints/best.pt", "config.yaml", "notes.txt"]
    assert config_from_file(Config, finished / "config.yaml").epochs == 9
    assert start(finished, Config(epochs=9), resume=True).checkpoints("search").latest() is None


def test_overwrite_removes_the_files_of_a_run_of_another_sort(finished):
    (finished / ".weights.safetensors.0123abcd.tmp").write_text("cut short")
    (finished / "model.json").write_text("mine")
    start(finished, OtherConfig(), overwrite=True)
    assert list(contents(finished)) == ["config.yaml", "model.json"]


@pytest.mark.parametrize(
    "line", ["../thesis.tex", "/etc/passwd", "a/../../thesis.tex", "*", "", ".", "..", "a//b", "\0", "é\udcff"]
)
def test_overwrite_removes_nothing_elsewhere_whatever_the_record_says(finished, line):
    (finished.parent / "thesis.tex").write_text("years of work")
    (finished / "notes.txt").write_text("mine")
    with (finished / RECORD_FILE).open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    start(finished, overwrite=True)
    assert list(contents(finished.parent)) == ["run/config.yaml", "run/notes.txt", "thesis.tex"]


def test_overwrite_takes_no_link_and_follows_none(finished, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/model.json").write_text("mine")
    record(finished, "export/model.json", "metrics.csv")
    (finished / "export").symlink_to(tmp_path / "elsewhere")
    (finished / "metrics.csv").symlink_to(tmp_path / "elsewhere/model.json")
    start(finished, overwrite=True)
    assert (finished / "export/model.json").read_text() == (finished / "metrics.csv").read_text() == "mine"


MINE = ["genotype_best.json", "checkpoints/epoch_best.pt", "events.out.tfevents.mine", "log.txt.1", "history.jsonl.tmp"]


@pytest.mark.parametrize("name", MINE)
def test_overwrite_leaves_files_with_names_like_those_of_a_run(finished, name):
    (finished / name).write_text("mine")
    start(finished, overwrite=True)
    assert list(contents(finished)) == sorted([name, "config.yaml"])


def test_a_file_that_would_pass_for_a_checkpoint_is_pointed_at(finished):
    (finished / "checkpoints/epoch_0007.pt").write_text("mine")
    before = contents(finished)
    with pytest.raises(ValueError, match=r"epoch_0007\.pt: is none of the run's files but would pass for a checkpoint"):
        start(finished, overwrite=True)
    assert contents(finished) == before


def test_a_run_writes_over_no_file_that_is_not_its_own(finished):
    (finished / "report.md").write_text("mine")
    with pytest.raises(ValueError, match=r"report\.md: is there already, and none of this run's files; move it away"):
        write_file(finished, "report.md", "new")
    assert (finished / "report.md").read_text() == "mine"


def test_a_run_without_a_list_of_its_files_is_not_overwritten(finished):
    shutil.rmtree(finished / ".fusenas")
    before = contents(finished)
    with pytest.raises(ValueError, match=r"run: the run has no list of its files, so --overwrite cannot tell them from yours"):
        start(finished, overwrite=True)
    assert start(finished, resume=True).checkpoints("search").latest() == (2, {"x": 2})
    assert contents(finished) == before


def test_overwrite_removes_the_folder_of_checkpoints(finished):
    start(finished, overwrite=True)
    assert sorted(entry.name for entry in finished.iterdir()) == [".fusenas", "config.yaml"]


@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml", "genotype.json", "log.txt"])
@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
def test_a_foreign_directory_is_left_alone(tmp_path, name, flags):
    (tmp_path / name).write_text("epochs: 5\n")
    with pytest.raises(ValueError, match="not empty and not a run of this program"):
        start(tmp_path, **flags)
    assert contents(tmp_path) == {name: b"epochs: 5\n"}


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
def test_a_run_killed_as_it_began_is_no_obstacle(tmp_path, flags):
    (tmp_path / ".config.yaml.0123abcd.tmp").write_text("# A run of fus")
    start(tmp_path, **flags)
    assert list(contents(tmp_path)) == ["config.yaml"]


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="absent: nothing to resume"):
        start(tmp_path / "absent", resume=True)
    assert not (tmp_path / "absent").exists()


def test_resume_before_the_first_checkpoint_begins_anew(tmp_path):
    start(tmp_path / "run")
    assert start(tmp_path / "run", resume=True).checkpoints("search").latest() is None


def test_resume_goes_on(finished):
    before = contents(finished)
    run = start(finished, resume=True)
    assert contents(finished) == before
    assert run.checkpoints("search").latest() == (2, {"x": 2})


def test_resume_refuses_another_configuration(finished):
    before = contents(finished)
    with pytest.raises(ValueError, match=r"run: the run was started with epochs 5, not 9; .*--overwrite"):
        start(finished, Config(epochs=9, rate=2.0), resume=True)
    with pytest.raises(ValueError, match=r"started with rate 0.001, not 2.0"):
        start(finished, Config(rate=2.0), resume=True)
    with pytest.raises(ValueError, match=r"started with genotype absent, not DARTS_V2"):
        start(finished, OtherConfig(), resume=True)
    assert contents(finished) == before


def test_resume_refuses_a_configuration_with_a_field_less(tmp_path):
    start(tmp_path / "run", OtherConfig())
    with pytest.raises(ValueError, match=r"started with rate absent, not 0.001"):
        start(tmp_path / "run", Config(), resume=True)


def test_what_may_change_may_change(finished):
    run = start(finished, Config(stop=Stop(2.0)), resume=True)
    assert run.config_hash == start(finished, resume=True).config_hash
    assert run.checkpoints("search").latest() == (2, {"x": 2})
    start(finished, LongerConfig(), resume=True)


def test_resume_with_a_damaged_config(finished):
    file = finished / "config.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("epochs: 5", "epochs: [5"))
    with pytest.raises(ValueError, match=r"config\.yaml, line \d: not plain YAML"):
        start(finished, resume=True)
    file.write_text(whole.partition("rate")[0])
    with pytest.raises(ValueError, match=r"started with rate absent, not 0\.001"):
        start(finished, resume=True)


def test_check_changes_nothing(finished, tmp_path):
    before = contents(finished)
    RunDirectory.check(finished, Config(epochs=9), resume=False, overwrite=True)
    RunDirectory.check(tmp_path / "new" / "run", Config(), resume=False, overwrite=False)
    assert contents(finished) == before
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="holds a run already"):
        RunDirectory.check(finished, Config(), resume=False, overwrite=False)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file: is a file"):
        start(tmp_path / "file", overwrite=True)
    with pytest.raises(ValueError, match=r"file/run: the run directory cannot be made, .*file is a file"):
        start(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_without_permission(tmp_path, monkeypatch):
    # Root may write everywhere, so the answer of the system is made.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"a/b: the run directory cannot be written, no permission for"):
        start(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_directory_that_cannot_be_made(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"run: the run directory cannot be written: Permission denied"):
        start(tmp_path / "run")
