"""Tests of training/run/structure.py; tests/bad_input/test_checkpoints.py has those of whole states."""

import warnings

import pytest
import torch
from torch import Tensor

from base.checks import InputError
from training.run.structure import like


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it a prototype
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3), "a tensor float32 [3]"),
        (torch.zeros(2, dtype=torch.int64), "a tensor int64 [2]"),
        (torch.zeros(2).to_sparse(), "a sparse tensor"),
        (nested(), "a nested tensor"),
        (torch.zeros(2, device="meta"), "a tensor float32 [2] without values, on meta"),
    ],
    ids=["shape", "type", "sparse", "nested", "meta"],
)
def test_a_tensor_that_is_another_is_told_from_the_one_needed(value: Tensor, said: str) -> None:
    with pytest.raises(InputError) as caught:
        like({"weight": torch.zeros(2)})("network", {"weight": value})
    assert str(caught.value) == f"network.weight: is {said}, where a tensor float32 [2] is needed"
