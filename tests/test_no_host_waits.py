"""The whole steps of a search and of a retraining: nothing in them waits for the device, and in a CUDA graph they have the same
bits."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import random_images
from retrain.config import RetrainConfig
from retrain.trainer import Retraining
from search.differentiable import trainer as loop
from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.regularisers import RegulariserConfig
from search.differentiable.relaxations import RelaxationConfig
from search.differentiable.trainer import BilevelSearch
from supernet.genotypes.genotype import Genotype
from supernet.recompute import Recompute
from supernet.spaces.space import SPACES, SearchSpace, get_space, register_space
from training.graph import Capture, CudaCapture, new_capture
from training.hardware import Hardware
from training.images.data import DataConfig
from training.loop import Watch
from training.metrics import Batch
from training.optim import OptimizerConfig
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"


@pytest.fixture(autouse=True)
def attending() -> Iterator[None]:
    """A space whose candidates attend."""
    candidates = ("none", "skip_connect", "nor_conv_3x3", "se", "self_attention")
    with SPACES.temporarily():
        register_space(SearchSpace("attending", get_space("nasbench201").skeleton, 2, candidates, (2,)))
        yield


def new_search(path: Path, **settings: Any) -> BilevelSearch:
    size = {"space": "nasbench201", "channels": 2, "cells": 1, "batch_size": 16, "device": "cpu", "epochs": 4}
    size |= {"eigenvalue_every": 0}
    config = SearchConfig(**(size | {"data": DataConfig(limit=128)} | settings))
    hardware = Hardware.of(config, config.graph)
    return BilevelSearch(config, Classification.open(config.data, hardware), RunDirectory(path, config), hardware)


def new_retraining(**settings: Any) -> Retraining:
    size = {"channels": 4, "cells": 1, "batch_size": 16, "device": "cpu", "epochs": 4, "auxiliary_weight": 0.0}
    config = RetrainConfig(**(size | {"data": DataConfig(limit=100, crop_padding=1)} | settings))
    hardware = Hardware.of(config, config.graph)
    return Retraining(config, Genotype.parse(CONVOLUTIONS), Classification.open(config.data, hardware), hardware)


# Waiting for the device

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")
SIZES_BY_VALUE = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount")


class Waited(AssertionError):
    """Something would have made the host wait for a GPU."""


class NoReads(TorchFunctionMode):
    """Refuses methods that hand a tensor's values to Python, and lists as indices, which first have to get to the device."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        by_list = name == "__getitem__" and any(
            isinstance(index, list) for index in (arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],))
        )
        if name in READS or by_list:
            raise Waited(name)
        return function(*arguments, **(options or {}))


