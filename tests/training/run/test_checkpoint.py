"""Tests of training/run/checkpoint.py."""

import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.run.checkpoint import Checkpoints
from training.run.structure import anything


def a_state() -> dict:
    """Returns the state that a loop saves, and more: all data types, layouts, an optimiser with a state, random states."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.999)),
    ]
    for _ in range(2):
        model(torch.randn(2, 3, 5, 5)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    whole = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
    broken = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.get_rng_state(),
        "whole": {str(dtype): torch.randint(0, 2, (3, 2)).to(dtype) for dtype in whole},
        "broken": {str(dtype): torch.randn(3, 2).to(dtype) for dtype in broken},
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "transposed": torch.randn(3, 4).t(),
        "images": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "empty": torch.empty(0, 3),
        "plain": [None, True, 3, 0.1, "é", (1, 2.5), {"a": {1: "b"}}],
    }


def assert_same(first: object, second: object) -> None:
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert (first.dtype, first.shape, first.stride()) == (second.dtype, second.shape, second.stride())
        assert first.requires_grad == second.requires_grad
        kept, read = first.detach().contiguous(), second.detach().contiguous()
        assert torch.equal(kept.view(-1).view(torch.uint8), read.view(-1).view(torch.uint8))
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path, header={"kind": "search", "config_hash": "0123456789ab"})


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in (directory / "checkpoints").iterdir())


def test_round_trip_is_exact(checkpoints, tmp_path):
    state = a_state()
    assert checkpoints.save(12, state) == tmp_path / "checkpoints" / "epoch_0012.pt"
    epoch, back = checkpoints.latest()
    assert epoch == 12
    assert_same(back, state)


def test_shared_storage_stays_shared(checkpoints):
    weight = torch.randn(4)
    checkpoints.save(1, {"a": weight, "b": weight})
    _, state = checkpoints.latest()
    assert state["a"].data_ptr() == state["b"].data_ptr()


def test_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for epoch in (1, 2, 9, 10, 9999, 10000):
        checkpoints.save(epoch, {"epoch": epoch})
        assert checkpoints.latest() == (epoch, {"epoch": epoch})
    assert names(tmp_path) == ["epoch_10000.pt", "epoch_9999.pt"]
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_saving_an_epoch_again_replaces_it(checkpoints, tmp_path):
    checkpoints.save(1, {"x": 1})
    checkpoints.save(1, {"x": 2})
    assert checkpoints.latest() == (1, {"x": 2})
    assert names(tmp_path) == ["epoch_0001.pt"]


def test_leftovers_of_a_killed_write_are_cleaned_up(checkpoints, tmp_path):
    checkpoints.save(1, {"x": 1})
    (tmp_path / "checkpoints" / ".epoch_0002.pt.0123abcd.tmp").write_bytes(b"fusenas")
    (tmp_path / "checkpoints" / "epoch_best.pt").write_bytes(b"mine")
    checkpoints.save(2, {"x": 2})
    assert names(tmp_path) == ["epoch_0001.pt", "epoch_0002.pt", "epoch_best.pt"]


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.float64(0.5), r"state\['x'\]: is a float64"),
        ([1, np.zeros(2)], r"state\['x'\]\[1\]: is a ndarray"),
        ({"deep": (random.Random(0),)}, r"state\['x'\]\['deep'\]\[0\]: is a Random"),
        ({(1, (2,)): 3}, r"state\['x'\]: the key \(1, \(2,\)\) is a tuple"),
        (Path("x"), "PosixPath"),
        (torch.nn.ReLU(), "ReLU"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(checkpoints, tmp_path, value, where):
    with pytest.raises(TypeError, match=where):
        checkpoints.save(1, {"x": value})
    assert not (tmp_path / "checkpoints").exists()


DAMAGED = r"epoch_0002\.pt: .*; --resume goes on from an earlier one$"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoints, share):
    checkpoints.save(1, {"x": 1})
    path = checkpoints.save(2, a_state())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=DAMAGED):
        checkpoints.latest()
    epochs, state, (skipped,) = checkpoints.last_good(lambda epochs: anything)
    assert (epochs, state) == (1, {"x": 1}) and skipped.startswith(f"{path}: ")


def test_what_was_skipped_drives_no_good_one_out(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 8, 9):
        path = checkpoints.save(epoch, {"x": epoch})
        if epoch > 1:
            path.write_bytes(b"damaged")
        else:
            good = path.read_bytes()
    (tmp_path / "checkpoints" / "epoch_0001.pt").write_bytes(good)
    epochs, _, skipped = checkpoints.last_good(lambda epochs: anything)
    assert epochs == 1 and len(skipped) == 2
    for epoch in (2, 3):
        checkpoints.save(epoch, {"x": epoch})
    assert names(tmp_path) == ["epoch_0002.pt", "epoch_0003.pt", "epoch_0008.pt", "epoch_0009.pt"]
    assert checkpoints.last_good(lambda epochs: anything)[:2] == (3, {"x": 3})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_refused(checkpoints, data):
    checkpoints.save(1, {"x": 1})
    path = checkpoints.save(2, {"x": torch.zeros(3), "y": "text"})
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=DAMAGED):
        checkpoints.latest()


@pytest.mark.parametrize("kind", ["text", "torch", "pickle"])
def test_a_foreign_file_is_refused_and_never_unpickled(checkpoints, tmp_path, kind):
    path = tmp_path / "checkpoints" / "epoch_0001.pt"
    path.parent.mkdir()
    if kind == "text":
        path.write_text("hello\n")
    elif kind == "torch":
        torch.save({"state": {}}, path)
    else:
        path.write_bytes(f"cos\nmkdir\n(S'{tmp_path / 'witness'}'\ntR.".encode())
    with pytest.raises(ValueError, match=r"epoch_0001\.pt: not a checkpoint of this program; put back"):
        checkpoints.latest()
    assert not (tmp_path / "witness").exists()


def test_another_runs_checkpoint_is_refused(checkpoints, tmp_path):
    checkpoints.save(1, {"x": 1})
    with pytest.raises(ValueError, match=r"of another run \(kind search, not retrain\)"):
        Checkpoints(tmp_path, header={"kind": "retrain", "config_hash": "0123456789ab"}).latest()
    with pytest.raises(ValueError, match=r"of another run \(config_hash 0123456789ab, not ba9876543210\)"):
        Checkpoints(tmp_path, header={"kind": "search", "config_hash": "ba9876543210"}).latest()
    (tmp_path / "checkpoints" / "epoch_0001.pt").rename(tmp_path / "checkpoints" / "epoch_0007.pt")
    with pytest.raises(ValueError, match="the file was renamed, it holds epoch 1"):
        checkpoints.latest()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_one(checkpoints, tmp_path, monkeypatch, function):
    checkpoints.save(1, {"x": 1})
    checkpoints.save(2, {"x": 2})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(OSError, match="No space left on device") as raised:
            checkpoints.save(3, {"x": 3})
    assert raised.value.filename == str(tmp_path / "checkpoints" / "epoch_0003.pt")
    assert names(tmp_path) == ["epoch_0001.pt", "epoch_0002.pt"]
    assert checkpoints.latest() == (2, {"x": 2})


def test_a_write_that_the_system_refuses_leaves_the_last_good_one(tmp_path):
    """The system has a real limit on the size of files, in a process of its own."""
    script = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from training.run.checkpoint import Checkpoints\n"
        "from training.run.command import command\n"
        "checkpoints = Checkpoints(Path(sys.argv[1]))\n"
        "checkpoints.save(1, {'x': 1})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.exit(command('program', lambda: checkpoints.save(2, {'x': torch.zeros(100_000)})))\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
    assert (done.returncode, done.stderr) == (2, f"program: error: {tmp_path}/checkpoints/epoch_0002.pt: File too large\n")
    assert names(tmp_path) == ["epoch_0001.pt"]
    assert Checkpoints(tmp_path).latest() == (1, {"x": 1})
