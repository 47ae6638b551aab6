"""Tests of retrain/api.py, of retrainings that are repeated and of those that are compared with random genotypes."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import retrain
import retrain.__main__
from retrain.config import RetrainConfig
from retrain.weights import Trained
from supernet import Genotype
from supernet.genotypes.published import get_genotype
from training.images.data import DataConfig
from training.run.monitor import StopConfig

SMALL = RetrainConfig(
    epochs=1, channels=2, cells=3, batch_size=32, auxiliary_weight=0, threads=1, device="cpu", data=DataConfig(limit=80)
)
OPTIONS = [
    "--epochs=1",
    "--channels=2",
    "--cells=3",
    "--batch_size=32",
    "--auxiliary_weight=0",
    "--threads=1",
    "--device=cpu",
    "--data.limit=80",
]


def test_the_call_does_what_the_command_does(tmp_path: Path) -> None:
    result = retrain.run(get_genotype("DARTS_V2"), SMALL, tmp_path / "call")
    texts = [get_genotype(name).to_text("darts") for name in ("DARTS_V1", "DARTS_V2")]
    log = tmp_path / "log.txt"
    log.write_text("".join(f"11/23 10:11:12 PM genotype = {text}\n" for text in texts))
    assert retrain.__main__.main([*OPTIONS, f"--genotype={log}", f"--run={tmp_path / 'command'}"]) == 0
    said = f"{log}: a log with 2 genotypes, of which the last is taken (line 2); FILE#1 to FILE#2 choose"
    assert (tmp_path / "command" / "log.txt").read_text().count(said) == 1
    weights = [Trained.load(tmp_path / name).network.state_dict() for name in ("call", "command")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert result.run == tmp_path / "call"
    assert result.test.to_dict().items() <= json.loads((tmp_path / "command" / "metrics.json").read_text()).items()
    logits = result.trained.network(result.trained.format.normalised(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)))
    assert logits.shape == (2, 10)
    assert retrain.run("DARTS_V2", SMALL, tmp_path / "call", resume=True).test == result.test
    with pytest.raises(ValueError, match=r"^genotype: the run was begun with another one, which .*genotype\.json has"):
        retrain.run("DARTS_V1", SMALL, tmp_path / "call", resume=True)


def test_seeds_end_with_mean_and_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert retrain.__main__.main([*OPTIONS, "--genotype=DARTS_V2", "--seeds=3,4", f"--run={run}"]) == 0
    content = json.loads((run / "seeds.json").read_text())
    accuracies = [json.loads((run / f"seed_{seed}" / "metrics.json").read_text())["accuracy"] for seed in (3, 4)]
    assert [values["accuracy"] for values in content["values"]] == accuracies
    assert content["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert "2 seeds: accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_random_genotypes_are_trained_alike(tmp_path: Path) -> None:
    config = replace(SMALL, random_genotypes=1)
    result = retrain.run("DARTS_V2", config, tmp_path / "run")
    assert [other.run.name for other in result.others] == ["random_0"]
    genotypes = {Genotype.load(other.run / "genotype.json") for other in result.others}
    assert len(genotypes | {result.genotype}) == 2
    alone = retrain.run(result.others[0].genotype, SMALL, tmp_path / "alone")
    assert alone.test == result.others[0].test
    more = retrain.run("DARTS_V2", replace(config, random_genotypes=2), tmp_path / "run", resume=True)
    assert more.others[0].test == result.others[0].test
    assert [other.run.name for other in more.others] == ["random_0", "random_1"]
    assert more.others[0].genotype != more.others[1].genotype


def test_a_stop_ends_no_random_genotype(tmp_path: Path) -> None:
    config = replace(SMALL, epochs=2, validation_fraction=0.25, batch_size=16, random_genotypes=1)
    result = retrain.run("DARTS_V2", replace(config, stop=StopConfig(hours=1e-9)), tmp_path / "run")
    assert (result.epochs, result.others) == (1, ())
    result = retrain.run("DARTS_V2", replace(config, stop=StopConfig(hours=100)), tmp_path / "run", resume=True)
    assert (result.epochs, result.others[0].epochs) == (2, 2)
    assert "hours: null" in (tmp_path / "run" / "random_0" / "config.yaml").read_text()


def test_processes_end_with_the_call(tmp_path: Path) -> None:
    data = DataConfig(limit=80, loading="workers", workers=1)
    retrain.run("DARTS_V2", replace(SMALL, data=data), tmp_path / "run")
    assert multiprocessing.active_children() == []


def test_no_random_genotypes_of_an_unknown_space(tmp_path: Path) -> None:
    darts = get_genotype("DARTS_V2")
    foreign = Genotype(darts.cells, darts.skeleton, "elsewhere")
    with pytest.raises(ValueError, match=r"^random_genotypes: unknown space 'elsewhere'"):
        retrain.run(foreign, replace(SMALL, random_genotypes=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
