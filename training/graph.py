"""A training step as one CUDA graph: captured once, replayed for every later batch.

A step starts thousands of kernels that take microseconds each, more than the host can start in the
time that a GPU takes to run them. A graph is one start for all of them.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from base.checks import FieldError
from base.texts import one_line
from training.optim import CAPTURABLE, OptimizerName

WARM_UP = 3
"""Number of steps before one is captured, in which optimisers make their state and libraries and
kernels load."""

Call = Callable[[], None]


class Capture(Protocol):
    """The way that steps get into a graph."""

    def run(self, call: Call) -> None:
        """Runs `call` as it is, on the stream on which it will be recorded."""

    def record(self, call: Call) -> Call:
        """Records the work of `call` without running it, and returns a function that runs it.

        Raises RuntimeError if that cannot be done.
        """


class CudaCapture:
    """Runs and records on a stream of its own, as torch asks for."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._aborted: torch.cuda.CUDAGraph | None = None

    def run(self, call: Call) -> None:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            call()
        current.wait_stream(self._stream)

    def record(self, call: Call) -> Call:
        with torch.cuda.device(self._stream.device):
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            random_state = generator.clone_state()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=self._stream):
                    call()
            except RuntimeError:
                # An aborted capture leaves behind a generator that refuses to be drawn from, and an
                # allocator that still refers to the graph.
                generator.graphsafe_set_state(random_state)
                self._aborted = graph
                raise
        return graph.replay


class GraphedStep:
    """A function `step` of tensors on the device as a CUDA graph; without `capture` it is just
    called.

    The first steps run as they are. The next is captured with its batch in static buffers and
    replayed; each later batch is copied into the buffers and the graph is replayed. Every batch is
    trained on once. A batch of other shapes, as the short last one of an epoch, runs without the
    graph; several such in a row are captured anew in its place.

    With and without a graph the same bits come out: the same kernels run in the same order on the
    same numbers, and torch's generator hands a replay the random numbers that it would have handed
    the step, new ones each time. (Operations of torch that add by atomics differ between any two
    runs.) What `step` does on the host happens at the capture alone: all that changes between steps
    is a tensor on the device that is changed in place. After anything else has changed, such as a
    parameter's or an optimiser's tensors, call `release`.
    """

    def __init__(self, step: Callable[..., None], capture: Capture | None) -> None:
        self._step = step
        self._capture = capture
        self.release()

    def release(self) -> None:
        """Forgets the graph and its memory; the next steps are a new warm-up."""
        self._replay: Call | None = None
        self._buffers: tuple[Tensor, ...] = ()
        self._latest: tuple[torch.Size, ...] = ()
        self._in_a_row = 0

    def __call__(self, *batch: Tensor | tuple[Tensor, ...]) -> None:
        """One step on the tensors of `batch`, of which some may be together in (named) tuples."""
        if self._capture is None:
            self._step(*batch)
            return
        tensors, structure = tree_flatten(batch)
        shapes = tuple(tensor.shape for tensor in tensors)
        if self._replay is not None and shapes == tuple(buffer.shape for buffer in self._buffers):
            self._in_a_row = 0
            for buffer, tensor in zip(self._buffers, tensors, strict=True):
                buffer.copy_(tensor, non_blocking=True)
            self._replay()
            return
        self._in_a_row = self._in_a_row + 1 if shapes == self._latest else 1
        self._latest = shapes
        if self._in_a_row <= WARM_UP:
            self._capture.run(partial(self._step, *batch))
        else:
            self._record(self._capture, tensors, structure)

    def _record(self, capture: Capture, tensors: list[Tensor], structure: TreeSpec) -> None:
        self.release()
        buffers = tuple(tensor.clone() for tensor in tensors)
        try:
            replay = capture.record(partial(self._step, *tree_unflatten(buffers, structure)))
        except RuntimeError as error:
            warnings.warn(f"no CUDA graph, every step is started kernel by kernel: {_reason(error)}", stacklevel=3)
            self._capture = None
            self._step(*tree_unflatten(tensors, structure))
            return
        self._replay, self._buffers = replay, buffers
        replay()


def new_capture(
    wanted: bool | None, device: torch.device, optimizer: OptimizerName, same_each_step: bool = True
) -> Capture | None:
    """Returns the way to capture steps on `device` with that optimiser; None if they run without a
    graph.

    `same_each_step` says that every step starts the same kernels. With `wanted` None steps are
    captured if they can be. Raises ValueError if a graph is wanted and cannot be had.
    """
    obstacle = None
    if device.type != "cuda":
        obstacle = f"the device {device} has no CUDA graphs"
    elif optimizer not in CAPTURABLE:
        obstacle = f"a step of {optimizer} cannot be captured; take one of {', '.join(CAPTURABLE)}"
    elif not same_each_step:
        obstacle = "the operations that run differ from step to step"
    if wanted and obstacle:
        raise FieldError("graph", f"{obstacle}; null uses one where that can be done")
    return None if obstacle or wanted is False else CudaCapture(device)


def _reason(error: BaseException) -> str:
    """Returns the first error: ending a capture that an error has broken raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return one_line(error)
