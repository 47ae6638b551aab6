"""docs/combinations.md says what is so: every cell of its tables is run, small, or refused."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks import combinations
from benchmarks.combinations import (
    PARTS,
    SPACES,
    Part,
    combination,
    heading,
    main,
    options_of,
    page,
    published,
    reason_to_refuse,
    with_options,
)
from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.regularisers import list_regularisers
from search.differentiable.relaxations import list_relaxations
from search.differentiable.trainer import BilevelSearch
from search.history import SearchEpoch
from search.methods import get_method, list_methods
from supernet import Genotype
from training.hardware import Hardware
from training.images.data import load_images
from training.images.sets import ImageSet
from training.run.config import parse_command_line
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

METHODS = list_methods(DifferentiableMethod)
PART = {part.name: part for part in PARTS}
SMALL: dict[str, Any] = {
    "data.name": "digits",
    "data.crop_padding": 1,
    "batch_size": 8,
    "epochs": 20,
    "device": "cpu",
    "data.limit": 32,
    "selection.tune_epochs": 1,
    "shapley.permutations": 1,
}
CELLS = {"darts": 3, "nasbench201": 1}
# The candidates that take longest, of the kinds of those that stay.
LEFT_OUT = {"darts": ["sep_conv_5x5", "dil_conv_5x5"], "nasbench201": []}
Triple = tuple[str, str, str]
"""A space, a method and a part."""
TRIPLES: list[Triple] = [(space, method, part.name) for space in SPACES for method in METHODS for part in PARTS]
REFUSED = [triple for triple in TRIPLES if reason_to_refuse(triple[1], PART[triple[2]], triple[0]) is not None]
ACCEPTED = [triple for triple in TRIPLES if triple not in REFUSED]


def made(triple: Triple) -> SearchConfig:
    space, method, part = triple
    return combination(method, PART[part], space)


def distinct(triples: list[Triple]) -> list[Triple]:
    """The first triple of each configuration: a method's own parts all stand for the method as it is."""
    configs: list[SearchConfig] = []
    return [triple for triple in triples if (config := made(triple)) not in configs and not configs.append(config)]


