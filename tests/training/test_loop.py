"""Epochs, checkpoints and stop conditions, with a trainer that has one weight."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from training.hardware import choose_device
from training.loop import Progress, Watch, restore, run_epochs
from training.metrics import Batch, Score
from training.run.base import MAY_CHANGE, RunConfig
from training.run.command import TrainingDiverged
from training.run.directory import RunDirectory
from training.run.monitor import Bar, Monitor, StopConfig
from training.run.structure import Part, like
from training.tasks.classification import AccuracyMeter


@dataclass
class Config(RunConfig):
    log_every: int = 2
    histograms_every: int = field(default=0, metadata=MAY_CHANGE)
    stop: StopConfig = field(default_factory=StopConfig, metadata=MAY_CHANGE)


class OneWeight:
    """Adds a random number in each of three steps an epoch; its accuracy is a tenth for each epoch."""

    steps = 3
    device = torch.device("cpu")
    scored_by = Score.share("accuracy")

    def __init__(
        self, bad_loss: int | None = None, bad_weight: int | None = None, epochs: int = 4, enough: float | None = None
    ):
        """`enough`: the weight from which on no further epoch is needed."""
        self.epochs = self.trained_epochs = epochs
        self.enough = enough
        self.meters = {"train": AccuracyMeter("cpu")}
        self.weight = torch.zeros(())
        self.bad_loss, self.bad_weight = bad_loss, bad_weight
        self.ran: list[int] = []

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        self.ran.append(epoch)
        for step in watch.batches(range(self.steps)):
            loss = torch.tensor(float("nan") if self.bad_loss == epoch * self.steps + step else 1.0)
            watch.meters["train"].update(loss, torch.eye(2), Batch(torch.zeros(2), torch.tensor([0, 1])))
            watch.images += 2
            self.weight = self.weight + torch.rand(())
        if self.bad_weight == epoch:
            self.weight = self.weight / 0
        readings = watch.finish()
        assert readings["train/accuracy"] == 1.0 and readings["speed/images_per_second"] > 0
        return (epoch + 1) / 10

    def reason_to_stop(self) -> str | None:
        return None if self.enough is None or self.weight < self.enough else "the weight is enough"

    def trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [("weight", torch.nn.Parameter(self.weight.clone().view(1)))]

    def state_dict(self) -> dict[str, Any]:
        return {"nested": [{"weight": self.weight}]}

    def structure(self, epochs: int) -> Part:
        return like(self.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight = state["nested"][0]["weight"]


def run(path: Path, trainer: OneWeight, config: Config, resume: bool = False) -> int:
    with RunDirectory.open(path, config, resume, False) as directory:
        directory.begin()
        start = restore(trainer, directory.checkpoints("search")) if resume else Progress()
        with Monitor(path, first_step=start.epochs * trainer.steps + 1 if start.epochs else 0) as monitor:
            return run_epochs(trainer, config, directory, monitor, "search", start)


def test_a_stopped_run_ends_like_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = OneWeight()
    assert run(tmp_path / "whole", whole, Config()) == 4
    assert run(tmp_path / "parts", OneWeight(), Config(stop=StopConfig(score=0.2))) == 2
    rest = OneWeight()
    assert run(tmp_path / "parts", rest, Config(), resume=True) == 4
    assert rest.ran == [2, 3]
    assert torch.equal(rest.weight, whole.weight)


def test_a_run_that_reached_its_target_does_not_go_on_when_resumed(tmp_path: Path) -> None:
    config = Config(stop=StopConfig(score=0.2))
    run(tmp_path / "run", OneWeight(), config)
    again = OneWeight()
    assert run(tmp_path / "run", again, config, resume=True) == 2
    assert again.ran == []
    assert "stopped after epoch 2: validation accuracy 0.2" in (tmp_path / "run/log.txt").read_text()


def test_a_trainer_that_has_a_reason_to_stop_stops_and_does_not_go_on_when_resumed(tmp_path: Path) -> None:
    assert run(tmp_path / "run", OneWeight(enough=1e-9), Config()) == 1
    again = OneWeight(enough=1e-9)
    assert run(tmp_path / "run", again, Config(), resume=True) == 1
    assert again.ran == []
    assert (tmp_path / "run/log.txt").read_text().count("stopped after epoch 1: the weight is enough\n") == 2


def test_before_the_first_epoch_a_trainer_has_no_reason_to_stop(tmp_path: Path) -> None:
    assert run(tmp_path / "run", OneWeight(enough=0.0), Config()) == 1


def test_a_meter_without_images_has_no_reading(tmp_path: Path) -> None:
    """A search that does not train on its validation images has such a meter."""
    trainer = OneWeight(epochs=1)
    trainer.meters["valid"] = AccuracyMeter("cpu")
    with Monitor(tmp_path) as monitor:
        watch = Watch(monitor, monitor.bar(3), trainer.device, trainer.meters, 0, trainer.steps, 2)
        for _ in watch.batches(range(3)):
            trainer.meters["train"].update(torch.tensor(1.0), torch.eye(2), Batch(torch.zeros(2), torch.tensor([0, 1])))
            watch.images += 2
        assert set(watch.finish()) == {"train/loss", "train/accuracy", "speed/images_per_second", "memory/peak_mb"}


def test_time_is_a_stop_condition(tmp_path: Path) -> None:
    """But an epoch there is, so that something can be measured."""
    config = Config(stop=StopConfig(hours=1e-12))
    assert run(tmp_path / "run", OneWeight(), config) == 1
    assert run(tmp_path / "run", OneWeight(), config, resume=True) == 1


@pytest.mark.parametrize("step", [4, 5])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path: Path, step: int) -> None:
    with pytest.raises(TrainingDiverged, match=f"^step {step}: the train loss is NaN or infinite; try a lower learning rate"):
        run(tmp_path / "run", OneWeight(bad_loss=step), Config())
    assert [file.name for file in (tmp_path / "run/checkpoints").iterdir()] == ["epoch_0001.pt"]


def test_broken_weights_are_not_saved(tmp_path: Path) -> None:
    """The loss of the last step was finite; the last good checkpoint stays the last."""
    with pytest.raises(TrainingDiverged, match=r"^step 5: the result of the step is NaN or infinite"):
        run(tmp_path / "run", OneWeight(bad_weight=1), Config())
    assert [file.name for file in (tmp_path / "run/checkpoints").iterdir()] == ["epoch_0001.pt"]


def test_devices() -> None:
    before = torch.get_num_threads()
    try:
        assert choose_device("auto", threads=2).type in ("cpu", "cuda")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99", ""):
        with pytest.raises(ValueError, match=f"^device: '{name}' cannot be used here; try auto or cpu$"):
            choose_device(name)


def test_the_bar_shows_images_a_second_from_the_first_reading_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(Bar, "show", lambda bar, *readings: shown.append(readings))
    run(tmp_path / "run", OneWeight(epochs=1), Config())
    assert len(shown) == 2  # after two of three steps, and at the end of the epoch
    assert all(values == {"loss": 1.0, "accuracy": 1.0} and rate > 0 for values, rate in shown)


def histograms_of(path: Path) -> list[tuple[int, float]]:
    """Step and sum of each histogram of the weight."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(path), size_guidance={"histograms": 0})
    read.Reload()
    if "weights/weight" not in read.Tags()["histograms"]:
        return []
    return [(event.step, event.histogram_value.sum) for event in read.Histograms("weights/weight")]


