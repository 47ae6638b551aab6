"""Tests of training/run/monitor.py."""

import io
import re
import resource
import sys
import time
from types import SimpleNamespace

import matplotlib
import pytest
import torch

from base.checks import FieldError
from training.metrics import LOSS, Score
from training.run.command import TrainingDiverged
from training.run.monitor import Bar, Monitor, StopConditions, StopConfig, check_finite, peak_memory_mb

matplotlib.use("Agg")


def events(directory):
    """Returns the events that TensorBoard itself reads in the directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tensorboard_reads_everything_back(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([0, 1])
    with Monitor(tmp_path) as monitor:
        for step in range(3):
            monitor.scalars(step, {"loss/train": 1.0 / (step + 1), "accuracy/train": 0.25})
        monitor.text("config", "epochs: 3\nrate: 0.1\n")
        monitor.figure("alphas", figure, step=2)
    read = events(tmp_path)
    assert set(read.Tags()["scalars"]) == {"loss/train", "accuracy/train"}
    assert [(event.step, event.value) for event in read.Scalars("loss/train")] == [
        (0, 1.0),
        (1, 0.5),
        (2, pytest.approx(1 / 3)),
    ]
    text = read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    epochs: 3\n    rate: 0.1"
    (image,) = read.Images("alphas")
    assert (image.step, image.width, image.height) == (2, 100, 50)


def test_histograms_leave_out_what_is_not_finite(tmp_path):
    numbers = torch.tensor([float("nan"), -1.0, 3.0, float("inf"), 3.0])
    with Monitor(tmp_path) as monitor:
        monitor.histograms(
            3, {"some": numbers, "none": numbers[:1], "one": torch.zeros(5), "huge": torch.tensor([-3e38, 3e38])}
        )
    read = events(tmp_path)
    assert set(read.Tags()["histograms"]) == {"some", "one", "huge"}
    (event,) = read.Histograms("some")
    found = event.histogram_value
    assert (event.step, found.min, found.max, found.num, found.sum) == (3, -1.0, 3.0, 3, 5.0)
    assert read.Histograms("one")[0].histogram_value.num == 5


@pytest.mark.parametrize("first_step", [0, 4])
def test_a_resumed_run_shows_no_step_twice(tmp_path, first_step):
    with Monitor(tmp_path) as monitor:
        for step in range(7):
            monitor.scalars(step, {"loss": 1.0})
    time.sleep(1.1)  # the name of the file of events holds the second in which it was made
    with Monitor(tmp_path, first_step=first_step) as monitor:
        for step in range(first_step, 9):
            monitor.scalars(step, {"loss": 2.0})
    read = [(event.step, event.value) for event in events(tmp_path).Scalars("loss")]
    assert read == [(step, 1.0 if step < first_step else 2.0) for step in range(9)]


def test_flush_brings_the_events_to_the_disk(tmp_path):
    with Monitor(tmp_path) as monitor:
        monitor.scalars(1, {"loss": 1.0})
        monitor.flush()
        assert [event.step for event in events(tmp_path).Scalars("loss")] == [1]


def test_log_goes_to_file_and_terminal(tmp_path, capsys):
    with Monitor(tmp_path) as monitor:
        monitor.log("één 1")
        first = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d één 1\n", first)
    with Monitor(tmp_path) as monitor:
        monitor.log("epoch 2")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == first.rstrip("\n") and lines[1].endswith(" epoch 2") and len(lines) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("één 1\nepoch 2\n", "")


def test_bar_shows_the_readings(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Monitor(tmp_path) as monitor, monitor.bar(total=200, done=100, description="search") as bar:
        bar.show({"loss": 1.25, "accuracy": 0.5}, 321.4)
        bar.advance(50)
        bar.show({"loss": 1.0})
    shown = terminal.getvalue()
    assert "search" in shown and "step 100/200, loss 1.2500, accuracy 0.5000, 321 images/s" in shown
    assert "step 150/200, loss 1.0000, " in shown and " left" in shown


def test_bar_is_quiet_without_a_terminal(capsys):
    with Bar(total=10) as bar:
        bar.advance()
        bar.show({"loss": 1.0, "accuracy": 0.5}, 3.0)
    assert capsys.readouterr() == ("", "")


def test_log_line_stands_above_the_bar(tmp_path, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Monitor(tmp_path) as monitor, monitor.bar(total=2) as bar:
        bar.advance()
        monitor.log("a line")
    assert "a line" in capsys.readouterr().out
    assert "a line" not in terminal.getvalue()


def test_finite_readings_pass():
    check_finite(None, 100, "training loss")


def test_nan_stops_with_the_step_and_what_to_try():
    with pytest.raises(TrainingDiverged) as raised:
        check_finite(3, 100, "training loss")
    line = str(raised.value)
    assert line.startswith("step 103: the training loss is NaN or infinite; try a lower learning rate")
    assert "\n" not in line and "clipping" in line and "float32" in line


def test_peak_memory_of_the_process(monkeypatch):
    assert 10 < peak_memory_mb(torch.device("cpu")) < 200_000
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_memory_mb(torch.device("cpu")) == 3072.0  # in KiB
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory_mb(torch.device("cpu")) == 3.0  # in bytes


def test_peak_memory_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    assert peak_memory_mb(torch.device("cuda")) == 3.0


ACCURACY = Score.share("accuracy")


def test_without_conditions_nothing_stops():
    assert StopConditions(StopConfig(), ACCURACY).reason(1.0) is None


def test_target_accuracy():
    stop = StopConditions(StopConfig(score=0.9), ACCURACY)
    assert stop.reason() is None
    assert stop.reason(0.8999) is None
    assert stop.reason(float("nan")) is None
    assert stop.reason(0.9) == "validation accuracy 0.9000 has reached the target of 0.9"


def test_a_loss_falls_to_its_target():
    stop = StopConditions(StopConfig(score=0.4), LOSS)
    assert stop.reason() is None
    assert stop.reason(0.4001) is None and stop.reason(float("nan")) is None
    assert stop.reason(0.3) == "validation loss 0.3000 has reached the target of 0.4"


def test_hours(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stop = StopConditions(StopConfig(hours=0.5, score=0.9), ACCURACY)
    now[0] += 1799.0
    assert stop.reason(0.1) is None
    now[0] += 1.0
    assert stop.reason(0.1) == "the time of 0.5 hours is over"
    assert "accuracy" in (stop.reason(0.95) or "")


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_hours_out_of_range(hours):
    with pytest.raises(ValueError, match=r"^hours: must be positive, not "):
        StopConfig(hours=hours)


@pytest.mark.parametrize("target", [float("nan"), float("inf")])
def test_a_target_is_a_number(target):
    with pytest.raises(ValueError, match=r"^score: must be "):
        StopConfig(score=target)


@pytest.mark.parametrize(
    ("score", "refused", "taken", "said"),
    [
        (ACCURACY, [0.0, -0.1, 1.01, 97.0], [1e-9, 1.0], "above 0 and at most 1"),
        (LOSS, [], [-5.0, 0.0, 7.0], ""),
        (Score("error", larger_is_better=False, lowest=0), [-0.1], [0.0, 3.0], "at least 0"),
        (Score("r2", highest=1), [1.1], [1.0, -3.0], "at most 1"),
    ],
)
def test_a_target_is_a_value_of_the_score(score, refused, taken, said):
    for target in taken:
        StopConfig(score=target).check(score)
    StopConfig().check(score)
    for target in refused:
        with pytest.raises(FieldError, match=rf"^stop.score: {score.name} must be {said} to stop at, not {target}$"):
            StopConfig(score=target).check(score)