def sample(space: str) -> list[Triple]:
    """Two methods with each part, methods by turns, so that each of them is there more than once."""
    chosen = []
    for number, part in enumerate(PART):
        methods = [method for name, method, other in ACCEPTED if (name, other) == (space, part)]
        chosen += [(space, methods[(number + half) % len(methods)], part) for half in (0, len(methods) // 2)]
    return distinct(chosen)


QUICK = [triple for space in SPACES for triple in sample(space)]
RUN = [pytest.param(*triple, marks=[] if triple in QUICK else pytest.mark.slow) for triple in distinct([*QUICK, *ACCEPTED])]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_images(with_options(SearchConfig(), SMALL).data, "train")


def new_search(config: SearchConfig, images: ImageSet, path: Path) -> BilevelSearch:
    """A search of the smallest size that the parts of `config` allow."""
    # Cut into as many equal parts as it says: 6 in DrNAS.
    channels = 12 if 6 in (config.partial, *config.stages.partial) else 4
    exclude = [*config.exclude, *LEFT_OUT[config.space]]
    config = with_options(config, SMALL | {"channels": channels, "cells": CELLS[config.space], "exclude": exclude})
    hardware = Hardware.of(config, config.graph)
    task = Classification.of_images(config.data, images, hardware)
    return BilevelSearch(config, task, RunDirectory(path, config), hardware)


def two_steps(search: BilevelSearch) -> None:
    """Takes them on real batches and checks that they went somewhere."""
    before = [table.detach().clone() for table in (*search.architecture.parameters(), *search.network.parameters())]
    search.network.train()
    for batch in itertools.islice(search.batches_of(0), 2):
        search.step(*batch)
    after = [*search.architecture.parameters(), *search.network.parameters()]
    alphas = len(search.architecture.parameters())
    moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert all(moved[:alphas]) == search.step.moves_alphas
    assert any(moved[alphas:])
    assert all(leaf.isfinite().all() for leaf in tree_leaves(search.state_dict()) if isinstance(leaf, Tensor))


def check_genotype(search: BilevelSearch) -> None:
    """A cell of the space, of operations that are there."""
    space, genotype = search.space, search.genotype()
    assert Genotype.parse(genotype.to_text("json")) == genotype
    for kind, cell in genotype.cells.items():
        for target, feeds in enumerate(cell.nodes, start=space.inputs):
            assert len(feeds) == (space.derived_inputs or target)
            for operation, source in feeds:
                edge, column = space.edges.index((source, target)), space.candidates.index(operation)
                assert search.architecture.keep[kind][edge, column]
                assert operation != "none" or space.derived_inputs is None


def decided(search: BilevelSearch) -> dict[str, int]:
    """Edges of each kind of cell with one candidate."""
    return {kind: int((keep.sum(-1) == 1).sum()) for kind, keep in search.architecture.keep.items()}


def check_what_comes_later(search: BilevelSearch) -> None:
    """Checks the work of parts that comes after some epochs: a new stage, a decision, a verdict."""
    config = search.config
    if config.stages.keep:
        search.begin_epoch(config.epochs // 2, print)
        assert all((keep.sum(-1) == config.stages.keep[0]).all() for keep in search.architecture.keep.values())
        assert {cell.partial for cell in search.network.mixed_cells()} == set(config.stages.partial)
        two_steps(search)
    if config.selection.name == "perturbation":
        search.begin_epoch(config.epochs, print)
        assert decided(search) == dict.fromkeys(search.space.kinds, 1)
        two_steps(search)
    if config.alphas.update == "shapley":
        before = {kind: alpha.detach().clone() for kind, alpha in search.architecture.alphas.items()}
        search.take_shapley(0, print)
        keep = search.architecture.keep
        moved = {kind: alpha != before[kind] for kind, alpha in search.architecture.alphas.items()}
        assert all(torch.equal(table, keep[kind].expand(table.shape)) for kind, table in moved.items())
    if config.early_stop.when != "never":
        check_verdict(search)


def check_verdict(search: BilevelSearch) -> None:
    """It goes on while nothing shows, and ends with the genotype from before the sign that it looks for."""
    sound, when = search.genotype(), search.config.early_stop.when
    entry = SearchEpoch(
        epoch=1, readings={}, genotype=sound.to_text(sound.text_form), entropy={}, skips={}, mixture={},
        skip_share=dict.fromkeys(search.space.kinds, 0.1), eigenvalue=0.1,
    )  # fmt: skip
    search.recorder.history = [entry] * 15
    assert search.reason_to_stop() is None
    bad: dict[str, dict[str, Any]] = {
        "skips": {"skip_share": dict.fromkeys(search.space.kinds, 0.9)},
        "eigenvalue": {"eigenvalue": 9.0},
    }
    search.recorder.history = [entry] * 15 + [replace(entry, **bad[other]) for other in bad if other != when]
    assert search.reason_to_stop() is None
    search.recorder.history = [entry] * 15 + [replace(entry, genotype="of the collapse", **bad[when])]
    reason = search.reason_to_stop()
    assert reason is not None and {"skips": "skip connections", "eigenvalue": "eigenvalue"}[when] in reason
    assert search.genotype().cells == sound.cells


@pytest.mark.parametrize(("space", "method", "part"), RUN)
def test_what_the_page_says_to_run_runs(space: str, method: str, part: str, images: ImageSet, tmp_path: Path) -> None:
    search = new_search(combination(method, PART[part], space), images, tmp_path)
    two_steps(search)
    check_genotype(search)
    check_what_comes_later(search)
    check_genotype(search)


@pytest.mark.parametrize("space", SPACES)
def test_the_sample_has_every_method_and_every_part(space: str) -> None:
    """Those that `make test` runs where it does not run all."""
    chosen = sample(space)
    assert len(chosen) >= 25
    assert {method for _, method, _ in chosen} == set(METHODS)
    assert all(any(PART[name].is_own(made(triple)) for triple in chosen) for name in PART)


def test_a_combination_has_its_part() -> None:
    assert all(PART[triple[2]].is_own(made(triple)) for triple in ACCEPTED)


@pytest.mark.parametrize(("space", "method", "part"), REFUSED)
def test_what_the_page_says_to_be_refused_is_refused_in_one_line(
    space: str, method: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = reason_to_refuse(method, PART[part], space)
    assert reason is not None and "\n" not in reason
    with pytest.raises(ValueError) as refused:
        with_options(published(method, space), PART[part].options)
    assert str(refused.value) == reason
    with pytest.raises(SystemExit) as ended:
        get_method(method).main(["--run", str(tmp_path / "run"), *options_of(method, space), *PART[part].arguments()])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    # Between them there may be the line of the shipped file that has the value.
    assert said.startswith(f"search.{method}: error: ") and said.endswith(f": {reason}\n") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# The page


def test_every_relaxation_and_regulariser_has_a_column() -> None:
    def named(option: str) -> set[str]:
        return {part.options[option] for part in PARTS if option in part.options}

    assert named("relaxation.name") == set(list_relaxations())
    assert named("regulariser.name") == set(list_regularisers()) - {"none"}


def test_the_page_is_what_is_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_a_page_that_is_out_of_date_is_said_in_one_line_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "combinations.md"
    monkeypatch.setattr(combinations, "PAGE", file)
    assert main(["--check"]) == 1 and not file.exists()
    file.write_text(page() + "more\n", encoding="utf-8")
    assert main(["--check"]) == 1
    out = capsys.readouterr().out
    assert out == f"{file}: out of date; write it anew with python -m benchmarks.combinations\n" * 2
    assert main([]) == 0 and main(["--check"]) == 0
    assert file.read_text(encoding="utf-8") == page()


def test_the_examples_of_the_page_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    examples = [line.split()[2:] for line in page().splitlines() if line.startswith("    python -m ")]
    assert len(examples) > 1
    for module, *arguments in examples:
        with pytest.raises(SystemExit) as ended:
            get_method(module.removeprefix("search.")).main([*arguments, "--print_config"])
        assert ended.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("space", SPACES)
def test_a_table_has_every_method_and_part_and_a_note_for_every_refusal(space: str) -> None:
    _, _, section = page().partition(f"{heading(space)}\n\n")
    lines = section.partition("\n## ")[0].splitlines()
    rows = {
        cells[0]: cells[1:]
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line)
    }
    notes = dict(line.split(". ", 1) for line in lines if line[:1].isdigit())
    assert rows.pop("method") == list(PART)
    assert list(rows) == ["---", *METHODS]
    for method in METHODS:
        for name, cell in zip(PART, rows[method], strict=True):
            reason = reason_to_refuse(method, PART[name], space)
            if reason is None:
                assert cell == ("own" if PART[name].is_own(published(method, space)) else "runs")
            else:
                assert notes[cell.removeprefix("refused (").removesuffix(")")] == reason
    assert len(set(notes.values())) == len(notes)


def test_a_method_has_the_parts_of_its_paper() -> None:
    own = {method: {part.name for part in PARTS if part.is_own(get_method(method).defaults())} for method in METHODS}
    assert own == {
        "darts": {"softmax"},
        "gdas": {"straight_through"},
        "snas": {"gumbel", "one level"},
        "drnas": {"dirichlet", "partial", "stages"},
        "pcdarts": {"softmax", "partial", "edge_normalization"},
        "darts_minus": {"softmax", "auxiliary_skip"},
        "beta_darts": {"softmax", "beta"},
        "darts_pt": {"softmax", "perturbation"},
        "shapley": {"softmax", "partial", "shapley"},
    }


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_column_is_what_its_options_say_on_the_command_line(part: Part, tmp_path: Path) -> None:
    method = "drnas" if part.name == "kl" else "darts"
    defaults = get_method(method).defaults()
    said, _ = parse_command_line(
        SearchConfig, ["--run", str(tmp_path / "run"), *part.arguments()], "search.test", "", defaults=defaults
    )
    assert said == with_options(defaults, part.options)
    assert part.is_own(said)