class NoWaits(TorchDispatchMode):
    """Refuses operations that need a value, or a size that depends on values, on the host."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        if by_mask or name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", *SIZES_BY_VALUE):
            raise Waited(name)
        return function(*arguments, **(options or {}))


@contextmanager
def waiting_refused() -> Iterator[None]:
    with NoReads(), NoWaits():
        yield


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values[0] > 0),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: values.tolist(),
        lambda values: torch.equal(values, values),
    ],
)
def test_a_wait_would_be_noticed(wait: Callable[[Tensor], object]) -> None:
    with pytest.raises(Waited), waiting_refused():
        wait(torch.ones(3))


@pytest.mark.parametrize("name", ["accuracy", "loss", "macro_recall", "macro_f1", "balanced_accuracy"])
def test_a_meter_of_every_score_counts_in_place_and_waits_for_nothing(name: str) -> None:
    task = Classification.of_images(DataConfig(), random_images(6, 4, classes=6), Hardware(torch.device("cpu")))
    task.scored_by = task.score_named(name)
    meter = task.new_meter("cpu")
    tensors = vars(meter) | meter._sums
    logits, labels = torch.randn(5, 6), torch.tensor([0, 1, 1, 4, 5])
    with waiting_refused():
        meter.update(torch.tensor(2.0), logits, Batch(logits, labels))
    assert all(value is tensors[key] for key, value in (vars(meter) | meter._sums).items())
    first = meter.read()
    assert task.score(first) == (-2.0 if name == "loss" else first.values[name])
    meter.reset()
    assert math.isnan(task.value(meter.read()))
    meter.update(torch.tensor(2.0), logits, Batch(logits, labels))
    assert meter.read() == first


SEARCHES: dict[str, dict[str, Any]] = {
    "first order": {},
    "second order": {"order": "second"},
    "second order, exact": {"order": "second", "hessian_vector": "exact"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, second order": {"order": "second", "precision": "bfloat16"},
    "bfloat16, second order, exact": {"order": "second", "hessian_vector": "exact", "precision": "bfloat16"},
    "bfloat16, darts": {"space": "darts", "cells": 3, "precision": "bfloat16"},
    "darts": {"space": "darts", "cells": 3},
    "darts, second order": {"space": "darts", "cells": 3, "order": "second"},
    "partial channels": {"space": "darts", "cells": 3, "channels": 4, "partial": 2},
    "a table for each cell": {"tie_cells": False, "order": "second"},
    "adam": {"weights": OptimizerConfig(name="adam")},
    "gumbel": {"relaxation": RelaxationConfig("gumbel", temperature_end=0.1)},
    "dirichlet": {"relaxation": RelaxationConfig("dirichlet"), "regulariser": RegulariserConfig("kl", weight=0.1)},
    "dirichlet, second order": {"relaxation": RelaxationConfig("dirichlet"), "order": "second"},
    "edge weights, partial channels": {"edge_normalization": True, "channels": 4, "partial": 2},
    "auxiliary skip": {"auxiliary_skip": 1.0},
    "regularised": {"regulariser": RegulariserConfig("beta", weight=1.0)},
    "one level": {"bilevel": False},
    "gumbel, one level": {"relaxation": RelaxationConfig("gumbel"), "bilevel": False},
    "excluded candidates": {"exclude": ["none", "avg_pool_3x3"]},
    "cells computed again": {"recompute": "cells"},
    "cells computed again, second order": {"recompute": "cells", "order": "second"},
    "attending": {"space": "attending"},
    "attending, second order, exact": {"space": "attending", "order": "second", "hessian_vector": "exact"},
}


SLOW = ("bfloat16, second order", "bfloat16, second order, exact", "bfloat16, darts", "darts, second order", "partial channels")
"""Both halves of each are variants of their own, which every run of the tests takes."""


@pytest.mark.parametrize("variant", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SEARCHES])
def test_a_search_step_never_waits_for_the_device(variant: str, tmp_path: Path) -> None:
    search = new_search(tmp_path, **SEARCHES[variant])
    if search.config.weights.name == "sgd":
        search.step.weight_optimizer.param_groups[0]["lr"] = torch.tensor(0.025)  # as on a GPU
    search.network.train()
    (batch, *_) = search.batches_of(0)
    before = copy.deepcopy(search.state_dict())
    for _ in range(2):
        with waiting_refused():
            search.graphed(*batch)
    assert search.meters["train"].read().count == 32
    assert search.meters["valid"].read().count == (32 if search.config.bilevel else 0)
    after = search.state_dict()
    assert not torch.equal(before["network"]["stem.0.weight"], after["network"]["stem.0.weight"])
    for part in ("alphas", "betas"):
        assert not any(torch.equal(before[part][kind], after[part][kind]) for kind in after[part])


def test_what_runs_one_operation_an_edge_is_not_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels differ from step to step, so that it needs no graph where others have one, and may not be told to."""
    captures: list[Capture | None] = []

    def on_a_gpu(wanted: bool | None, device: torch.device, *arguments: Any) -> None:
        captures.append(new_capture(wanted, torch.device("cuda"), *arguments))

    monkeypatch.setattr(CudaCapture, "__init__", lambda self, device: None)
    monkeypatch.setattr(loop, "new_capture", on_a_gpu)
    one_path = RelaxationConfig("straight_through")
    for relaxation in (one_path, RelaxationConfig("softmax")):
        new_search(tmp_path, relaxation=relaxation)
    assert [capture is None for capture in captures] == [True, False]
    with pytest.raises(ValueError, match=r"^graph: straight_through runs other operations in every step"):
        new_search(tmp_path, relaxation=one_path, graph=True)


@pytest.mark.parametrize(
    "settings",
    [{}, {"drop_path": 0.0}, {"precision": "bfloat16"}, {"weights": OptimizerConfig(name="adam")}, {"recompute": "cells"}],
)
def test_a_retraining_step_never_waits_for_the_device(settings: dict[str, Any]) -> None:
    trainer = new_retraining(**settings)
    trainer.network.train()
    (batch, *_) = trainer.train_batches.epoch(0)
    before = trainer.network.stem[0].weight.detach().clone()
    with waiting_refused():
        trainer.graphed(batch)
    assert trainer.meters["train"].read().count == 16
    assert not torch.equal(trainer.network.stem[0].weight, before)


# On a GPU


class Silent:
    """A monitor and a bar that show nothing."""

    def nothing(self, *_: object) -> None: ...

    scalars = text = figure = log = advance = show = nothing


def trained(trainer: BilevelSearch | Retraining) -> tuple[dict[str, Any], list[float]]:
    """State and losses after two epochs."""
    losses = []
    for epoch in range(2):
        torch.manual_seed(epoch)
        watch = Watch(Silent(), Silent(), trainer.device, trainer.meters, epoch, trainer.steps, 3)
        trainer.run_epoch(epoch, watch)
        losses += [meter.read().loss for meter in trainer.meters.values()]
    return trainer.state_dict(), losses


def assert_same_bits(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key], other[key])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_same_bits(*pair)
    else:
        assert one == other


