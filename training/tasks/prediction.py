"""The answers of a trained network for images that have no labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn

from base.checks import InputError, check_whole
from training.format import ImageFormat, Layout, Resizing
from training.hardware import Hardware, move_to
from training.images.inputs import Inputs, PixelReader

_ANSWERS = 3  # the most probable classes


@dataclass(frozen=True)
class Answers:
    """The outputs of a network for some images, one after the other."""

    names: Sequence[str]
    """Path of each image, or its place in an array."""
    outputs: Tensor
    """Outputs, float32 [n, outputs], on the CPU; NaN for images without an answer."""
    faults: Mapping[int, str]
    """Why an image has no answer, in one line, by its place among the n."""


def answer(
    network: nn.Module,
    reader: PixelReader,
    inputs: Inputs,
    hardware: Hardware,
    batch_size: int = 256,
    workers: int | None = None,
) -> Iterator[Answers]:
    """Moves `network` to the device and yields its answers for all inputs in their order, as it
    computes them: what waits in memory are a few batches.

    Raises InputError for a network that answers with NaN.
    """
    move_to(network, hardware.device)
    network.eval()
    run = hardware.running(network)

    def outputs_of(pixels: Tensor) -> Tensor:
        images = reader.form.normalised(pixels.to(hardware.device)).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return run(images).float().cpu()

    width = _width(outputs_of(_mean_image(reader)))
    for part in inputs.read(reader, batch_size, workers):
        found = torch.full((len(part.names), width), torch.nan)
        readable = [place for place in range(len(part.names)) if place not in part.faults]
        faults = dict(part.faults)
        if readable:
            outputs = outputs_of(part.pixels)
            finite = outputs.isfinite().all(1)
            outputs[~finite] = torch.nan
            found[readable] = outputs
            for place in (~finite).nonzero()[:, 0].tolist():
                faults[readable[place]] = "the network answers with NaN or infinity"
        yield Answers(part.names, found, faults)


def _mean_image(reader: PixelReader) -> Tensor:
    """Returns a batch of one image whose pixels are the means of the training images."""
    mean = torch.tensor(reader.form.mean)[:, None, None] * reader.form.scale
    return mean.expand(1, *reader.shape)


def _width(outputs: Tensor) -> int:
    """Returns the number of outputs [1, outputs]."""
    if outputs.ndim != 2:
        raise InputError(f"the network has outputs of shape {list(outputs.shape[1:])}, which are no row of numbers")
    if not outputs.isfinite().all():
        raise InputError("gives outputs that are NaN or infinite; the training had diverged")
    return outputs.shape[1]


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    name: str
    """Path of the image, or its place in an array: FILE#0."""
    answers: tuple[tuple[str, float], ...]
    """Of a classifier names and probabilities of the most probable classes, three at most; of
    another network names and values of its outputs; empty without an answer."""
    error: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, eq=False)
class Predictions(Sequence[Prediction]):
    """The answers of a network for N images; a sequence of `Prediction`."""

    names: tuple[str, ...]
    """Path of each image, or its place in an array."""
    outputs: Tensor
    """Of a classifier the probability of each class, of another network its outputs, numbers in
    the unit of the data; float64 [N, outputs] on the CPU, NaN for an image without an answer."""
    output_names: tuple[str, ...]
    """Name of each class, or of each output."""
    is_classifier: bool
    errors: Mapping[int, str]
    """Why an image has no answer, in one line, by its place."""

    @classmethod
    def of(cls, form: ImageFormat, is_classifier: bool, parts: Iterator[Answers]) -> "Predictions":
        """Gathers the answers of a network; the outputs of a classifier are logits."""
        names: list[str] = []
        found: list[Tensor] = []
        errors: dict[int, str] = {}
        for part in parts:
            errors |= {len(names) + place: fault for place, fault in part.faults.items()}
            names += part.names
            outputs = part.outputs.double()
            if is_classifier:
                outputs = outputs.softmax(1)
            elif form.values is not None:
                outputs = form.values.restored(outputs)
            found.append(outputs)
        return cls(tuple(names), torch.cat(found), form.class_names, is_classifier, errors)

    @property
    def classes(self) -> Tensor:
        """Returns the number of the most probable class of each image, int64 [N]; -1 without an
        answer.

        Raises ValueError for a network that is no classifier.
        """
        if not self.is_classifier:
            raise InputError("the network is no classifier; its outputs are numbers")
        found = self.outputs.argmax(1)
        found[list(self.errors)] = -1
        return found

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Prediction]: ...

    def __getitem__(self, place: int | slice) -> Prediction | Sequence[Prediction]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        if place in self.errors:
            return Prediction(self.names[place], (), self.errors[place])
        values = self.outputs[place]
        order = list(range(len(values)))
        if self.is_classifier:
            order = values.sort(descending=True, stable=True).indices[:_ANSWERS].tolist()
        return Prediction(self.names[place], tuple((self.output_names[one], float(values[one])) for one in order))


def predict(
    network: nn.Module,
    form: ImageFormat,
    resizing: Resizing,
    is_classifier: bool,
    images: object,
    hardware: Hardware,
    batch_size: int = 256,
    workers: int | None = None,
    layout: Layout = "auto",
) -> Predictions:
    """Returns the answers of a network for images that are read as those of `form` were; see
    `retrain.weights.Trained.predict`."""
    check_whole("batch_size", batch_size)
    reader = PixelReader(form, resizing)
    parts = answer(network, reader, Inputs.of(images, reader, layout), hardware, batch_size, workers)
    return Predictions.of(form, is_classifier, parts)
