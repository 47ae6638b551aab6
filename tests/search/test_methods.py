"""Every published method in every space: a whole search, its resume to the bit, and the defaults that its paper has."""

import itertools
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import search
from base.checks import InputError
from search.differentiable.config import SearchConfig
from search.differentiable.early_stop import EarlyStopConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.schedule import SupernetSchedule
from search.differentiable.selection import Perturbation, SelectionConfig
from search.differentiable.steps import Steps
from search.differentiable.trainer import new_architecture
from search.history import SamplingEpoch, SamplingRound, SearchEpoch
from search.methods import get_method, list_methods, register_method
from search.sampling.method import SamplingMethod
from supernet import Genotype, get_space
from supernet import Path as CellPath
from training.run.checkpoint import Checkpoints
from training.run.config import config_from_file, parse_command_line, shipped_configs

METHODS = list_methods(DifferentiableMethod)
Same = Callable[[Any, Any], None]

# One step an epoch. Channels of DrNAS can be cut into 6 parts.
SIZE: dict[str, Any] = {
    "batch_size": 8, "epochs": 2, "channels": 4, "data.limit": 16, "device": "cpu", "selection.tune_epochs": 1,
    "eigenvalue_every": 2,
}  # fmt: skip
OF_METHOD: dict[str, dict[str, Any]] = {
    "drnas": {"channels": 12, "epochs": 4},
    "darts_pt": {"epochs": 1},
    # The second epoch goes on with the moving average of the first.
    "shapley": {"alphas.warmup": 0, "shapley.permutations": 2},
}
# Of the four candidates that its defaults leave there, DrNAS has to prune one.
OF_BOTH: dict[tuple[str, str], dict[str, Any]] = {("drnas", "nasbench201"): {"stages.keep": [3]}}
OF_SPACE: dict[str, dict[str, Any]] = {
    "darts": {"cells": 3, "exclude": ["none", "sep_conv_5x5", "dil_conv_5x5"], "eigenvalue_every": 0},
    "nasbench201": {"cells": 1},
}


def options(method: str, space: str) -> list[str]:
    """A search that takes a second or two."""
    settings = {"space": space} | SIZE | OF_SPACE[space] | OF_METHOD.get(method, {}) | OF_BOTH.get((method, space), {})
    return [f"--{name}={value}" for name, value in settings.items()]


def state_of(run: Path) -> dict[str, Any]:
    """All that the newest checkpoint holds."""
    found = Checkpoints(run).latest()
    assert found is not None
    return {"epoch": found[0], **found[1]}


def epochs_to_kill(method: str, space: str) -> list[int]:
    """Epochs, from 0, in which a search is killed; it goes on from the end of the one before.

    With DrNAS before and after the new stage has begun; with DARTS-PT before the last decision and, where it takes no time,
    before the first.
    """
    if method == "darts_pt":
        return [*([1] if space == "nasbench201" else []), Perturbation(get_space(space), 0).rounds]
    return [2, 3] if method == "drnas" else [1]


def copy_in_steps(patch: pytest.MonkeyPatch, run: Path, copies: dict[int, Path]) -> None:
    """Before each of these steps, from 0 over the whole run, the run's files are copied: what a kill at that moment leaves."""
    steps = itertools.count()
    take = Steps.__call__

    def copied(self: Steps, *batch: torch.Tensor) -> None:
        if (copy := copies.get(next(steps))) is not None:
            shutil.copytree(run, copy)
        take(self, *batch)

    patch.setattr(Steps, "__call__", copied)


def search_and_resume(method: str, arguments: list[str], directory: Path, epochs: list[int], assert_same: Same) -> Path:
    """Runs a search whole and from each of these epochs on, checks that all results are the same, returns the whole run."""
    whole = directory / "whole"
    killed = {epoch: directory / f"killed in {epoch}" for epoch in epochs}
    with pytest.MonkeyPatch.context() as patch:
        copy_in_steps(patch, whole, killed)
        assert get_method(method).main([*arguments, "--run", str(whole)], pictures=False) == 0
    for epoch, run in killed.items():
        assert state_of(run)["epoch"] == epoch
        assert get_method(method).main([*arguments, "--run", str(run), "--resume"], pictures=False) == 0
        assert_same(state_of(run), state_of(whole))
        for file in ("genotype.json", "history.jsonl"):
            assert (run / file).read_bytes() == (whole / file).read_bytes()
    return whole


# How a search goes on hangs on its mechanism: plain, stages, perturbation, sampled paths.
RESUMED = [
    *((method, "nasbench201") for method in METHODS),
    *((method, "darts") for method in ("darts", "gdas")),
    *(pytest.param(method, "darts", marks=pytest.mark.slow) for method in ("drnas", "darts_pt")),
]


