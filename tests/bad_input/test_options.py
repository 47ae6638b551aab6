"""Wrong options on the command line, and what --help says of the right ones."""

from collections.abc import Callable

import pytest

Refuse = Callable[..., str]
Run = Callable[..., int | str | None]
both = pytest.mark.parametrize("command", ["search.darts", "retrain"])


@both
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch=3"], "--epoch: no such option; did you mean --epochs?"),
        (["--data.lmit=3"], "--data.lmit: no such option; did you mean --data.limit?"),
        (["--data"], "--data: no such option; did you mean --data."),
        (["-x"], "-x: no such option"),
        (["runs/mine"], "unexpected argument 'runs/mine'; every option has a name that begins with --"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--run"], "--run: expected one argument"),
        (["--run="], "--run: is empty; name a directory"),
        (["--resume=yes"], "--resume: takes no value"),
        (["--epochs=three"], "epochs: must be a whole number, not three"),
        (["--epochs=2.5"], "epochs: must be a whole number, not 2.5"),
        (["--epochs=null"], "epochs: must be a whole number, not null"),
        (["--data.flip=maybe"], "data.flip: must be true or false, not maybe"),
        (["--weights.name=lion"], "weights.name: must be one of sgd, adam, adamw, adagrad, not lion"),
        (["--epochs=-1"], "epochs: must be at least 1, not -1"),
        (["--epochs", "-1"], "epochs: must be at least 1, not -1"),
        (["--batch_size=0"], "batch_size: must be at least "),
        (["--channels=0"], "channels: must be at least 1, not 0"),
        (["--cells=0"], "cells: must be at least 1, not 0"),
        (["--log_every=0"], "log_every: must be at least 1, not 0"),
        (["--threads=0"], "threads: must be at least 1, not 0"),
        (["--weights.lr=-1"], "weights.lr: must be above 0, not -1.0"),
        (["--weights.lr_min=2"], "weights.lr_min: must be from 0 to weights.lr = "),
        (["--weights.momentum=1"], "weights.momentum: must be from 0 to below 1, not 1.0"),
        (["--weights.weight_decay=-1"], "weights.weight_decay: must be at least 0, not -1.0"),
        (["--weights.clip=-1"], "weights.clip: must be at least 0, not -1.0"),
        (["--weights.lr=nan"], "weights.lr: must be a number, not nan"),
        (["--weights.lr=.inf"], "weights.lr: must be finite, not inf"),
        (["--stop.hours=-1"], "stop.hours: must be positive, not -1.0"),
        (["--stop.accuracy=2"], "stop.accuracy: must be a share above 0 and at most 1, not 2.0"),
        (["--data.name=mnist"], "data.name: unknown data set 'mnist'; known: cifar10, digits"),
        (["--data.limit=0"], "data.limit: must be at least 1 image, or null for all, not 0"),
        (["--data.limit=5000"], "data.limit: 5000 is more than the 1437 training images of digits"),
        (["--data.crop_padding=-1"], "data.crop_padding: must be 0 or more pixels, not -1"),
        (["--data.crop_padding=8"], "data.crop_padding: 8 pixels could hide all of an image of 8x8; use fewer"),
        (["--data.cutout=8"], "data.cutout: 8 pixels could hide all of an image of 8x8; use fewer"),
        (["--batch_size=65"], "batch_size: 65 is larger than the "),
        (["--device=tpu"], "device: 'tpu' cannot be used here; try auto or cpu"),
        (["--device=cuda:99"], "device: 'cuda:99' cannot be used here; try auto or cpu"),
        (["--device=meta"], "device: 'meta' cannot be used here; try auto or cpu"),
        (["--channels=1000000000"], "channels: must be at most 4096, not 1000000000"),
        (["--cells=1000000000"], "cells: must be at most 1000, not 1000000000"),
        ([f"--epochs={10**18}"], f"epochs: must be at most 1000000, not {10**18}"),
        ([f"--batch_size={10**30}"], f"batch_size: must be at most {2**31 - 1}, not {10**30}"),
        ([f"--data.limit={10**30}"], f"data.limit: {10**30} is more than the 1437 training images of digits"),
        ([f"--data.crop_padding={10**30}"], f"data.crop_padding: {10**30} pixels could hide all of an image of 8x8"),
        (["--threads=100000"], "threads: must be at most 1024, not 100000"),
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else "",
)
def test_options(refuse: Refuse, command: str, argv: list[str], message: str) -> None:
    assert refuse(command, *argv).startswith(message)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--space=dart", "space: unknown space 'dart'; known: darts, nasbench201"),
        ("--order=third", "order: must be one of first, second, not third"),
        ("--partial=3", "partial: 2 channels cannot be cut into 3 equal parts"),
        ("--train_fraction=0", "train_fraction: must lie between 0 and 1, both excluded, not 0.0"),
        ("--train_fraction=1", "train_fraction: must lie between 0 and 1, both excluded, not 1.0"),
        ("--train_fraction=0.001", "train_fraction: 0.001 of 64 images leaves one of the two parts empty"),
        ("--batch_size=33", "batch_size: 33 is larger than the 32 images it is taken from"),
        ("--validate_every=0", "validate_every: must be at least 1, not 0"),
        ("--hessian_epsilon=0", "hessian_epsilon: must be above 0, not 0.0"),
        ("--alphas.lr=-1", "alphas.lr: must be at least 0, not -1.0"),
        ("--alphas.beta1=1", "alphas.beta1: must be from 0 to below 1, not 1.0"),
    ],
)
def test_options_of_a_search(refuse: Refuse, option: str, message: str) -> None:
    assert refuse("search.darts", option) == message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--auxiliary_weight=-1", "auxiliary_weight: must be at least 0, not -1.0"),
        ("--drop_path=1", "drop_path: must be from 0 to below 1, not 1.0"),
        ("--validation_fraction=1", "validation_fraction: must be from 0 to below 1, not 1.0"),
        ("--validation_fraction=0.999", "validation_fraction: 0.999 of 64 images leaves a part empty"),
        ("--batch_size=1", "batch_size: must be at least 2, which batch norm needs, not 1"),
        ("--precision=float16", "precision: must be one of auto, float32, bfloat16, not float16"),
        ("--stop.accuracy=0.5", "stop.accuracy: needs images to validate on; hold some out with validation_fraction above 0"),
        ("--cells=2", "cells: the darts skeleton needs at least 3 cells, not 2"),
    ],
)
def test_options_of_retraining(refuse: Refuse, option: str, message: str) -> None:
    assert refuse("retrain", option) == message


def test_a_darts_search_needs_three_cells(refuse: Refuse) -> None:
    assert refuse("search.darts", "--space=darts", "--cells=2") == "cells: the darts skeleton needs at least 3 cells, not 2"


@both
def test_help_names_every_option_with_its_default(command: str, capsys: pytest.CaptureFixture[str], run: Run) -> None:
    assert run(command, "--print_config") == 0
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert run(command, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: python -m {command} [--config FILE_OR_NAME]")
    assert all(f"--{name}" in text for name in names) and len(names) > 10
    assert "Images a step" in text and "(a whole number; default: 0)" in text and "Literal" not in text
