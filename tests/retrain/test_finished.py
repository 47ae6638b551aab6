"""Tests of retrain/finished.py: what a retraining leaves can be opened again, and what cannot is said in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from base.checks import InputError
from retrain import RetrainRun
from retrain.api import retrain
from retrain.config import RetrainConfig
from retrain.history import RetrainEpoch
from supernet.genotypes.genotype import Genotype
from training.images.data import DataConfig
from training.metrics import count_parameters
from training.run.checkpoint import Checkpoints
from training.run.config import RunOptions

CONFIG = RetrainConfig(
    genotype="DARTS_V2", channels=4, cells=3, epochs=2, batch_size=30, auxiliary_weight=0.0, validation_fraction=0.25,
    device="cpu", threads=1, data=DataConfig(limit=80, flip=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished retraining; beside it, in "running", what it was after its first epoch."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        save = Checkpoints.save

        def copied(self: Checkpoints, epoch: int, state: dict[str, Any]) -> Path:
            saved = save(self, epoch, state)
            if epoch == 1:
                shutil.copytree(path, path.with_name("running"))
            return saved

        patch.setattr(Checkpoints, "save", copied)
        retrain(CONFIG, RunOptions(path, False, False, pictures=False))
    return path


def test_a_finished_run_has_all_that_came_of_it(finished: Path) -> None:
    before = torch.get_rng_state()
    run = RetrainRun.open(str(finished))
    assert run.config == CONFIG and run.genotype == Genotype.load(finished / "genotype.json")
    lines = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert list(run.history) == [RetrainEpoch.from_plain(line) for line in lines] and run.epochs == 2
    assert "valid/loss" in run.history[0].readings and run.history[0].lr == CONFIG.weights.lr
    assert run.metrics == json.loads((finished / "metrics.json").read_text())
    assert run.metrics["parameters"] == count_parameters(run.network) and not run.network.training
    assert run.network.genotype == run.genotype and run.trained is run.trained
    settings = run.settings({"size": 16})
    data, precision = settings.data, settings.precision
    assert (data.name, data.size, data.limit, data.flip, precision) == ("digits", 16, None, False, "auto")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_running_one_has_the_epochs_behind_and_no_network_yet(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished.with_name("running"), path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    run = RetrainRun.open(path)
    assert run.config == CONFIG and run.epochs == 1 and run.metrics is None
    assert list(run.history) == list(RetrainRun.open(finished).history)[:1]
    with pytest.raises(InputError, match=r"weights\.safetensors: no such file"):
        run.network  # noqa: B018
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_weights_alone_are_a_run_without_a_configuration(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "weights.safetensors", tmp_path)
    run = RetrainRun.open(tmp_path)
    assert run.genotype == Genotype.load(finished / "genotype.json") and run.epochs == 0 and run.metrics is None
    assert run.settings({"name": "cifar10"}).data.size == 8
    with pytest.raises(InputError, match=r"config\.yaml: .*; to do without this file, name the data set with"):
        run.settings()


def refused(path: Path) -> str:
    """Returns the message, one line that begins with the path."""
    with pytest.raises(InputError) as raised:
        RetrainRun.open(path)
    message = str(raised.value)
    assert "\n" not in message and message.startswith(str(path))
    return message.removeprefix(str(path))


def test_what_is_no_retraining_is_refused(finished: Path, tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == ": no such directory; name that of a run"
    assert refused(finished / "config.yaml") == ": not a directory; name that of a run"
    assert refused(tmp_path) == "/weights.safetensors: no such file; retrain a genotype into this directory first"
    content = (finished / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(content.replace("# Kind: retrain", "# Kind: darts", 1))
    assert refused(tmp_path) == ": is a run of darts and no retraining; search.SearchRun opens one of a search"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("config.yaml", "config"), ("genotype.json", "genotype"), ("metrics.json", "metrics"),
        ("weights.safetensors", "network"), ("checkpoints/epoch_0002.pt", "history"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(name: str, part: str, finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    content = (path / name).read_bytes()
    cut = content.replace(b"epochs: 2", b"epochs: two") if name == "config.yaml" else content[: len(content) // 2]
    (path / name).write_bytes(cut)
    with pytest.raises(InputError) as raised:
        getattr(RetrainRun.open(path), part)
    assert str(raised.value).startswith(str(path / name)) and "\n" not in str(raised.value)