@pytest.mark.parametrize(("method", "space"), RESUMED)
def test_a_method_searches_and_goes_on_to_the_same_bits(
    method: str, space: str, tmp_path: Path, assert_same: Same, read_page: Callable[[Path], str]
) -> None:
    run = search_and_resume(method, options(method, space), tmp_path, epochs_to_kill(method, space), assert_same)
    check_result(method, space, run, state_of(run))
    check_page(method, run, read_page(run))


def check_page(method: str, run: Path, page: str) -> None:
    """It says whose method it was, what came of it and how to have it again, and has the weights after the last epoch."""
    paper = get_method(method).paper
    assert f"{paper[0].upper()}{paper[1:]}, in the space" in page
    genotype = Genotype.load(run / "genotype.json")
    assert genotype.to_text(genotype.text_form) in page
    assert f"python -m search.{method} --config {shlex.quote(str(run / 'config.yaml'))}" in page
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    for table in last["mixture"].values():
        assert "|".join(f"{value:.4f}" for value in table[-1] if value) in page.replace("|0.0000", "")


def check_result(method: str, space: str, run: Path, state: dict[str, Any]) -> None:
    """A genotype of the space, and the parts of the method have done their work."""
    genotype, searched, trainer = Genotype.load(run / "genotype.json"), get_space(space), state["trainer"]
    assert genotype.space == space and genotype.skeleton == searched.skeleton
    tables = CellPath.of_genotype(genotype, searched).one_hot(searched)
    assert searched.derive(tables) == genotype
    config = config_from_file(SearchConfig, run / "config.yaml")
    allowed = config.candidates(searched)
    left = {kind: set(keep.sum(-1).tolist()) for kind, keep in trainer["keep"].items()}
    for kind, table in tables.items():
        assert not (table.bool() & ~allowed[kind]).any()
        assert not (table.bool() & ~trainer["keep"][kind]).any()
    if method == "drnas":
        assert trainer["partial"] == 4
        assert all(counts == set(config.stages.keep) for counts in left.values())
    elif method == "darts_pt":
        assert all(max(counts) == 1 for counts in left.values())
        chosen = {kind: int(keep.sum()) for kind, keep in trainer["keep"].items()}
        assert chosen == {kind: sum(map(len, cell.nodes)) for kind, cell in genotype.cells.items()}
        assert state["epoch"] == 1 + Perturbation(searched, 0).rounds
    else:
        assert state["epoch"] == 2 and all(torch.equal(trainer["keep"][kind], allowed[kind]) for kind in allowed)
    assert bool(trainer["alpha_optimizer"]["state"]) == (method != "shapley"), "the alphas have moved"
    assert ("shapley" in trainer) == (method == "shapley")
    assert bool(trainer["betas"]) == (method == "pcdarts")


# Published defaults

PUBLISHED: dict[str, dict[str, Any]] = {
    # Liu et al. 2019, section 3.1 and appendix A.1
    "darts": {
        "channels": 16, "cells": 8, "epochs": 50, "batch_size": 64, "train_fraction": 0.5, "bilevel": True,
        "weights.name": "sgd", "weights.lr": 0.025, "weights.lr_min": 0.001, "weights.momentum": 0.9,
        "weights.nesterov": False, "weights.weight_decay": 3e-4, "weights.clip": 5.0,
        "alphas.lr": 3e-4, "alphas.beta1": 0.5, "alphas.beta2": 0.999, "alphas.weight_decay": 1e-3, "alphas.warmup": 0.0,
        "hessian_vector": "finite", "hessian_epsilon": 0.01, "relaxation.name": "softmax", "regulariser.name": "none",
        "partial": 1, "edge_normalization": False, "auxiliary_skip": 0.0, "exclude": [], "stages.keep": [],
        "selection.name": "strength", "early_stop.when": "never",
    },
    # Dong & Yang 2019, section 4.2
    "gdas": {
        "epochs": 250, "batch_size": 256, "weights.nesterov": True, "weights.weight_decay": 5e-4,
        "relaxation.name": "straight_through", "relaxation.temperature": 10.0, "relaxation.temperature_end": 0.1,
    },
    # Xie et al. 2019, section 3.1 and appendix
    "snas": {
        "epochs": 150, "bilevel": False, "train_fraction": 0.9, "relaxation.name": "gumbel", "relaxation.temperature": 1.0,
        "relaxation.temperature_end": 0.03,
    },
    # Chen et al. 2021, section 4.2: ten of the 25 epochs of each stage train the weights alone
    "drnas": {
        "channels": 36, "cells": 20, "epochs": 50, "exclude": ["none"], "partial": 6, "stages.partial": [4], "stages.keep": [4],
        "weights.lr": 0.1, "weights.lr_min": 0.0, "alphas.lr": 6e-4, "alphas.warmup": 10 / 25, "relaxation.name": "dirichlet",
    },
    # Xu et al. 2020, section 4.2: alphas from epoch 15 of 50
    "pcdarts": {
        "batch_size": 256, "partial": 4, "edge_normalization": True, "weights.lr": 0.1, "weights.lr_min": 0.0,
        "alphas.lr": 6e-4, "alphas.warmup": 15 / 50,
    },
    # Chu et al. 2021, section 3.2
    "darts_minus": {"exclude": ["none"], "auxiliary_skip": 1.0},
    # Ye et al. 2022, section 4.1
    "beta_darts": {"regulariser.name": "beta", "regulariser.weight": 0.0, "regulariser.weight_end": 25.0},
    # Wang et al. 2021, section 4
    "darts_pt": {"exclude": ["none"], "selection.name": "perturbation", "selection.tune_epochs": 5},
    # Xiao et al. 2022, as their code has it
    "shapley": {
        "channels": 16, "cells": 8, "epochs": 50, "batch_size": 256, "exclude": ["none"], "partial": 4, "weights.lr": 0.1,
        "weights.lr_min": 0.0, "alphas.update": "shapley", "alphas.warmup": 25 / 50, "shapley.permutations": 10,
        "shapley.batch": 1024, "shapley.stop": 0.5, "shapley.momentum": 0.8, "shapley.step": 0.1,
    },
}  # fmt: skip
"""By method what it changes in DARTS."""


