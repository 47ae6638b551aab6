"""An explanation of a search that descends a gradient: of every method in every space, against plain counts."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from base.checks import InputError
from search.differentiable.config import AlphaConfig
from search.differentiable.method import DifferentiableMethod, DifferentiableRun
from search.differentiable.selection import SelectionConfig
from search.explain.explanation import ExplainOptions
from search.explain.supernets.explain import explain, measure
from search.explain.supernets.findings import numbers
from search.explain.supernets.measures import MEASURES
from search.methods import list_methods
from supernet import list_spaces
from training.images.data import DataConfig

METHODS = list_methods(DifferentiableMethod)
OPTIONS = ExplainOptions(torch.device("cpu"))
Searched = Callable[..., DifferentiableRun]


def accuracies(run: DifferentiableRun, images: int, batch: int) -> Callable[[dict[str, Tensor]], float]:
    """Accuracy on the first validation images, counted one by one, under a mixture and the statistics of each batch."""
    from training.hardware import Hardware
    from training.tasks.classification import Classification

    task = Classification.open(run.config.data, Hardware(torch.device("cpu")), log=lambda _: None)
    _, valid = task.train.split(run.config.train_fraction, run.config.seed)
    network = DifferentiableRun.open(run.path).network.train()
    shares = {kind: table.sum(-1) for kind, table in run.mixture.items()}

    @torch.no_grad()
    def accuracy(mixture: dict[str, Tensor]) -> float:
        right = 0
        there = {kind: shares[kind] * (table != 0).any(-1) for kind, table in mixture.items()}
        for inputs, labels in valid.take(images).in_order(batch).epoch(0):
            right += sum(
                int(logits.argmax() == label)
                for logits, label in zip(network(inputs, mixture, None, there), labels, strict=True)
            )
        return right / images

    return accuracy


@pytest.mark.parametrize(
    "space", [pytest.param(name, marks=[pytest.mark.slow] if name == "darts" else []) for name in list_spaces()]
)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_explained(method: str, space: str, searched: Searched) -> None:
    run = searched(method, space)
    found = explain(run, dataclasses.replace(OPTIONS, pictures=False), log=lambda _: None)
    told = json.loads(json.dumps(found.numbers, allow_nan=False))
    genotype = run.genotype
    assert genotype is not None
    inputs = genotype.skeleton.inputs
    assert {(edge["cell"], edge["source"], edge["target"], edge["operation"]) for edge in told["edges"]} == {
        (kind, source, inputs + node, operation)
        for kind, cell in genotype.cells.items()
        for node, feeds in enumerate(cell.nodes)
        for operation, source in feeds
    }
    assert told["cost"]["examples_through_the_supernet"] <= told["cost"]["at_most"]
    left = {kind: table.nonzero().tolist() for kind, table in run.state["keep"].items()}
    names = run.config.search_space.candidates
    edges = run.config.search_space.edges
    measured = {(entry["cell"], entry["source"], entry["target"], entry["operation"]): entry for entry in told["measures"]}
    possible = {
        (kind, *edges[edge], names[column])
        for kind, pairs in left.items()
        for edge, column in pairs
        if names[column] != "none" or run.config.search_space.derived_inputs is None
    }
    assert set(measured) == possible
    alphas = [abs(entry["alphas"]) for entry in measured.values()]
    assert all(0 < value <= 1 for value in alphas)
    # The margins are those of a plain count.
    assert told["score"]["examples"] == 32 and told["score"]["batches"] == 4
    accuracy = accuracies(run, 32, 8)
    whole = accuracy(run.mixture)
    assert told["score"]["supernet"] == pytest.approx(whole)
    for edge in [edge for edge in told["edges"] if edge["margin"] is not None][:3]:
        table = run.mixture[edge["cell"]].clone()
        table[..., edges.index((edge["source"], edge["target"])), names.index(edge["operation"])] = 0
        assert edge["margin"]["fall"] == pytest.approx(whole - accuracy(run.mixture | {edge["cell"]: table}))
        assert edge["margin"]["low"] <= edge["margin"]["fall"] <= edge["margin"]["high"]
        assert edge["could_be_left_out"] == (edge["margin"]["low"] <= 0)
    # Sentences say the same.
    for edge, said in zip(told["edges"], found.sentences, strict=False):
        kind = "" if len(genotype.cells) == 1 else f"{edge['cell']} cell, "
        assert said.startswith(f"{kind}edge {edge['source']} to {edge['target']}: ")
        assert ("could be left out" in said) == edge["could_be_left_out"]
        if edge["margin"] is not None and edge["margin"]["fall"] > 0.0005:
            assert f"without {edge['operation']} accuracy falls by {100 * edge['margin']['fall']:.1f} point" in said
            assert f" to {100 * edge['margin']['high']:.1f})" in said
    assert "Why this cell?" in found.page.html()


def test_untied_cells_lose_an_operation_together(searched: Searched) -> None:
    run = searched("darts", "nasbench201", tie_cells=False)
    found = measure(run, OPTIONS, log=lambda _: None)
    assert run.mixture["cell"].shape == (3, 6, 5)
    accuracy = accuracies(run, 32, 8)
    edge = next(edge for edge in found.edges if edge.margin is not None)
    table = run.mixture["cell"].clone()
    table[:, edge.chosen.edge, edge.chosen.column] = 0
    assert edge.margin is not None
    assert edge.margin.fall == pytest.approx(accuracy(run.mixture) - accuracy({"cell": table}))


def test_margins_are_those_that_a_selection_by_perturbation_computes(searched: Searched) -> None:
    """Bit for bit, on all validation images: a search that goes on to decide has kept its scores, and one of the same seed that
    does not is explained."""
    same: dict[str, Any] = {"data": DataConfig(limit=256), "alphas": AlphaConfig(lr=0.1, scale=0.5), "epochs": 1}
    explained = searched("darts", "nasbench201", **same)
    decided = searched("darts", "nasbench201", **same, selection=SelectionConfig("perturbation", tune_epochs=1))
    found = measure(explained, dataclasses.replace(OPTIONS, budget=1000), log=lambda _: None)
    compared = next(entry.decided for entry in decided.history if entry.decided)
    ((place, scores),) = compared["cell"].items()
    assert len(set(scores.values())) > 1
    supernet = found.supernet
    falls = {
        supernet.operation(one): fall
        for one, fall in found.measures["perturbation"].items()
        if supernet.edge(one) == place.replace("->", " to ")
    }
    assert found.examples == found.plan.ranking == 128 and found.batches == 8
    assert falls == {name: found.score - score if name != "none" else 0.0 for name, score in scores.items()}
    for edge in found.edges:
        if edge.margin is not None:
            assert edge.margin.fall == found.measures["perturbation"][edge.chosen]


def test_after_a_selection_by_perturbation_the_runner_up_is_that_of_its_decision(searched: Searched) -> None:
    run = searched("darts_pt", "nasbench201")
    found = measure(run, OPTIONS, log=lambda _: None)
    decided: dict[str, Any] = {}
    for entry in run.history:
        decided |= (entry.decided or {}).get("cell", {})
    assert len(decided) == 6
    for edge in found.edges:
        scores = dict(decided[found.supernet.edge(edge.chosen).replace(" to ", "->")])
        chosen = scores.pop(found.supernet.operation(edge.chosen))
        assert chosen <= min(scores.values())
        assert edge.runner_up is not None and edge.first == {}
        assert scores[edge.runner_up.operation] == min(scores.values())
        assert edge.runner_up.behind == pytest.approx(min(scores.values()) - chosen)


def test_the_same_seed_gives_the_same_numbers_and_another_one_other_permutations(searched: Searched) -> None:
    run = searched("darts", "nasbench201")
    one, same, other = (
        numbers(measure(DifferentiableRun.open(run.path), dataclasses.replace(OPTIONS, seed=seed), log=lambda _: None))
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one["measures"] != other["measures"]
    for entry, differing in zip(one["measures"], other["measures"], strict=True):
        assert [entry[name] for name in MEASURES if name != "Shapley value"] == [
            differing[name] for name in MEASURES if name != "Shapley value"
        ]


def test_a_run_is_left_as_it_was(searched: Searched) -> None:
    run = searched("pcdarts", "nasbench201")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    state = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    explain(run, dataclasses.replace(OPTIONS, pictures=False), log=lambda _: None)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in run.network.state_dict().items())


def test_the_cost_is_said_first_and_kept(searched: Searched) -> None:
    run = searched("darts", "nasbench201")
    said: list[str] = []
    found = measure(run, dataclasses.replace(OPTIONS, budget=400), log=said.append)
    (line,) = [line for line in said if line.startswith("explains with at most")]
    assert f"at most {found.plan.passes} passes of 16 images" in line
    assert found.images <= found.plan.most <= 400 * 16


def test_a_budget_that_is_too_small_names_the_least(searched: Searched) -> None:
    run = searched("darts", "nasbench201")
    with pytest.raises(
        InputError, match=r"budget: 3 passes of 16 images are too few for one permutation of the 24 .* at least \d+$"
    ) as error:
        measure(run, dataclasses.replace(OPTIONS, budget=3), log=lambda _: None)
    least = int(str(error.value).rsplit(" ", 1)[1])
    measure(run, dataclasses.replace(OPTIONS, budget=least), log=lambda _: None)
    with pytest.raises(InputError, match="budget"):
        measure(run, dataclasses.replace(OPTIONS, budget=least - 1), log=lambda _: None)


def test_too_few_validation_images_are_refused(searched: Searched) -> None:
    run = searched("darts", "nasbench201", data=DataConfig(limit=14), batch_size=4)
    with pytest.raises(InputError, match="its 7 validation examples are too few"):
        measure(run, OPTIONS, log=lambda _: None)


def test_data_that_are_elsewhere_now_are_named(searched: Searched) -> None:
    run = searched("darts", "nasbench201")
    with pytest.raises(InputError, match="no_such_set"):
        measure(run, dataclasses.replace(OPTIONS, data={"name": "no_such_set"}), log=lambda _: None)


def test_tensorboard_has_a_figure_of_each_measure_and_of_the_margins(searched: Searched) -> None:
    found = explain(searched("darts", "nasbench201"), OPTIONS, log=lambda _: None)
    names = [name.replace(" ", "_") for name in MEASURES]
    assert set(found.figures) == {*(f"{name}/cell" for name in names), "margins"}


def test_where_there_was_no_choice_there_is_no_agreement(searched: Searched) -> None:
    run = searched("darts", "nasbench201", exclude=["none", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3"])
    found = explain(run, dataclasses.replace(OPTIONS, pictures=False), log=lambda _: None)
    assert all(entry["alphas"] == 1.0 for entry in found.numbers["measures"])
    assert all(entry["kendall_tau"] is None for entry in found.numbers["agreement"]["cell"] if "alphas" in entry["measures"])