def test_histograms_come_at_their_interval_and_once_a_step(tmp_path: Path) -> None:
    run(tmp_path / "never", OneWeight(), Config())
    assert histograms_of(tmp_path / "never") == []
    whole = OneWeight()
    run(tmp_path / "run", whole, Config(histograms_every=2, stop=StopConfig(score=0.3)))
    assert [step for step, _ in histograms_of(tmp_path / "run")] == [6]
    assert run(tmp_path / "run", whole, Config(histograms_every=1), resume=True) == 4
    found = histograms_of(tmp_path / "run")
    assert [step for step, _ in found] == [6, 12]
    assert found[-1][1] == pytest.approx(float(whole.weight), abs=1e-6)


def test_a_trace_of_a_run_is_written_and_its_result_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    ends = []
    for name, trace in (("plain", None), ("traced", tmp_path / "trace")):
        trainer = OneWeight()
        with RunDirectory.open(tmp_path / name, Config(), False, False) as directory:
            directory.begin()
            with Monitor(tmp_path / name) as monitor:
                assert run_epochs(trainer, Config(), directory, monitor, "search", Progress(), trace) == 4
        ends.append(trainer.weight)
    assert torch.equal(*ends)
    assert (tmp_path / "trace" / "trace.json").is_file()
    assert "profile: 6 steps after 6 others" in (tmp_path / "traced" / "log.txt").read_text()
