"""Memory comes back when nothing uses it, and not before."""

import gc
import os

import pytest
import torch

from ops.native.memory import PAGE, Memory

LARGE = (3, PAGE // 8)


def test_memory_is_used_again_when_its_tensor_is_gone() -> None:
    memory = Memory()
    first = memory.empty(LARGE, torch.float32)
    place = first.data_ptr()
    other = memory.empty(LARGE, torch.float32)
    assert other.data_ptr() != place
    view = first[1]
    del first
    gc.collect()
    third = memory.empty(LARGE, torch.float32)
    assert third.data_ptr() != place, "a view keeps it"
    del view
    gc.collect()
    assert memory.empty((PAGE // 8 * 3 // 2,), torch.float64).data_ptr() == place


def test_a_forked_process_writes_to_memory_of_its_own() -> None:
    tensor = Memory().empty(LARGE, torch.float32).numpy()
    tensor[:] = 1
    child = os.fork()
    if not child:
        tensor[:] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (tensor == 1).all()


def test_a_saved_tensor_keeps_its_memory() -> None:
    memory = Memory()
    weight = memory.empty(LARGE, torch.float32).fill_(2.0)
    leaf = torch.ones(LARGE, requires_grad=True)
    result = (leaf * weight).sum()
    del weight
    gc.collect()
    memory.empty(LARGE, torch.float32).fill_(5.0)
    result.backward()
    assert leaf.grad is not None and (leaf.grad == 2).all()


def test_no_more_is_kept_than_was_in_use() -> None:
    memory = Memory()
    tensors = [memory.empty((PAGE // 4 * number,), torch.float32) for number in (1, 2, 9, 20)]
    del tensors
    gc.collect()
    assert memory.bytes_kept() == 32 * PAGE
    large = memory.empty((PAGE // 4 * 31,), torch.float32)
    assert large.numel() == PAGE // 4 * 31 and memory.bytes_kept() == PAGE, "what does not fit goes back to the system"
    del large
    gc.collect()
    assert memory.bytes_kept() == 32 * PAGE


def test_without_memory_torch_says_so() -> None:
    with pytest.raises(RuntimeError, match="allocate"):
        Memory().empty((2**50,), torch.float32)


def test_tensors_are_what_was_asked_for() -> None:
    memory = Memory()
    for shape in ((2, 3), (0, 5), LARGE):
        for dtype in (torch.float32, torch.float64, torch.uint8):
            tensor = memory.empty(shape, dtype)
            assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
