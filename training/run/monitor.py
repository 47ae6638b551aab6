"""The display of a run (TensorBoard, a log, a progress bar) and the conditions that stop it."""

import resource
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from base.checks import FieldError, at_least
from base.files import naming_errors, open_to_append
from base.texts import escape, show
from training.metrics import Score
from training.run.command import RESUME, TrainingDiverged, foreseen, stop_of
from training.run.ownership.files import LOG_FILE, record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Monitor:
    """Writes TensorBoard events and log.txt into the directory of a run, and lines and bars to the
    terminal."""

    def __init__(self, directory: Path, first_step: int = 0) -> None:
        """`first_step` is the first step of this process; events of an earlier one from there on
        are taken back."""
        from torch.utils.tensorboard import summary  # slow to import

        from training.run.events import EventFile

        self._summary = summary
        record(directory, LOG_FILE)
        self._log_path = directory / LOG_FILE
        self._log = open_to_append(self._log_path)
        self._events = EventFile(directory, first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to the curve of each tag."""
        for tag, value in values.items():
            self._events.add(self._summary.scalar(tag, value), step)

    def histograms(self, step: int, values: Mapping[str, torch.Tensor]) -> None:
        """Adds the distribution of the finite numbers of a tensor, in 64 bins, to the histograms of
        each tag."""
        for tag, tensor in values.items():
            if (finite := tensor[tensor.isfinite()]).numel():
                self._events.add(self._summary.histogram(tag, finite.double().cpu().numpy(), bins=64), step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Adds a text, shown as it is (indented, so that TensorBoard's Markdown keeps its
        lines)."""
        lines = "\n".join(f"    {escape(line)}" for line in text.splitlines())
        self._events.add(self._summary.text(tag, lines), step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Adds a matplotlib figure as an image."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import

        # pyplot would look for a screen.
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
        self._events.add(self._summary.image(tag, pixels, dataformats="HWC"), step)

    def log(self, line: str) -> None:
        """Writes a line, escaped, to log.txt, with the time, and to the terminal, above the bar."""
        line = escape(line)
        self._note(line)
        tqdm.write(line, file=sys.stdout)

    def _note(self, line: str) -> None:
        with naming_errors(self._log_path):
            print(datetime.now().isoformat(sep=" ", timespec="seconds"), line, file=self._log, flush=True)

    def bar(self, total: int, done: int = 0, description: str = "") -> "Bar":
        """Returns a progress bar over `total` steps of which `done` are behind; it shows nothing
        unless stderr is a terminal."""
        return Bar(total, done, description)

    def flush(self) -> None:
        """Writes all events to the disk: call it before a checkpoint, so that a killed run has the
        curves up to there."""
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes all files."""
        try:
            self._events.close()
        finally:
            with naming_errors(self._log_path):
                self._log.close()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, KeyboardInterrupt):
                self._note(f"{stop_of(error)}; {RESUME}")
            elif isinstance(error, Exception):
                self._keep(error)
            self.close()
        except OSError:
            # The error that ended the run says more than a failure to write the last lines.
            if error is None:
                raise

    def _keep(self, error: Exception) -> None:
        """Writes the line that ends the run to the log; of an error of ours the traceback, and into
        the error where it is."""
        end = foreseen(error)
        if end is not None:
            self._note(f"error: {end.message}")
            return
        print(*traceback.format_exception(error), sep="", end="", file=self._log, flush=True)
        error.add_note(f"its traceback is in {self._log_path}")


class Bar:
    """A progress bar with step, loss, score, images/s and remaining time.

    Close it, or use it in `with`.
    """

    def __init__(self, total: int, done: int = 0, description: str = "", of: str = "step") -> None:
        """`of` is the word for what there are `total` of."""
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=escape(description),
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format=f"{{desc}} {{percentage:3.0f}}%|{{bar}}| {of} {{n_fmt}}/{{total_fmt}}{{postfix}}, {{remaining}} left",
        )

    def advance(self, steps: int = 1) -> None:
        """Moves the bar by `steps` steps."""
        self._bar.update(steps)

    def show(self, values: Mapping[str, float], images_per_second: float | None = None) -> None:
        """Shows the latest readings by name, such as loss and accuracy."""
        readings = [f"{escape(name)} {value:.4f}" for name, value in values.items()]
        if images_per_second is not None:
            readings.append(f"{images_per_second:.0f} images/s")
        self._bar.set_postfix_str(", ".join(readings))

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class StopConfig:
    """Conditions under which a run ends before its last epoch."""

    hours: float | None = None
    """Stop after this many hours of wall-clock time, counted anew for each process (null: no
    limit). The epoch that runs then is finished, and the first one always is."""
    score: float | None = None
    """Stop when the score on the validation data, in its own units, is at least as good as this
    value: an accuracy is a share in 0..1, and a loss falls to it (null: no target)."""

    def __post_init__(self) -> None:
        if self.hours is not None and not self.hours > 0:
            raise FieldError("hours", f"must be positive, not {show(self.hours)}")
        at_least(0, self, "hours", most=1e6)
        at_least(-1e15, self, "score", most=1e15)

    def check(self, score: Score) -> None:
        """Raises FieldError, of a configuration's field `stop`, where the target is no value that
        the score can come to."""
        if self.score is not None and not score.is_target(self.score):
            raise FieldError("stop.score", f"{score.words} must be {score.targets} to stop at, not {show(self.score)}")


class StopConditions:
    """A watch over a `StopConfig`; its clock starts when it is made."""

    def __init__(self, config: StopConfig, score: Score) -> None:
        """`score` is the one that the target is a value of."""
        self._config = config
        self._score = score
        self._started = time.monotonic()

    def reason(self, value: float | None = None) -> str | None:
        """Returns the reason to stop now, in words, or None to go on.

        `value` is the latest score on the validation data, in its own sign.
        """
        config, score = self._config, self._score
        if config.score is not None and value is not None and score.reaches(value, config.score):
            return f"validation {score.words} {value:.4f} has reached the target of {config.score}"
        if config.hours is not None and time.monotonic() - self._started >= config.hours * 3600:
            return f"the time of {config.hours} hours is over"
        return None


def check_finite(first_bad_step: int | None, step0: int, what: str) -> None:
    """Raises if the readings since the global step `step0` hold a NaN or an infinity.

    `first_bad_step` is its index among them, None if all are finite. `what` names the readings:
    "training loss".

    Raises:
        TrainingDiverged: there is one. The message has, in one line, the global step and a way out.
    """
    if first_bad_step is not None:
        raise TrainingDiverged(
            f"step {step0 + first_bad_step}: the {what} is NaN or infinite; try a lower learning rate, gradient clipping or "
            "float32; the last good checkpoint is kept"
        )


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak memory in MiB: PyTorch's allocations on a GPU, elsewhere the resident memory
    of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB on Linux
