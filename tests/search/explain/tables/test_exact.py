"""Tests of search/explain/tables/exact.py: the known numbers of NAS-Bench-201, and small tables."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from base.checks import FieldError
from search.costs.tabular import Table, TableRow
from search.explain import decomposition
from search.explain.landscape import Landscape, landscape
from search.explain.tables.exact import analyse, choose, explain, importance

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@pytest.fixture
def published(shared_data: Callable[[str], Path]) -> Table:
    return Table.read(shared_data("nasbench201/cifar10.csv.gz"))


def shown(shares: np.ndarray) -> list[float]:
    return [round(float(100 * share), 1) for share in shares]


def test_effects_of_the_published_table(published: Table) -> None:
    land = landscape(published)
    accuracy, rank = analyse(land)
    assert shown(accuracy.main) == [6.2, 2.4, 0.4, 12.0, 2.0, 5.5]
    assert shown(accuracy.total) == [43.8, 25.8, 5.8, 68.2, 24.8, 42.8]
    assert shown(accuracy.shapley) == [21.1, 11.2, 2.2, 34.8, 10.5, 20.2]
    assert rank.shapley * 100 == pytest.approx([26.3, 12.7, 4.2, 24.8, 10.6, 21.3], abs=0.06)
    early = decomposition.shapley_effects(landscape(published, "cifar10_valid_12").values)
    assert shown(early) == [20.5, 11.7, 2.8, 37.6, 9.9, 17.5]
    assert shown(decomposition.by_order(accuracy.variances)) == [28.5, 39.3, 25.6, 5.8, 0.7, 0.1]
    assert shown(decomposition.by_order(rank.variances)) == [71.5, 18.6, 6.6, 2.3, 0.7, 0.3]
    assert round(land.values.std(), 2) == 12.93 and land.values.mean() == pytest.approx(87.06, abs=0.005)
    assert rank.values.mean() == pytest.approx(50)
    (first, most), (second, next_most), *_ = accuracy.interactions()
    assert (first, round(100 * most, 1)) == ((0, 3), 10.3) and (second, round(100 * next_most, 1)) == ((3, 5), 10.0)


def test_marginal_means_of_the_published_table(published: Table) -> None:
    accuracy, _ = analyse(landscape(published))
    assert [[round(float(mean), 1) for mean in means] for means in accuracy.means] == [
        [82.0, 87.2, 89.8, 90.9, 85.3],
        [84.2, 86.9, 88.9, 89.7, 85.6],
        [86.6, 86.5, 87.8, 88.3, 86.1],
        [79.2, 88.4, 90.6, 91.8, 85.3],
        [84.3, 86.9, 88.7, 89.4, 86.0],
        [82.0, 87.2, 89.7, 90.5, 85.9],
    ]
    # The same as published: four of the 30 look rounded twice, 90.948 to 90.95 and then to 91.0.
    published_means = [
        [82.0, 87.2, 89.8, 91.0, 85.3],
        [84.2, 86.9, 88.9, 89.7, 85.7],
        [86.6, 86.5, 87.8, 88.3, 86.2],
        [79.2, 88.4, 90.6, 91.8, 85.3],
        [84.4, 86.9, 88.7, 89.4, 86.0],
        [82.0, 87.2, 89.7, 90.5, 85.9],
    ]
    assert np.array(accuracy.means) == pytest.approx(np.array(published_means), abs=0.06)


def test_operation_importance_of_the_published_table(published: Table) -> None:
    found = importance(landscape(published))
    assert (found.count, round(found.least, 2), round(found.most, 2)) == (781, 93.28, 94.37)
    assert [round(value, 2) for value in found.by_slot.values()] == [1.11, 0.39, 0.17, 0.79, 0.28, 0.87]
    assert [round(100 * share, 1) for share in found.within.values()] == [12.8, 35.0, 48.1]
    assert (round(100 * found.above_one, 1), round(100 * found.negative, 1)) == (32.8, 13.6)
    assert found.needed == 3
    assert {name: (round(100 * share, 1), round(median, 2)) for name, (share, median) in found.by_operation.items()} == {
        "nor_conv_3x3": (44.1, 0.93),
        "nor_conv_1x1": (21.0, 0.33),
        "skip_connect": (19.1, 0.66),
        "none": (9.9, 0.10),
        "avg_pool_3x3": (5.9, -0.08),
    }


def test_shap_and_the_additive_explanation_of_the_published_table(published: Table) -> None:
    numbers = explain(published, "cifar10.csv.gz", "cifar10_test_200", "6111", pictures=False).numbers
    one = numbers["architecture"]
    assert one["text"] == "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    assert [round(value, 2) for value in one["shap"]["accuracy"].values()] == [2.04, 1.28, 0.53, 1.00, 1.09, 1.37]
    assert round(sum(one["shap"]["accuracy"].values()), 2) == 7.31 and round(one["values"]["accuracy"], 2) == 94.37
    assert sum(one["shap"]["rank"].values()) == pytest.approx(one["values"]["rank"] - 50)
    path = one["ablation"]
    assert path["base"] == "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
    assert [round(accuracy, 2) for accuracy in (path["accuracy"], *(step["accuracy"] for step in path["steps"]))] == [
        54.30, 88.00, 92.21, 93.84, 93.97, 94.37,
    ]  # fmt: skip
    assert [step["slot"] for step in path["steps"]] == ["0 to 1", "2 to 3", "1 to 3", "0 to 2", "1 to 2"]
    assert round(numbers["additive"]["spearman"], 3) == 0.702
    assert numbers["additive"]["kendall_tau"] == pytest.approx(0.505, abs=0.015)  # published of a sample of 3,000


Plain = Callable[[Callable[[tuple[int, ...]], float]], Table]


@pytest.fixture
def plain(make_table: Callable[..., Table]) -> Plain:
    """Makes a table of three operations with a score."""
    return lambda score: make_table(["none", "skip_connect", "nor_conv_3x3"], score)


def test_a_table_in_which_one_edge_decides(plain: Plain) -> None:
    data = plain(lambda places: 60 + 10 * places[3])
    found = explain(data, "made.csv", "cifar10_valid_200", pictures=True)
    measure = found.numbers["measures"]["accuracy"]
    assert measure["shapley"] == pytest.approx({slot: float(slot == "0 to 3") for slot in found.numbers["slots"]})
    assert measure["means"]["0 to 3"] == pytest.approx({"none": 70, "skip_connect": 80, "nor_conv_3x3": 90})
    assert found.numbers["architecture"]["shap"]["accuracy"]["0 to 3"] == pytest.approx(10)
    assert found.sentences[0] == (
        "Edge 0 to 3 has the largest part in the accuracy: 100.0% of its variance by Shapley effects, 100.0% by itself and "
        "100.0% with all interactions."
    )
    html = found.page.html()
    assert "made.csv" in html and all(sentence.split(":")[0] in html for sentence in found.sentences)
    assert {"effects/accuracy", "means/rank", "shap"} <= set(found.figures)
    json.dumps(found.numbers, allow_nan=False)


def test_an_ablation_path_goes_from_the_base_that_is_asked_for(plain: Plain) -> None:
    data = plain(lambda places: 50 + 10 * places[3] + 3 * places[0] + places[0] * places[5])
    best, others = list(data.rows)[-1], list(data.rows)
    found = explain(data, "made.csv", "cifar10_test_200", best, pictures=False, base="0")
    path = found.numbers["architecture"]["ablation"]
    assert path["base"] == others[0] and path["accuracy"] == 50
    steps = [(step["slot"], step["operation"], step["accuracy"]) for step in path["steps"]]
    assert steps[:3] == [
        ("0 to 3", "nor_conv_3x3", 70.0),
        ("0 to 1", "nor_conv_3x3", 76.0),
        ("2 to 3", "nor_conv_3x3", 80.0),
    ]
    assert len(steps) == 6 and any("0 to 3 nor_conv_3x3 70.00%" in said for said in found.sentences)
    itself = explain(data, "made.csv", "cifar10_test_200", best, pictures=False, base=best)
    assert itself.numbers["architecture"]["ablation"]["steps"] == []
    assert any("no step leads to it" in said for said in itself.sentences)
    with pytest.raises(FieldError, match="from: "):
        explain(data, "made.csv", "cifar10_test_200", best, pictures=False, base="729")


def test_the_base_of_a_table_without_skip_connections(make_table: Callable[..., Table]) -> None:
    data = make_table(["none", "mine", "other"], sum)
    path = explain(data, "made.csv", "cifar10_test_200", pictures=False).numbers["architecture"]["ablation"]
    assert path["base"] == "|mine~0|+|mine~0|mine~1|+|mine~0|mine~1|mine~2|"


def test_names_of_a_user_stay_text(plain: Plain) -> None:
    found = explain(plain(sum), "<b>file</b>", "cifar10_test_200", pictures=False)
    assert "<b>" not in found.page.html() and "&lt;b&gt;file" in found.page.html()
    assert found.figures == {} and "<img" not in found.page.html()


def test_an_edge_without_a_choice_has_no_importance() -> None:
    land = Landscape(("0 to 1", "0 to 2"), (("a", "b"), ("a",)), np.array([[1.0], [3.0]]))
    found = importance(land, best=0.5)
    assert found.by_slot == {"0 to 1": 2.0} and found.by_operation == {"b": (0.5, 2.0)} and found.count == 1


def test_architectures_that_are_asked_for(plain: Plain) -> None:
    data = plain(lambda places: 50 + places[0])
    land = landscape(data)
    text = list(data.rows)[5]
    assert choose(data, land, "5") == choose(data, land, text) == text
    assert data.rows[choose(data, land, None)].test_accuracy == 52
    for wrong in ("729", "-1", "nonsense", text.replace("none", "avg_pool_3x3")):
        with pytest.raises(FieldError, match="architecture: "):
            choose(data, land, wrong)


def test_a_table_of_equal_accuracies_explains_nothing(plain: Plain) -> None:
    data = Table({text: TableRow(50.1, 50.1, 50.1, 1, 1, {}) for text in plain(sum).rows})
    with pytest.raises(FieldError, match="all accuracies of the column are equal"):
        explain(data, "made.csv", "cifar10_test_200", pictures=False)