GPU_SEARCHES: dict[str, dict[str, Any]] = {
    "darts": {"space": "darts", "cells": 3},
    "darts, second order": {"space": "darts", "cells": 3, "order": "second"},
    "nasbench201": {},
    "nasbench201, second order": {"order": "second"},
    "nasbench201, second order, exact": {"order": "second", "hessian_vector": "exact"},
    "adam": {"weights": OptimizerConfig(name="adam", lr=0.01)},
    "float32": {"precision": "float32"},
    "gumbel": {"relaxation": RelaxationConfig("gumbel", temperature_end=0.1)},
    "dirichlet": {"relaxation": RelaxationConfig("dirichlet"), "regulariser": RegulariserConfig("kl", weight=0.1)},
    "edge weights, partial channels": {"edge_normalization": True, "partial": 2},
    "auxiliary skip": {"auxiliary_skip": 1.0},
    "regularised": {"regulariser": RegulariserConfig("beta", weight=1.0, weight_end=2.0)},
    "one level": {"bilevel": False},
    "warm-up": {"alphas": AlphaConfig(warmup=0.25)},
    "cells computed again": {"space": "darts", "cells": 3, "recompute": "cells"},
    "cells computed again, second order": {"recompute": "cells", "order": "second"},
    "cells computed again in plain torch": {"recompute": "cells", "kernels": "reference"},
    "attending": {"space": "attending"},
    "attending, second order, exact": {"space": "attending", "order": "second", "hessian_vector": "exact"},
    "attending, cells computed again": {"space": "attending", "recompute": "cells"},
}


@pytest.fixture
def synchronisation_refused() -> Iterator[Callable[[], None]]:
    """Lets torch raise an error, from the call on, where it waits for the GPU."""
    try:
        yield lambda: torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("variant", GPU_SEARCHES)
def test_on_a_gpu_a_search_step_waits_for_nothing(
    variant: str, tmp_path: Path, synchronisation_refused: Callable[[], None]
) -> None:
    search = new_search(tmp_path, **({"device": "cuda", "channels": 16, "graph": False} | GPU_SEARCHES[variant]))
    search.network.train()
    (batch, *_) = search.batches_of(0)
    search.graphed(*batch)  # the first step makes tables and loads kernels
    synchronisation_refused()
    search.graphed(*batch)


@needs_gpu
def test_on_a_gpu_a_retraining_step_waits_for_nothing(synchronisation_refused: Callable[[], None]) -> None:
    trainer = new_retraining(device="cuda", graph=False)
    trainer.network.train()
    (batch, *_) = trainer.train_batches.epoch(0)
    trainer.graphed(batch)
    synchronisation_refused()
    trainer.graphed(batch)


@needs_gpu
@pytest.mark.parametrize("variant", GPU_SEARCHES)
def test_on_a_gpu_a_search_in_a_graph_has_the_same_bits(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = {"device": "cuda", "channels": 16} | GPU_SEARCHES[variant]
    with_graph, without = (new_search(tmp_path, graph=graph, **settings) for graph in (True, False))
    assert_same_bits(trained(with_graph), trained(without))
    assert with_graph.graphed._replay is not None and without.graphed._replay is None


@needs_gpu
@pytest.mark.parametrize("recompute", ["none", "cells"])
@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_on_a_gpu_a_retraining_in_a_graph_has_the_same_bits(
    drop_path: float, recompute: Recompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch is short; the second epoch drops paths."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = {"device": "cuda", "drop_path": drop_path, "recompute": recompute}
    with_graph, without = (new_retraining(graph=graph, **settings) for graph in (True, False))
    assert_same_bits(trained(with_graph), trained(without))
    assert with_graph.graphed._replay is not None and without.graphed._replay is None


@needs_gpu
@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_on_a_gpu_a_retraining_that_computes_cells_again_has_the_same_bits(
    drop_path: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    trainers = [new_retraining(device="cuda", drop_path=drop_path, recompute=recompute) for recompute in ("none", "cells")]
    assert_same_bits(*map(trained, trainers))


@needs_gpu
@pytest.mark.parametrize("variant", [{"space": "darts", "cells": 3}, {"order": "second"}, {"kernels": "reference"}], ids=str)
def test_on_a_gpu_a_search_that_computes_cells_again_has_the_same_bits(
    variant: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = {"device": "cuda", "channels": 16} | variant
    assert_same_bits(*(trained(new_search(tmp_path, recompute=recompute, **settings)) for recompute in ("none", "cells")))


@needs_gpu
def test_on_a_gpu_a_resumed_search_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state that a checkpoint holds is on the CPU; what is captured after it was loaded is on the GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    whole, half, rest = (new_search(tmp_path, device="cuda", channels=16, graph=True) for _ in range(3))

    def run(trainer: BilevelSearch, epoch: int) -> None:
        torch.manual_seed(epoch)
        trainer.run_epoch(epoch, Watch(Silent(), Silent(), trainer.device, trainer.meters, epoch, trainer.steps, 3))

    run(whole, 0)
    run(whole, 1)
    run(half, 0)
    torch.save(half.state_dict(), tmp_path / "state.pt")
    rest.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
    run(rest, 1)
    assert_same_bits(rest.state_dict(), whole.state_dict())
    assert rest.graphed._replay is not None