def leaves(config: Any) -> dict[str, Any]:
    """{dotted name: value} of a configuration."""
    found: dict[str, Any] = {}
    for name, value in vars(config).items():
        inner = vars(value) if is_dataclass(value) else None
        found |= {name: value} if inner is None else {f"{name}.{field}": leaf for field, leaf in inner.items()}
    return found


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_those_of_the_paper(method: str) -> None:
    config = leaves(get_method(method).defaults())
    published = PUBLISHED[method]
    assert {name: config[name] for name in published} == published
    others = config.keys() - published.keys()
    darts = leaves(SearchConfig())
    assert {name: config[name] for name in others} == {name: darts[name] for name in others}


def test_schedules_begin_and_end_as_published() -> None:
    """Numbers of an epoch, from 0: what the architecture says of itself there."""

    def schedule(method: str, name: str, *epochs: int) -> list[float]:
        config = get_method(method).defaults()
        architecture = new_architecture(config, get_space("darts"), None, torch.device("cpu"))
        values = []
        for epoch in epochs:
            architecture.begin_epoch(epoch)
            values.append(architecture.schedule()[name])
        return values

    assert schedule("gdas", "temperature", 0, 249) == pytest.approx([10, 0.1])
    assert schedule("snas", "temperature", 0, 149) == pytest.approx([1, 0.03])
    assert schedule("beta_darts", "regulariser", 0, 49) == pytest.approx([0, 25])
    assert schedule("darts_minus", "auxiliary_skip", 0, 25, 49, 50) == pytest.approx([1, 0.5, 0.02, 0])


def test_stages_and_warm_ups_begin_where_they_were_published() -> None:
    drnas = get_method("drnas").defaults()
    assert [drnas.stages.at(epoch, 50)[0] for epoch in (0, 24, 25, 49)] == [0, 0, 1, 1]
    trained = [epoch for epoch in range(50) if drnas.stages.at(epoch, 50)[1] >= drnas.alphas.warmup]
    assert trained == [*range(10, 25), *range(35, 50)]
    candidates = drnas.candidates(get_space("darts"))
    assert all((table.sum(-1) == 7).all() for table in candidates.values())
    shapley = SupernetSchedule.of(get_method("shapley").defaults(), get_space("darts"))
    assert [epoch for epoch in range(50) if shapley.plan(epoch).takes_shapley] == list(range(25, 50))
    assert not any(shapley.plan(epoch).moves_alphas for epoch in range(50))
    pcdarts = get_method("pcdarts").defaults()
    assert [epoch for epoch in range(50) if pcdarts.stages.at(epoch, 50)[1] >= pcdarts.alphas.warmup] == list(range(15, 50))


# What is shipped


