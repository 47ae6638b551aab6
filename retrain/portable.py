"""A trained network as files that need nothing of this project: a torch.export program, or ONNX.

Either takes pixels as they are read from an image, divided by the format's scale; the normalisation
is inside. The batch may have any size, height and width are those of the training. Each file holds
a description for its users.
"""

import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from base.checks import InputError
from base.files import write_atomically
from base.seeds import new_generator
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from training.format import BYTE, ImageFormat

INPUT = "images"
DESCRIPTION_FILE = "model.json"
CHECKED_BATCHES = (1, 7)
LARGEST_DIFFERENCE = 1e-4
"""Difference between outputs of the network and of an exported file, for the same images, from which
on the file is refused: of logits, or of numbers in their standard deviations over the training
part."""
OPSET = 18
"""The oldest opset that torch's exporter is written for: more runtimes read it, and it suffices."""
IR_VERSION = 8
"""The version of ONNX's file format that came with `OPSET`."""
EXTRA = ("onnx", "onnxscript", "onnxruntime")
_OURS_TO_LOAD = ("aten", "prims")  # namespaces of the operations that torch itself defines

Model = Callable[[Tensor], Tensor]
"""A function of pixels divided by the scale, float32 [B, C, H, W], to logits, float32 [B, classes],
or to numbers in their own unit, float64 [B, numbers]."""


