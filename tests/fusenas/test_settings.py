"""Tests of fusenas/settings.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fusenas.settings import DataSummary, FitConfig, suitable
from retrain.config import RetrainConfig
from search.differentiable.config import SearchConfig
from search.methods import METHODS, get_method, list_methods, register_method
from training.images.data import DataConfig, stratified

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CIFAR10 = DataSummary((5000,) * 10, 3, 32, True)


def chosen(summary: DataSummary, on: torch.device = CPU, **settings: Any) -> tuple[Any, RetrainConfig]:
    return suitable(FitConfig("x", **settings), DataConfig(), summary, on)


def test_full_effort_is_darts_as_published() -> None:
    search, retraining = chosen(CIFAR10, effort="full")
    assert (search.channels, search.cells, search.epochs, search.batch_size) == (16, 8, 50, 64)
    assert (search.weights.lr, search.alphas.lr) == (0.025, pytest.approx(3e-4, rel=0.02))
    published = RetrainConfig()
    for name in ("epochs", "batch_size", "drop_path", "auxiliary_weight"):
        assert getattr(retraining, name) == getattr(published, name)
    assert (retraining.channels, retraining.cells) == (36, 20)
    assert (retraining.data.crop_padding, retraining.data.flip, retraining.data.cutout) == (4, True, 16)


@pytest.mark.parametrize("images", [16, 40, 100, 500, 2000, 60_000, 1_000_000])
@pytest.mark.parametrize("effort", ["quick", "normal", "full"])
def test_any_number_of_images_gets_steps_enough(images: int, effort: Any) -> None:
    search, retraining = chosen(DataSummary((images // 2,) * 2, 3, 32, True), effort=effort)
    for config, share, most in ((search, 0.5, 50), (retraining, 1, 600)):
        part = int(share * (config.data.limit or images))
        assert 2 <= config.batch_size <= part <= images
        assert 3 <= config.epochs <= most
        assert config.epochs * (part // config.batch_size) >= min(100, 5 * most)
    assert 3e-4 <= search.alphas.lr <= 0.07
    if effort == "quick":
        steps = search.epochs * (int(0.5 * (search.data.limit or images)) // search.batch_size)
        assert steps <= 1.2 * 200 or search.epochs == 5


def test_a_gpu_gets_more_to_do() -> None:
    on_cpu, on_gpu = chosen(CIFAR10), chosen(CIFAR10, GPU)
    assert on_cpu[1].channels < on_gpu[1].channels
    assert on_gpu[1] == chosen(CIFAR10, effort="normal")[1]


@pytest.mark.parametrize(
    ("summary", "effort", "size", "stem"),
    [
        (DataSummary((9, 9), 1, 8, True), "quick", None, "cifar"),
        (DataSummary((9, 9), 3, 12, False), "normal", 16, "cifar"),
        (DataSummary((9, 9), 3, 70, False), "normal", 64, "cifar"),
        (DataSummary((9, 9), 3, 400, False), "normal", 96, "imagenet"),
        (DataSummary((9, 9), 3, 400, False), "full", 224, "imagenet"),
    ],
)
def test_the_size_suits_images_and_effort(summary: DataSummary, effort: Any, size: int | None, stem: str) -> None:
    for config in chosen(summary, effort=effort):
        assert (config.data.size, config.stem) == (size, stem)
        assert config.data.resize == (None if stem == "cifar" else round(size * 8 / 7) if size else None)


def test_a_quick_search_looks_at_smaller_images() -> None:
    for asked, side, expected in ((None, 400, (16, 32)), (None, 28, (16, 24)), (48, 400, (16, 48)), (12, 400, (12, 12))):
        search, retraining = chosen(DataSummary((9, 9), 3, side, False), effort="quick", size=asked)
        assert (search.data.size, retraining.data.size) == expected
    search, retraining = chosen(DataSummary((9, 9), 3, 32, True), effort="quick")
    assert (search.data.size, retraining.data.size) == (16, None)


def test_rare_classes_are_weighed() -> None:
    assert chosen(DataSummary((100, 30), 3, 32, True))[1].data.class_weights == "balanced"
    assert chosen(DataSummary((100, 40), 3, 32, True))[1].data.class_weights == "none"


@pytest.mark.parametrize("counts", [(60_000, 60_000, 10), (1200, 1200, 2), (5000, 5000, 5000, 30), (20_000, 20)])
def test_a_quick_search_leaves_out_no_class(counts: tuple[int, ...]) -> None:
    data = chosen(DataSummary(counts, 3, 32, True), effort="quick")[0].data
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    limit = data.limit or len(labels)
    kept = labels[stratified(labels, limit, torch.Generator().manual_seed(0))].bincount(minlength=len(counts))
    assert limit <= 4 * 2560
    assert kept.all()
    # A single image must not outweigh all others.
    assert data.class_weights == ("balanced" if kept.min() > 1 else "none")
    if limit < 4 * 2560:
        assert kept.min() >= min(8, min(counts))


def test_of_a_class_that_is_rarer_still_nothing_is_asked() -> None:
    search, retraining = chosen(DataSummary((500_000, 500_000, 1), 3, 32, True), effort="quick")
    assert (search.data.limit, search.data.class_weights) == (4 * 2560, "none")
    assert (retraining.data.limit, retraining.data.class_weights) == (None, "balanced")


def test_a_grey_folder_has_one_channel_and_is_not_mirrored() -> None:
    for name, channels, gray in (("folder", 1, True), ("folder", 3, False), ("npz", 1, False)):
        for config in suitable(FitConfig("x"), DataConfig(name), DataSummary((90, 90), channels, 28, True), CPU):
            assert (config.data.gray, config.data.flip) == (gray, channels == 3)  # type: ignore[attr-defined]


def test_images_of_a_pixel_are_not_cropped() -> None:
    assert [config.data.crop_padding for config in chosen(DataSummary((9, 9), 1, 1, True))] == [0, 0]


def test_what_is_asked_for_is_taken() -> None:
    search, retraining = chosen(
        CIFAR10, effort="normal", size=48, flip=False, seed=7, threads=1, device="cpu", random_genotypes=2
    )
    for config in (search, retraining):
        assert (config.data.size, config.data.flip, config.seed, config.threads, config.device) == (48, False, 7, 1, "cpu")
    assert retraining.random_genotypes == 2
    assert not chosen(DataSummary((9, 9), 1, 28, True))[1].data.flip


@pytest.mark.parametrize("method", list_methods())
def test_every_method_can_be_chosen(method: str) -> None:
    search, _ = chosen(CIFAR10, method=method)
    assert search.channels % getattr(search, "partial", 1) == 0
    assert search.cells == 3


def test_a_method_of_ones_own_can_be_chosen() -> None:
    mine = replace(get_method("darts"), name="mine", defaults=lambda: SearchConfig(order="second"))
    with METHODS.temporarily():
        register_method(mine)
        assert chosen(CIFAR10, method="mine")[0].order == "second"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "method: unknown method 'best'"),
        ({"size": 3}, "size: must be from 4 to 4096 pixels, or null, not 3"),
        ({"random_genotypes": -1}, "random_genotypes: must be from 0 to 1000, not -1"),
        ({"threads": 0}, "threads: must be at least 1, not 0"),
        ({"effort": "bogus"}, "effort: must be one of auto, quick, normal, full, not bogus"),
        ({"export": "ONNX"}, "export: must be one of none, torch_export, onnx, not ONNX"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}"):
        FitConfig("x", **settings)


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match=r"^data: 12 images to train on are too few; give at least 16"):
        chosen(DataSummary((6, 6), 3, 32, True))


def test_a_class_without_images() -> None:
    with pytest.raises(ValueError, match=r"^data: class 1, counted from 0, has no image to train on$"):
        chosen(DataSummary((20, 0, 20), 3, 32, True))


@pytest.mark.parametrize("score", [None, "balanced_accuracy", "loss"])
def test_both_runs_have_the_score_that_is_asked_for(score: str | None) -> None:
    configs = suitable(FitConfig("x", score=score), DataConfig(), DataSummary((90, 90), 1, 28, True), CPU)
    assert [config.score for config in configs] == [score, score]
