"""An ONNX file in int8, by onnxruntime's static quantisation after training.

Weights become int8, one scale a channel; activations uint8, between the smallest and the largest
value that the calibration images give. Weights use 7 of their 8 bits: the instruction by which CPUs
without VNNI multiply adds two products in 16 bits, which is too little for products of 8 bits, and
the file is to be as good on any CPU.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from base.files import write_atomically
from retrain.portable import INPUT, Exported, differences, onnx_model, quiet, require_extra
from training.format import ImageFormat


def quantise(exported: Exported, path: Path, calibration: Iterable[Tensor], form: ImageFormat) -> Exported:
    """Writes the ONNX file `exported`, of a network for images of format `form`, in int8 to `path`,
    with the same metadata.

    `calibration` are batches of training images as an exported network takes them. The differences
    of the result are from the outputs of `exported`. Raises ValueError if the packages of the extra
    are absent.
    """
    require_extra("--int8")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as directory, quiet():
        result = Path(directory, "int8.onnx")
        quantize_static(
            exported.path,
            result,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        content = result.read_bytes()
    model = onnx_model(content)
    found = differences(exported.model, model, form)
    write_atomically(path, content)
    return Exported(path, len(content), found, model)


class _Reader:
    """Batches in the way that onnxruntime asks for them; its own base class does no more."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches: Iterator[Tensor] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.contiguous().numpy()}