class PixelNetwork(nn.Module):
    """The network with its normalisation before it, and of numbers their own unit behind it:
    `Model` as a module, in evaluation mode, float32 on the CPU.

    It is a copy: the network itself stays as it is. The auxiliary head, which only training uses,
    is left out.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor | None
    spread: Tensor | None

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.network: DiscreteNetwork = copy.deepcopy(trained.network).float().cpu()
        self.network.auxiliary = None
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(trained.format, name))[:, None, None])
        values = trained.format.values
        centre, spread = (None, None) if values is None else values.tensors("cpu")
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.network((images - self.mean) / self.std)
        if self.centre is None or self.spread is None:
            return outputs
        # In float32 numbers far from zero would lose the digits that the network has predicted.
        return outputs.double() * self.spread + self.centre


def without_normalisation(form: ImageFormat) -> ImageFormat:
    """Returns the format of the same images as a `Model` takes them."""
    channels = form.shape[0]
    return replace(form, mean=(0.0,) * channels, std=(1.0,) * channels)


def describe(form: ImageFormat) -> dict[str, Any]:
    """Returns the description of an exported network for its users: input and answer, ready for
    JSON."""
    values = f"pixels from 0 to {form.scale:g}, divided by {form.scale:g}"
    if form.scale != BYTE:
        means = ", ".join(f"{mean:.6g}" for mean in form.mean)
        values = (
            f"{'pixels as they are' if form.scale == 1 else f'pixels divided by {form.scale:g}'} (mean in training: {means})"
        )
    depth = "" if form.bits is None else f"; of files of 16 bits the pixel is value * 255 / {2**form.bits - 1}"
    return {
        "input": {"name": INPUT, "type": "float32", "shape": ["batch", *form.shape], "axes": "batch, channel, row, column"},
        "preprocessing": f"{values}{depth}; mean and standard deviation are dealt with inside",
        **_described_output(form),
    }


def output_name(form: ImageFormat) -> str:
    """Returns the name of the output of an exported network."""
    return "logits" if form.values is None else "values"


def _described_output(form: ImageFormat) -> dict[str, Any]:
    output = {"name": output_name(form), "type": "float32", "shape": ["batch", len(form.class_names)]}
    if form.values is None:
        return {"output": output | {"probabilities": "softmax"}, "classes": list(form.class_names)}
    values = [
        {"name": name, "mean": mean, "std": std}
        for name, mean, std in zip(form.class_names, form.values.mean, form.values.std, strict=True)
    ]
    unit = "each number in its own unit, that of the training data, whose mean and standard deviation are given"
    return {"output": output | {"type": "float64", "unit": unit}, "values": values}


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    size: int
    """Size in bytes."""
    differences: dict[int, float]
    """Largest difference of an output from the network's, as `LARGEST_DIFFERENCE` has it, by the
    size of the batch."""
    model: Model
    """The model that was read back from it."""


def export_torch(trained: Trained, path: Path) -> Exported:
    """Writes the program that `torch.export.load` reads, with the description in its "model.json"
    (`extra_files`).

    Raises ValueError if an operation cannot be traced or is not torch's own, or if the program read
    back gives other outputs; then `path` is as before.
    """
    network = PixelNetwork(trained)
    program = _program(network, trained.format)
    foreign = _foreign_operations(program)
    if foreign:
        raise InputError(f"{foreign[0]} is no operation of torch's own: nobody else could load the program that calls it")
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={DESCRIPTION_FILE: json.dumps(describe(trained.format))})
    content = buffer.getvalue()
    with quiet():
        model = torch.export.load(io.BytesIO(content)).module()
    return _write(path, content, torch.no_grad()(model), trained.format, network)


def export_onnx(trained: Trained, path: Path) -> Exported:
    """Writes an ONNX file, weights inside, with the description as its metadata, each value in
    JSON.

    Raises ValueError if the packages of the extra are absent, an operation cannot be exported, or
    onnxruntime gives other outputs for the file; then `path` is as before.
    """
    require_extra("--format onnx")
    network = PixelNetwork(trained)
    content = _onnx_content(_program(network, trained.format), describe(trained.format), output_name(trained.format))
    return _write(path, content, onnx_model(content), trained.format, network)


def _write(path: Path, content: bytes, model: Model, form: ImageFormat, network: PixelNetwork) -> Exported:
    found = differences(network, model, form)
    for batch, difference in found.items():
        if not difference < LARGEST_DIFFERENCE:  # NaN neither
            unit = "" if form.values is None else " standard deviations"
            raise InputError(
                f"{path}: not written: its {output_name(form)} differ from the network's by up to {difference:.2g}{unit} at "
                f"batch {batch}, "
                f"where {LARGEST_DIFFERENCE:g} is allowed; an operation may be random, or the weights very large or not finite"
            )
    write_atomically(path, content)
    return Exported(path, len(content), found, model)


@torch.no_grad()
def differences(first: Model, second: Model, form: ImageFormat) -> dict[int, float]:
    """Returns the largest difference between the outputs of two models for random images, in the
    unit of `LARGEST_DIFFERENCE`, by the size of the batch."""
    found = {}
    for batch in CHECKED_BATCHES:
        images = _random_images(batch, form)
        apart = (first(images) - second(images)).abs()
        found[batch] = (apart if form.values is None else apart / form.values.tensors("cpu")[1]).max().item()
    return found


def _random_images(count: int, form: ImageFormat) -> Tensor:
    """Returns random images: of all values if pixels are bytes, else spread as the training images
    are."""
    generator = new_generator("images to check an export with")
    if form.scale == BYTE:
        return torch.rand(count, *form.shape, generator=generator)
    mean, std = (torch.tensor(values)[:, None, None] for values in (form.mean, form.std))
    return mean + std * torch.randn(count, *form.shape, generator=generator)


@torch.no_grad()
def _program(network: PixelNetwork, form: ImageFormat) -> torch.export.ExportedProgram:
    # A batch of 1 would be taken for a constant.
    images = _random_images(2, form)
    with _explained("torch.export"):
        program = torch.export.export(network, (images,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}})
    for module in _graphs(program):
        for node in module.graph.nodes:
            # Lines of source with their paths would be half of the file
            # (findings/onnx_export_source_lines.sh), and are private.
            node.meta.pop("stack_trace", None)
    return program


def _graphs(program: torch.export.ExportedProgram) -> Iterator[torch.fx.GraphModule]:
    return (module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule))


def _foreign_operations(program: torch.export.ExportedProgram) -> list[str]:
    """Returns the operations that a process knows only after importing their package."""
    calls = (node.target for module in _graphs(program) for node in module.graph.nodes if node.op == "call_function")
    return sorted(
        {
            f"{call.namespace}::{call._opname}"
            for call in calls
            if isinstance(call, torch._ops.OpOverload) and call.namespace not in _OURS_TO_LOAD
        }
    )


def _onnx_content(program: torch.export.ExportedProgram, description: Mapping[str, Any], output: str) -> bytes:
    with _explained("ONNX"):
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=OPSET, input_names=[INPUT], output_names=[output]
        )
        assert exported is not None
        model = exported.model_proto
    import onnx

    model.ir_version = IR_VERSION
    graph = model.graph
    # Notes on the source of each node are larger than the weights of a small network.
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.producer_name = "fusenas"
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in description.items()})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def onnx_model(content: bytes) -> Model:
    """Returns the model that onnxruntime runs on the CPU for an ONNX file of that content, with as
    many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # shows errors alone
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def model(images: Tensor) -> Tensor:
        (outputs,) = session.run(None, {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(outputs)

    return model


def require_extra(what: str) -> None:
    """Raises ValueError if `what` needs a package that is not installed."""
    absent = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(f"{what} needs {', '.join(absent)}: pip install 'fusenas[export]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences notes of torch, onnxscript and onnxruntime for their developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns any error inside into a ValueError with its first line: tracing a user's own operation
    may raise anything."""
    try:
        with quiet():
            yield
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"the network cannot be exported to {what}: {first.strip()}") from error