@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_config_is_the_method_in_the_space_of_the_benchmark(method: str, tmp_path: Path) -> None:
    arguments = ["--config", f"nasbench201_{method}", "--run", str(tmp_path / "run")]
    config, _ = parse_command_line(SearchConfig, arguments, "search.test", "", defaults=get_method(method).defaults())
    assert f"nasbench201_{method}" in shipped_configs()
    assert (config.space, config.channels, config.cells, config.data.name) == ("nasbench201", 16, 5, "cifar10")
    own = get_method(method).defaults()
    assert config.relaxation.name == own.relaxation.name
    assert config.regulariser.name == own.regulariser.name
    assert config.selection == own.selection
    assert config.edge_normalization == own.edge_normalization
    assert config.alphas.update == own.alphas.update and config.shapley == own.shapley
    assert config.auxiliary_skip == own.auxiliary_skip
    assert bool(config.stages.keep) == bool(own.stages.keep)
    assert (config.partial > 1) == (own.partial > 1)
    # Read by any other method, the file says the same: nothing of it hangs on the defaults of its own.
    assert config_from_file(SearchConfig, shipped_configs()[f"nasbench201_{method}"]) == config


def test_every_method_is_a_short_file_of_its_own() -> None:
    (folder,) = search.__path__
    for method in list_methods():
        file = Path(folder) / f"{method}.py"
        assert len(file.read_text(encoding="utf-8").splitlines()) < 60
        assert get_method(method).name == method


def test_methods_are_found_without_being_imported() -> None:
    found = "names = search.list_methods(); print(names, any(f'search.{name}' in sys.modules for name in names))"
    done = subprocess.run([sys.executable, "-c", f"import sys, search; {found}"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{list_methods()} False\n"
    assert {*list_methods(DifferentiableMethod), *list_methods(SamplingMethod)} == set(list_methods())
    assert not {*list_methods(DifferentiableMethod)} & {*list_methods(SamplingMethod)}


def test_an_unknown_method_is_named_beside_the_known_ones() -> None:
    with pytest.raises(InputError, match=rf"^unknown method 'spos'; known: {', '.join(list_methods())}$"):
        get_method("spos")
    with pytest.raises(InputError, match=r"^unknown method 'dart'; did you mean darts\? known: "):
        get_method("dart")


def test_a_method_of_ones_own_has_a_name_like_all() -> None:
    mine = replace(get_method("darts"), name="mine")
    with search.methods.METHODS.temporarily():
        assert register_method(mine) is mine is get_method("mine")
        assert "mine" in list_methods(DifferentiableMethod) and "mine" not in list_methods(SamplingMethod)
        for taken in (replace(mine, paper="another"), replace(mine, name="drnas")):
            with pytest.raises(InputError, match=f"^method '{taken.name}' is registered already$"):
                register_method(taken)
    with pytest.raises(InputError, match=r"^unknown method 'mine'"):
        get_method("mine")


@pytest.mark.parametrize("method", list_methods())
def test_help_says_whose_the_method_is(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        get_method(method).main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: python -m search.{method} ")
    assert get_method(method).paper in text and get_method(method).summary in text


# Where it ends


def epochs(count: int, skips: float = 0.0) -> list[SearchEpoch]:
    return [
        SearchEpoch(
            epoch=epoch, readings={}, genotype="", entropy={}, skips={}, skip_share={"cell": skips}, mixture={},
            eigenvalue=None,
        )
        for epoch in range(1, count + 1)
    ]  # fmt: skip


def test_epochs_of_a_selection_by_perturbation_count() -> None:
    config, method = SearchConfig(space="nasbench201", epochs=7), get_method("darts_pt")
    assert method.planned_epochs(config) == 7
    # Six edges, with five times 3 epochs between them and one after the last.
    assert method.planned_epochs(replace(config, selection=SelectionConfig("perturbation", tune_epochs=3))) == 7 + 5 * 3 + 1


def test_a_search_is_complete_at_its_last_epoch_or_at_an_early_stop() -> None:
    config, method = SearchConfig(space="nasbench201", epochs=4), get_method("darts")
    collapsed = [*epochs(2), *epochs(1, skips=1.0)]
    assert [method.is_complete(config, epochs(count)) for count in (0, 3, 4)] == [False, False, True]
    assert not method.is_complete(config, collapsed)
    stopping = replace(config, early_stop=EarlyStopConfig("skips", skip_share=0.5))
    assert method.is_complete(stopping, collapsed) and not method.is_complete(stopping, epochs(3))


def test_a_sampling_search_is_complete_with_all_its_rounds_or_nothing_left() -> None:
    method = get_method("random")
    config = replace(method.defaults(), epochs=1, evaluations=5, round=3)
    history: list[Any] = [SamplingEpoch(epoch=1, readings={}), SamplingRound(epoch=2, readings={}, evaluations=3)]
    assert method.planned_epochs(config) == 3 and not method.is_complete(config, history)
    assert method.is_complete(config, [*history, SamplingRound(epoch=3, readings={}, evaluations=5)])
    assert method.is_complete(config, [history[0], replace(history[1], exhausted=True)])
    assert not method.is_complete(config, [])
