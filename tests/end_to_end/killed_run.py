"""A server that runs a search or a retraining in a process of its own and kills that process at a chosen moment.

`test_kill.py` starts it. It imports everything once and forks for each request, before torch has computed anything, which takes
a fifth of a second where a new interpreter takes five. Each line on stdin is a request, each line on stdout the exit status of
the process that it led to, negative for a signal.
"""

import functools
import io
import json
import os
import re
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported here because whoever is forked would import them again and again.
import matplotlib.backends.backend_agg
import sklearn.datasets
import sklearn.model_selection
import torch
import torch.utils.tensorboard
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import base.files
import retrain.__main__
import retrain.trainer
import search.darts
import search.differentiable.trainer
from supernet.cell import MixedCell
from supernet.discrete import DiscreteCell
from training.run.checkpoint import Checkpoints
from training.run.monitor import Monitor
from training.vision import import_torchvision

import_torchvision()
import torchmetrics.classification  # noqa: E402  # after torchvision

assert matplotlib and sklearn and torchmetrics
PROGRAMS = {"search.darts": search.darts.main, "retrain": retrain.__main__.main}
SECONDS = 120  # after which a process that hangs is ended


class Moments:
    """Notes the moments that a run passes, each with the epoch that is running, and kills the process at the fatal one.

    An epoch runs from its first batch until its checkpoint is complete; -1 before the first one of the process.
    """

    def __init__(self, record: Path, fatal: tuple[str, int] | None) -> None:
        self.epoch = -1
        self._record = record
        self._fatal = fatal
        self._counts: Counter[str] = Counter()
        self._passed: list[tuple[str, int]] = []

    def passed(self, moment: str) -> None:
        """`fatal` is a moment and which one of that name, from 1."""
        self._counts[moment] += 1
        self._passed.append((moment, self.epoch))
        if self._fatal == (moment, self._counts[moment]):
            self.save()
            os.kill(os.getpid(), signal.SIGKILL)

    def save(self) -> None:
        self._record.write_text(json.dumps(self._passed))


def wrap(owner: Any, name: str, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None) -> None:
    """Replaces a function by one that calls `before` and `after` with the same arguments."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments, **options)
        result = original(*arguments, **options)
        if after is not None:
            after(*arguments, **options)
        return result

    setattr(owner, name, wrapped)


def watch(moments: Moments) -> None:
    """Makes everything that a run does pass by `moments`."""

    def passing(moment: str) -> Callable[..., None]:
        return lambda *_, **__: moments.passed(moment)

    def begin(trainer: object, epoch: int, *_: object) -> None:
        moments.epoch = epoch

    def end(*_: object) -> None:
        moments.epoch += 1

    def level(optimizer: torch.optim.Optimizer) -> str:
        return "alphas" if isinstance(optimizer, torch.optim.Adam) else "weights"

    for trainer in (search.differentiable.trainer.BilevelSearch, retrain.trainer.Retraining):
        wrap(trainer, "run_epoch", before=begin)
    wrap(Checkpoints, "save", after=end)

    def forward(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, MixedCell | DiscreteCell):
            moments.passed("cell forward")

    register_module_forward_hook(forward)
    wrap(torch.autograd, "grad", after=passing("architecture gradient"))

    def stepped(moment: str) -> None:
        # A checkpoint is compared with a twin of the optimiser, which takes a step before any epoch.
        if moments.epoch >= 0:
            moments.passed(moment)

    register_optimizer_step_pre_hook(lambda optimizer, *_: stepped(f"{level(optimizer)} before step"))
    register_optimizer_step_post_hook(lambda optimizer, *_: stepped(f"{level(optimizer)} after step"))
    wrap(Monitor, "flush", before=passing("curves unflushed"))
    watch_files(moments)


def watch_files(moments: Moments) -> None:
    """A file is half written, written (under its temporary name) and replaced (under its own).

    Between two halves of a write there is no seam, so that `write_atomically` is given a file that stops there.
    """

    def name_of(path: str | Path) -> str:
        name = re.sub(r"^\.(.*)\.[0-9a-f]{8}\.tmp$", r"\1", Path(path).name)
        return "checkpoint" if name.startswith("epoch_") else name

    class HalvedFile(io.FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            middle = len(content) // 2
            super().write(content[:middle])
            moments.passed(f"{name_of(self.name)} half written")
            super().write(content[middle:])
            return len(content)

    def open_halved(path: Any, mode: str, **options: Any) -> Any:
        return HalvedFile(path, mode) if mode == "xb" else open(path, mode, **options)

    base.files.open = open_halved  # type: ignore[attr-defined]  # in place of the built-in one
    wrap(
        os,
        "replace",
        before=lambda _, path: moments.passed(f"{name_of(path)} written"),
        after=lambda _, path: moments.passed(f"{name_of(path)} replaced"),
    )


def run(request: dict[str, Any]) -> int:
    """Runs in the forked process and returns the program's exit status, if it gets that far."""
    signal.alarm(SECONDS)
    with open(request["output"], "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    moments = Moments(Path(request["record"]), request["fatal"] and tuple(request["fatal"]))
    watch(moments)
    # Two thirds of the time of so small a run would go into its pictures.
    status = PROGRAMS[request["program"]](request["argv"], pictures=False)
    moments.save()
    return status


def serve() -> None:
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            status = 70
            try:
                status = run(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
