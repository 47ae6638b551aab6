"""Choosing the genotype: the strongest candidates, and selection by perturbation against the algorithm as it was published."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import Tensor

from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.relaxations import Mixture
from search.differentiable.selection import Candidates, Perturbation, Score, SelectionConfig, strongest
from search.differentiable.trainer import BilevelSearch
from supernet import SearchSpace, get_space, list_spaces
from training.hardware import Hardware
from training.images.data import DataConfig
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

SEEDS = st.integers(0, 2**31 - 1)
SPACES = st.sampled_from(list_spaces()).map(get_space)


def candidates(space: SearchSpace, generator: torch.Generator, empty: float = 0.0) -> Candidates:
    """Some candidates of every edge, one of them not none; a share `empty` of the edges has none at all."""
    found = {}
    for kind in space.kinds:
        table = torch.rand(len(space.edges), len(space.candidates), generator=generator) < 0.6
        chosen = torch.randint(1, len(space.candidates), (len(space.edges), 1), generator=generator)
        table.scatter_(1, chosen, True)
        found[kind] = table & (torch.rand(len(space.edges), 1, generator=generator) >= empty)
    return found


def all_candidates(space: SearchSpace) -> Candidates:
    return {kind: torch.ones(len(space.edges), len(space.candidates), dtype=torch.bool) for kind in space.kinds}


def random_alphas(space: SearchSpace, generator: torch.Generator, cells: int = 0) -> Mixture:
    """[edges, candidates], or one such table for each of `cells`."""
    shape = (len(space.edges), len(space.candidates))
    return {
        kind: torch.randn((cells, *shape) if cells else shape, generator=generator, dtype=torch.float64) for kind in space.kinds
    }


def mixture_of(alphas: Mixture, keep: Candidates) -> Mixture:
    """Softmax over the candidates that there are; rows of zeros where there is none."""
    exponentials = {kind: alphas[kind].exp() * keep[kind] for kind in alphas}
    return {kind: table / table.sum(-1, keepdim=True).clamp_min(1e-30) for kind, table in exponentials.items()}


# The strongest


@hypothesis(max_examples=100, deadline=None)
@given(space=SPACES, seed=SEEDS, count=st.integers(1, 9), cells=st.sampled_from([0, 3]))
def test_the_strongest_are_those_that_a_plain_loop_finds(space: SearchSpace, seed: int, count: int, cells: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keep = candidates(space, generator, empty=0.2)
    mixture = mixture_of(random_alphas(space, generator, cells), keep)
    kept = strongest(space, keep, mixture, count)
    for kind in space.kinds:
        table = mixture[kind].mean(0) if cells else mixture[kind]
        for edge in range(len(space.edges)):
            present = [column for column in range(len(space.candidates)) if keep[kind][edge, column]]
            if count == 1 and space.derived_inputs is not None:
                present = [column for column in present if space.candidates[column] != "none"]
            expected = sorted(present, key=lambda column: -float(table[edge, column]))[:count]
            assert kept[kind][edge].nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("name", list_spaces())
def test_of_equal_candidates_the_earlier_ones_stay(name: str) -> None:
    """The space's rule does the same."""
    space = get_space(name)
    keep = all_candidates(space)
    mixture = mixture_of({kind: torch.zeros(table.shape) for kind, table in keep.items()}, keep)
    first = int(space.derived_inputs is not None)
    for count, expected in ((1, [first]), (2, [0, 1]), (3, [0, 1, 2])):
        for table in strongest(space, keep, mixture, count).values():
            assert table.nonzero()[:, 1].tolist() == expected * len(space.edges)


@pytest.mark.parametrize("name", list_spaces())
def test_as_many_as_there_are_leave_everything_as_it_is(name: str) -> None:
    space, generator = get_space(name), torch.Generator().manual_seed(0)
    keep = candidates(space, generator, empty=0.2)
    kept = strongest(space, keep, mixture_of(random_alphas(space, generator), keep), len(space.candidates))
    assert all(torch.equal(kept[kind], keep[kind]) for kind in keep)


