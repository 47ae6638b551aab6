"""Wrong options on the command line, and what --help says of the right ones."""

from collections.abc import Callable

import pytest

from search.differentiable.method import DifferentiableMethod
from search.methods import get_method, list_methods

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
        (["--profile"], "--profile: expected one argument"),
        (["--profile="], "--profile: is empty; name a directory"),
        (["--profile=/dev/null"], "--profile /dev/null: is a file; name a directory"),
        (["--run=runs/one", "--profile=runs/one/trace"], "--profile runs/one/trace: is in the directory of the run, runs/one"),
        (["--profile=/dev/null/trace", "--data.limit=200", "--batch_size=64"], "/dev/null/trace: Not a directory"),
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
        (["--recompute=all"], "recompute: must be one of none, cells, not all"),
        (["--recompute="], "recompute: must be one of none, cells, not "),
        (["--log_every=0"], "log_every: must be at least 1, not 0"),
        (["--histograms_every=-1"], "histograms_every: must be from 0 to a million, not -1"),
        (["--histograms_every=often"], "histograms_every: must be a whole number, not often"),
        (["--threads=0"], "threads: must be at least 1, not 0"),
        (["--weights.lr=-1"], "weights.lr: must be above 0, not -1.0"),
        (["--weights.lr_min=2"], "weights.lr_min: must be from 0 to weights.lr = "),
        (["--weights.momentum=1"], "weights.momentum: must be from 0 to below 1, not 1.0"),
        (["--weights.weight_decay=-1"], "weights.weight_decay: must be at least 0, not -1.0"),
        (["--weights.clip=-1"], "weights.clip: must be at least 0, not -1.0"),
        (["--weights.lr=nan"], "weights.lr: must be a number, not nan"),
        (["--weights.lr=.inf"], "weights.lr: must be finite, not inf"),
        (["--stop.hours=-1"], "stop.hours: must be positive, not -1.0"),
        (["--score=acuracy"], "score: unknown score 'acuracy'; did you mean accuracy? the task has accuracy, loss, "),
        (["--score="], "score: unknown score ''; the task has accuracy, loss, macro_recall, macro_f1, balanced_accuracy"),
        (["--stop.score=nan"], "stop.score: must be a number or null, not nan"),
        (
            ["--data.name=imagenet"],
            "data.name: unknown data set 'imagenet'; known: cifar10, cifar100, digits, fashion_mnist, folder, mnist, npz, svhn",
        ),
        (["--data.limit=0"], "data.limit: must be at least 1 image, or null for all, not 0"),
        (["--data.limit=5000"], "data.limit: 5000 is more than the 1437 training images of digits"),
        (["--data.crop_padding=-1"], "data.crop_padding: must be 0 or more pixels, not -1"),
        (["--data.crop_padding=8"], "data.crop_padding: 8 pixels could hide all of an image of 8x8; use fewer"),
        (["--data.cutout=8"], "data.cutout: 8 pixels could hide all of an image of 8x8; use fewer"),
        (["--data.size=3"], "data.size: must be from 4 to 4096 pixels, or null for images as they are, not 3"),
        (["--data.size=0"], "data.size: must be from 4 to 4096 pixels, or null for images as they are, not 0"),
        (["--data.size=big"], "data.size: must be a whole number"),
        ([f"--data.size={10**30}"], f"data.size: must be from 4 to 4096 pixels, or null for images as they are, not {10**30}"),
        (["--data.size=4", "--data.cutout=4"], "data.cutout: 4 pixels could hide all of an image of 4x4; use fewer"),
        (
            ["--data.size=4", "--data.crop_padding=6"],
            "data.crop_padding: 6 pixels could hide all of an image of 4x4; use fewer",
        ),
        (["--batch_size=65"], "batch_size: 65 is larger than the "),
        (["--device=tpu"], "device: 'tpu' cannot be used here; try auto or cpu"),
        (["--device=cuda:99"], "device: 'cuda:99' cannot be used here; try auto or cpu"),
        (["--device=meta"], "device: 'meta' cannot be used here; try auto or cpu"),
        (["--channels=1000000000"], "channels: must be at most 4096, not 1000000000"),
        (["--cells=1000000000"], "cells: must be at most 1000, not 1000000000"),
        ([f"--epochs={10**18}"], f"epochs: must be at most 1000000, not {10**18}"),
        ([f"--batch_size={10**30}"], f"batch_size: must be at most {2**31 - 1}, not {10**30}"),
        ([f"--data.limit={10**30}"], f"data.limit: must be at most {2**31 - 1}, not {10**30}"),
        ([f"--data.crop_padding={10**30}"], f"data.crop_padding: must be at most 4096, not {10**30}"),
        (["--threads=100000"], "threads: must be at most 1024, not 100000"),
        (["--device=privateuseone"], "device: 'privateuseone' cannot be used here; try auto or cpu"),
        (["--device=cpu:999"], "device: 'cpu:999' cannot be used here; try auto or cpu"),
        (["--device=cuda:256"], "device: 'cuda:256' cannot be used here; try auto or cpu"),
        (["--device=mkldnn"], "device: 'mkldnn' cannot be used here; try auto or cpu"),
        (['--seed=!!int ""'], 'seed: must be a whole number, not !!int "" (tags (!name) are not read here; '),
        (["--epochs=010"], "epochs: must be a whole number, not 010 (a number has decimal digits alone and no leading zero; "),
        ([f"--seed={10**30}"], f"seed: must be at most {2**63 - 1}, not {10**30}"),
        (["--seeds=1,x"], "--seeds: must be whole numbers with commas between them, such as 0,1,2, not '1,x'"),
        (["--seeds=1,01"], "--seeds: must be whole numbers with commas between them, such as 0,1,2, not '1,01'"),
        ([f"--seeds={10**300}"], f"--seeds: must be at most {2**63 - 1}, not 1000"),
        ([f"--seeds={2000 * '1,'}"], "--seeds: must be at most 1000 whole numbers, not 1,1,1,"),
        (["--weights.lr=1e300", "--weights.name=adagrad"], "weights.lr: must be at most 1000, not 1e+300"),
        (["--weights.lr=1e-300"], "weights.lr: must be at least 1e-12, not 1e-300"),
        ([f"--weights.lr={400 * '9'}"], "weights.lr: must be at most 1.8e308, not 9999"),
        (["--data.root=a\0b"], "data.root: holds a zero byte, which no path or file takes, in a\\x00b"),
        (["--data.root=a\udcff"], "data.root: holds bytes that are no text in UTF-8, in a\\udcff; take another name"),
        (["--run=a\0b"], "--run: holds a zero byte"),
        (["--config=a\0b"], "--config: holds a zero byte"),
        ([f"--{'x' * 5000}"], "--xxx"),
        ([f"--config={'x' * 5000}"], f"{'x' * 295} ... {'x' * 80}: File name too long"),
        (["x" * 5000], "unexpected argument 'xxx"),
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
        ("--partial=3", "partial: 2 channels cannot be cut into equal parts by each of [3]; set other channels or other parts"),
        ("--train_fraction=0", "train_fraction: must lie between 0 and 1, both excluded, not 0.0"),
        ("--train_fraction=1", "train_fraction: must lie between 0 and 1, both excluded, not 1.0"),
        ("--train_fraction=0.001", "train_fraction: 0.001 of 64 images leaves one of the two parts empty"),
        ("--batch_size=33", "batch_size: 33 is larger than the number of images, 32"),
        ("--validate_every=0", "validate_every: must be at least 1, not 0"),
        ("--hessian_epsilon=0", "hessian_epsilon: must be above 0, not 0.0"),
        ("--alphas.lr=-1", "alphas.lr: must be at least 0, not -1.0"),
        ("--alphas.beta1=1", "alphas.beta1: must be from 0 to below 1, not 1.0"),
        ("--alphas.scale=-1", "alphas.scale: must be at least 0, not -1.0"),
        ("--alphas.warmup=1", "alphas.warmup: must be from 0 to below 1, not 1.0"),
        ("--alphas.update=newton", "alphas.update: must be one of gradient, shapley, not newton"),
        ("--shapley.permutations=0", "shapley.permutations: must be at least 1, not 0"),
        ("--shapley.batch=0", "shapley.batch: must be at least 1, not 0"),
        ("--shapley.stop=1.5", "shapley.stop: must be from 0 to 1, not 1.5"),
        ("--shapley.stop=-0.5", "shapley.stop: must be from 0 to 1, not -0.5"),
        ("--shapley.stop=nan", "shapley.stop: must be a number, not nan"),
        ("--shapley.momentum=1", "shapley.momentum: must be from 0 to below 1, not 1.0"),
        ("--shapley.step=-1", "shapley.step: must be at least 0, not -1.0"),
        ("--eigenvalue_every=-1", "eigenvalue_every: must be from 0 (never) to a million, not -1"),
        ("--auxiliary_skip=-0.5", "auxiliary_skip: must be from 0 to 1000, not -0.5"),
        ("--bilevel=perhaps", "bilevel: must be true or false, not perhaps"),
        (
            "--relaxation.name=sparsemax",
            "relaxation.name: unknown relaxation 'sparsemax'; known: softmax, gumbel, straight_through, dirichlet",
        ),
        ("--relaxation.temperature=0", "relaxation.temperature: must be above 0, not 0.0"),
        ("--relaxation.temperature_end=-1", "relaxation.temperature_end: must be above 0, not -1.0"),
        ("--regulariser.name=l1", "regulariser.name: unknown regulariser 'l1'; known: none, beta, kl"),
        ("--regulariser.weight=-1", "regulariser.weight: must be at least 0, not -1.0"),
        ("--regulariser.name=beta", "regulariser: takes a name and a weight (or weight_end) above 0, or neither"),
        ("--regulariser.weight=1", "regulariser: takes a name and a weight (or weight_end) above 0, or neither"),
        ("--stages.keep=[2]", "stages: keep and partial need one number each a further stage, not [2] and []"),
        ("--stages.keep=2", "stages.keep: must be a list, each entry a whole number, not 2"),
        (
            "--exclude=[sep_conv_3x3]",
            "exclude: space nasbench201 has none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3, not 'sep_conv_3x3'",
        ),
        (
            f"--exclude={3000 * '['}",
            f"exclude: must be a list, each entry text, not {37 * '['} ... {37 * '['} "
            "(lists and mappings are nested more than 20 deep)",
        ),
        ("--relaxation.temperature=1e308", "relaxation.temperature: must be at most 10000.0, not 1e+308"),
        ("--relaxation.temperature=1e-300", "relaxation.temperature: must be at least 0.0001, not 1e-300"),
        ("--regulariser.weight=1e308", "regulariser.weight: must be at most 1000000.0, not 1e+308"),
        ("--hessian_epsilon=1e-300", "hessian_epsilon: must be at least 1e-12, not 1e-300"),
        ("--alphas.beta2=0.99999999", "alphas.beta2: must be at most 0.999999, not 0.99999999"),
        (
            "--exclude=[skip_connect,nor_conv_1x1,nor_conv_3x3,avg_pool_3x3]",
            "exclude: nothing is left of space nasbench201 but none",
        ),
        ("--selection.name=oracle", "selection.name: must be one of strength, perturbation, not oracle"),
        ("--selection.tune_epochs=0", "selection.tune_epochs: must be from 1 to 1000, not 0"),
        ("--early_stop.when=often", "early_stop.when: must be one of never, skips, eigenvalue, either, not often"),
        ("--early_stop.skip_share=2", "early_stop.skip_share: must be a share from 0 to 1, not 2.0"),
        ("--early_stop.ratio=0.5", "early_stop.ratio: must be at least 1, not 0.5"),
        ("--early_stop.window=0", "early_stop.window: must be at least 1, not 0"),
        ("--early_stop.start=-1", "early_stop.start: must be a share from 0 to 1, not -1.0"),
    ],
)
def test_options_of_a_search(refuse: Refuse, option: str, message: str) -> None:
    assert refuse("search.darts", option) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stages.keep=[2,3]", "--stages.partial=[1,1]"], "stages.keep: each stage prunes, so numbers fall, not [2, 3]"),
        (["--stages.keep=[0]", "--stages.partial=[1]"], "stages.keep: numbers from 1 to 4096, not [0]"),
        (["--stages.keep=[2]", "--stages.partial=[0]"], "stages.partial: numbers from 1 to 4096, not [0]"),
        (["--stages.keep=[2]", "--stages.partial=[3]"], "partial: 2 channels cannot be cut into equal parts by each of "),
        (["--stages.keep=[2]", "--stages.partial=[2]"], "stages.partial: a stage widens or leaves it, so numbers fall or "),
        (["--partial=2", "--stages.keep=[5]", "--stages.partial=[1]"], "stages.keep: [5] prunes none of the 5 candidates in "),
        (
            ["--partial=2", "--stages.keep=[1]", "--stages.partial=[1]", "--selection.name=perturbation"],
            "stages.keep: 1 leaves perturbation nothing to choose; ",
        ),
        (["--auxiliary_skip=1", "--relaxation.name=straight_through"], "auxiliary_skip: straight_through runs one operation "),
        (["--auxiliary_skip=1", "--exclude=[skip_connect]"], "auxiliary_skip: it is the weight of skip_connect, which is no "),
        (
            ["--auxiliary_skip=1", "--partial=2", "--stages.keep=[2]", "--stages.partial=[1]"],
            "auxiliary_skip: stages would prune skip ",
        ),
        (["--regulariser.name=kl", "--regulariser.weight=1"], "regulariser.name: kl compares Dirichlet distributions; set "),
        (["--bilevel=false", "--order=second"], "order: second looks from the validation loss through a step on the training "),
        (
            ["--alphas.update=shapley", "--relaxation.name=straight_through"],
            "alphas.update: shapley takes candidates out of a ",
        ),
        (["--alphas.update=shapley", "--edge_normalization=true"], "edge_normalization: weights of edges follow the gradient"),
        (
            ["--alphas.update=shapley", "--regulariser.name=beta", "--regulariser.weight=1"],
            "regulariser.name: beta adds to the gradient, which alphas.update shapley does not take; set it to none, or set ",
        ),
        (["--alphas.update=shapley", "--order=second"], "order: second is a way to the gradient, which alphas.update shapley "),
        (
            ["--alphas.update=shapley", "--bilevel=false"],
            "bilevel: false says that alphas follow the gradient of the training ",
        ),
        (["--graph=true", "--relaxation.name=straight_through"], "graph: straight_through runs other operations in every "),
        (["--early_stop.when=skips", "--selection.name=perturbation"], "early_stop.when: perturbation selects after the last "),
        (["--early_stop.when=skips", "--exclude=[skip_connect]"], "early_stop.when: skip_connect is no candidate here; take "),
        (["--early_stop.when=either", "--eigenvalue_every=0"], "early_stop.when: needs the eigenvalue; set eigenvalue_every "),
        (
            ["--early_stop.when=eigenvalue", "--eigenvalue_every=1"],
            "early_stop.when: 9 readings of the eigenvalue are compared",
        ),
        (["--tabular=table.csv", "--space=darts", "--cells=3"], "tabular: it has cells of NAS-Bench-201, not of space "),
        (["--stop.score=2"], "stop.score: accuracy must be above 0 and at most 1 to stop at, not 2.0"),
        (["--score=loss", "--stop.score=-1"], "stop.score: loss must be at least 0 to stop at, not -1.0"),
        (["--score=macro_f1", "--stop.score=0"], "stop.score: macro F1 must be above 0 and at most 1 to stop at, not 0.0"),
        (["--tabular=table.csv"], "tabular: table.csv: no such file; name a benchmark table, a CSV file or one in gzip"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_of_a_search_that_do_not_go_together(refuse: Refuse, options: list[str], message: str) -> None:
    assert refuse("search.darts", *options).startswith(message)


@pytest.mark.parametrize("method", list_methods(DifferentiableMethod))
def test_every_method_refuses_what_it_does_not_know(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        get_method(method).main(["--relaxation.name=sparsemax"])
    message = f"search.{method}: error: relaxation.name: unknown relaxation 'sparsemax'; known: "
    err = capsys.readouterr().err
    assert err.startswith(message) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--auxiliary_weight=-1", "auxiliary_weight: must be at least 0, not -1.0"),
        ("--drop_path=1", "drop_path: must be from 0 to below 1, not 1.0"),
        ("--validation_fraction=1", "validation_fraction: must be from 0 to below 1, not 1.0"),
        ("--validation_fraction=0.999", "validation_fraction: 0.999 of 64 images leaves a part empty"),
        ("--batch_size=1", "batch_size: must be at least 2, which batch norm needs, not 1"),
        ("--precision=float16", "precision: must be one of auto, float32, bfloat16, not float16"),
        ("--stop.score=0.5", "stop.score: needs images to validate on; hold some out with validation_fraction above 0"),
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
