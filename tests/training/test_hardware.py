"""What a network computes in."""

import pytest
import torch
from torch import nn

from training.hardware import Precision, autocast


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32), ("auto", torch.float32)]
)
def test_the_precision_is_that_of_the_convolutions(precision: Precision, dtype: torch.dtype) -> None:
    network = nn.Conv2d(1, 4, 3)
    with autocast(precision, torch.device("cpu")):
        assert network(torch.randn(2, 1, 8, 8)).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="auto is another type on a GPU")
def test_on_a_gpu_auto_is_bfloat16() -> None:
    network = nn.Conv2d(1, 4, 3).cuda()
    with autocast("auto", torch.device("cuda")):
        assert network(torch.randn(2, 1, 8, 8, device="cuda")).dtype == torch.bfloat16