# Perturbation


def made_up_score(space: SearchSpace, seed: int, levels: int | None) -> Score:
    """A function of the mixture that is as good as random, of so many values where `levels` says how many."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        kind: 30 * torch.rand(len(space.edges), len(space.candidates), generator=generator).double() for kind in space.kinds
    }

    def score(mixture: Mixture) -> float:
        accuracy = (1 + math.sin(sum(float((factors[kind] * table).sum()) for kind, table in mixture.items()))) / 2
        return accuracy if levels is None else math.floor(accuracy * levels) / levels

    return score


def without(mixture: Mixture, kind: str, edge: int, columns: Sequence[int]) -> Mixture:
    """The mixture with other weights as they are."""
    tables = {name: table.clone() for name, table in mixture.items()}
    for column in columns:
        tables[kind][..., edge, column] = 0.0
    return tables


def operation_to_keep(space: SearchSpace, kind: str, edge: int, keep: Tensor, mixture: Mixture, score: Score) -> int:
    """Wang et al. 2021, algorithm 1, first loop: o* = argmin over o of ACC without o. Of equal ones the first."""
    lowest, best = float("inf"), -1
    for column, name in enumerate(space.candidates):
        if not keep[edge, column] or (name == "none" and space.derived_inputs is not None):
            continue
        accuracy = score(without(mixture, kind, edge, [column]))
        if accuracy < lowest:
            lowest, best = accuracy, column
    return best


def inputs_to_keep(space: SearchSpace, kind: str, node: int, mixture: Mixture, score: Score) -> set[int]:
    """Algorithm 1, second loop: the edges into the node with the lowest ACC without the edge. Of equal ones the first."""
    every = range(len(space.candidates))
    accuracies = [
        (score(without(mixture, kind, edge, every)), edge) for edge, (_, target) in enumerate(space.edges) if target == node
    ]
    return {edge for _, edge in sorted(accuracies)[: space.derived_inputs]}


def changed(before: Tensor, after: Tensor) -> list[int]:
    """Edges whose candidates are others."""
    return (before != after).any(-1).nonzero().flatten().tolist()


def decide_all(
    space: SearchSpace, seed: int, keep: Candidates, alphas: Mixture, score: Score
) -> tuple[Candidates, dict[str, list[list[int]]]]:
    """All rounds, each checked against the algorithm; what is kept in the end, and the edges that changed in each round."""
    perturbation = Perturbation(space, seed)
    history: dict[str, list[list[int]]] = {kind: [] for kind in space.kinds}
    for number in range(perturbation.rounds):
        for kind in space.kinds:
            mixture, before = mixture_of(alphas, keep), keep[kind].clone()
            after = perturbation.decide(number, kind, keep[kind], mixture, score).keep
            assert torch.equal(keep[kind], before), "what it was given is as it was"
            edges = changed(before, after)
            if number < len(space.edges):
                assert len(edges) <= 1
                for edge in edges:
                    (column,) = after[edge].nonzero().flatten().tolist()
                    assert column == operation_to_keep(space, kind, edge, before, mixture, score)
            else:
                (node,) = {space.edges[edge][1] for edge in edges}
                left = {edge for edge, (_, target) in enumerate(space.edges) if target == node and after[edge].any()}
                assert left == inputs_to_keep(space, kind, node, mixture, score)
                assert not after[edges].any()
            history[kind].append(edges)
            keep = keep | {kind: after}
    return keep, history


@hypothesis(max_examples=40, deadline=None)
@given(space=SPACES, seed=SEEDS, levels=st.sampled_from([None, 2, 5]), cells=st.sampled_from([0, 2]))
def test_a_selection_is_that_of_the_published_algorithm(space: SearchSpace, seed: int, levels: int | None, cells: int) -> None:
    """Every round is as published, with ties where accuracies have few levels and with candidates that went before."""
    generator = torch.Generator().manual_seed(seed)
    keep = candidates(space, generator)
    alphas = random_alphas(space, generator, cells)
    kept, _ = decide_all(space, seed, keep, alphas, made_up_score(space, seed, levels))
    genotype = space.derive(mixture_of(alphas, kept))
    for kind, cell in genotype.cells.items():
        assert not (kept[kind] & ~keep[kind]).any()
        left = [(edge, column) for edge, column in kept[kind].nonzero().tolist()]
        chosen = {(*space.edges[edge], space.candidates[column]) for edge, column in left}
        assert len(chosen) == len(left) == sum(map(len, cell.nodes))
        assert chosen == {
            (source, target, operation)
            for target, feeds in enumerate(cell.nodes, start=space.inputs)
            for operation, source in feeds
        }
        if space.derived_inputs is not None:
            assert [len(feeds) for feeds in cell.nodes] == [space.derived_inputs] * space.nodes
            assert all(operation != "none" for _, _, operation in chosen)


def test_there_is_a_round_for_each_edge_and_each_node_that_has_to_lose_some() -> None:
    assert Perturbation(get_space("darts"), 0).rounds == 14 + 3
    assert Perturbation(get_space("nasbench201"), 0).rounds == 6


def test_an_edge_with_one_candidate_costs_no_evaluation() -> None:
    space = get_space("nasbench201")
    keep = {"cell": torch.eye(5, dtype=torch.bool)[[1, 2, 3, 4, 0, 1]]}

    def never(_: Mixture) -> float:
        raise AssertionError("nothing is left to compare")

    for number in range(6):
        assert torch.equal(
            Perturbation(space, 0)
            .decide(number, "cell", keep["cell"], mixture_of({"cell": torch.zeros(6, 5)}, keep), never)
            .keep,
            keep["cell"],
        )


@pytest.mark.parametrize("name", list_spaces())
def test_the_order_depends_on_the_seed_alone(name: str) -> None:
    space = get_space(name)

    def order(seed: int, others: int) -> list[list[int]]:
        """The edge of each round that decides one, under scores and alphas of their own."""
        generator = torch.Generator().manual_seed(others)
        alphas, score = random_alphas(space, generator), made_up_score(space, others, None)
        history = decide_all(space, seed, all_candidates(space), alphas, score)[1]
        return [[edge for (edge,) in history[kind][: len(space.edges)]] for kind in space.kinds]

    for edges in order(3, 0):
        assert sorted(edges) == list(range(len(space.edges)))
    assert order(3, 0) == order(3, 1)
    assert order(3, 0) != order(4, 0)


# With a supernet


def trained(path: Path, space: str, cells: int, rare: int | None = None) -> BilevelSearch:
    """A search by perturbation whose supernet has seen some batches, so that operations differ in what they are worth.

    `rare` is how many images there are of each class but two; None: as many.
    """
    config = SearchConfig(
        space=space, channels=4, cells=cells, batch_size=32, epochs=1, device="cpu",
        data=DataConfig(limit=256), alphas=AlphaConfig(scale=0.5), selection=SelectionConfig("perturbation"),
    )  # fmt: skip
    hardware = Hardware.of(config, config.graph)
    task = Classification.open(config.data, hardware)
    if rare is not None:
        images = Classification.open(DataConfig(), hardware).train.images
        of_class = [(images.labels == label).nonzero().flatten() for label in range(10)]
        places = torch.cat([places if label < 2 else places[:rare] for label, places in enumerate(of_class)])
        task = Classification.of_images(config.data, images.take(places), hardware)
    search = BilevelSearch(config, task, RunDirectory(path, config), hardware)
    for train in search.train_batches.epoch(0):
        search.step.weight_step(train)
    return search


def brute_force(search: BilevelSearch) -> Callable[[Mixture], float]:
    """Accuracy on the validation images, counted one by one, under the statistics of each batch."""

    def accuracy(mixture: Mixture) -> float:
        right, images = 0, 0
        search.network.train()
        with torch.no_grad():
            for batch, labels in search.evaluation_batches.epoch(0):
                for logits, label in zip(search.network(batch, mixture), labels, strict=True):
                    right += int(logits.argmax() == label)
                    images += 1
        return right / images

    return accuracy


def test_the_operation_stays_without_which_a_supernet_is_worst(tmp_path: Path) -> None:
    search = trained(tmp_path, "nasbench201", 1)
    space, mixture, keep = search.space, search.architecture.mean(), search.architecture.keep["cell"]
    accuracy = brute_force(search)
    accuracies = torch.tensor(
        [
            [accuracy(without(mixture, "cell", edge, [column])) for column in range(len(space.candidates))]
            for edge in range(len(space.edges))
        ]
    )
    search.begin_epoch(search.config.epochs, print)
    (edge,) = changed(keep, search.architecture.keep["cell"])
    assert accuracies[edge].unique().numel() > 1
    assert search.architecture.keep["cell"][edge].nonzero().flatten().tolist() == [int(accuracies[edge].argmin())]


def test_the_inputs_stay_without_which_a_supernet_is_worst(tmp_path: Path) -> None:
    search = trained(tmp_path, "darts", 3)
    space = search.space
    alphas = random_alphas(space, torch.Generator().manual_seed(0))
    search._rebuild(strongest(space, search.architecture.keep, alphas, 1), 1)
    keep, mixture = search.architecture.keep["normal"], search.architecture.mean()
    kept = Perturbation(space, 0).decide(len(space.edges), "normal", keep, mixture, search._score).keep
    (node,) = {space.edges[edge][1] for edge in changed(keep, kept)}
    into = [edge for edge, (_, target) in enumerate(space.edges) if target == node]
    accuracy = brute_force(search)
    accuracies = [(accuracy(without(mixture, "normal", edge, range(len(space.candidates)))), edge) for edge in into]
    assert len({value for value, _ in accuracies}) > 1
    assert {edge for edge in into if kept[edge].any()} == {edge for _, edge in sorted(accuracies)[:2]}


@pytest.mark.parametrize("name", [score.name for score in Classification.scores])
def test_the_score_decides(name: str, tmp_path: Path) -> None:
    """What stays on an edge is the operation without which that score over all validation images is worst."""
    search = trained(tmp_path, "nasbench201", 1)
    search.task.scored_by = search.task.score_named(name)
    assert search.perturbation is not None
    (kind,) = search.space.kinds
    mixture = search.architecture.mean()
    left = decided(search, name)
    edge = int((left.sum(1) == 1).nonzero()[0])
    values = []
    for column in range(len(search.space.candidates)):
        without = mixture[kind].clone()
        without[edge, column] = 0
        reading = search.step.evaluate(search.evaluation_batches.epoch(0), {kind: without}, training=True)
        values.append(-reading.loss if name == "loss" else reading.values[name])
    assert left[edge].nonzero().tolist() == [[values.index(min(values))]]


def test_scores_decide_differently(tmp_path: Path) -> None:
    """Where two classes have nearly all images, accuracy, its loss, and a mean over classes keep other operations."""
    search = trained(tmp_path, "nasbench201", 1, rare=12)
    chosen = {name: [decided(search, name, number) for number in range(6)] for name in ("accuracy", "loss", "macro_f1")}
    assert not all(torch.equal(*pair) for pair in zip(chosen["accuracy"], chosen["loss"], strict=True))
    assert not all(torch.equal(*pair) for pair in zip(chosen["accuracy"], chosen["macro_f1"], strict=True))


def decided(search: BilevelSearch, name: str, number: int = 0) -> Tensor:
    """The candidates after one round alone of the selection by a score, bool [edges, candidates]."""
    search.task.scored_by = search.task.score_named(name)
    assert search.perturbation is not None
    (kind,) = search.space.kinds
    decision = search.perturbation.decide(
        number, kind, search.architecture.keep[kind], search.architecture.mean(), search._score
    )
    return decision.keep
