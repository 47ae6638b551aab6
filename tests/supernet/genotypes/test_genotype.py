"""Genotypes: what is a valid one, when two are equal, and every text form there and back."""

import copy
import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.registry import list_ops
from supernet.genotypes.genotype import CellGenotype, Genotype
from supernet.genotypes.published import get_genotype
from supernet.genotypes.texts import LARGEST_TEXT
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.nasbench201 import NASBENCH201_SKELETON
from supernet.spaces.skeleton import Skeleton

ARCH = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
PAIRS = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 0)], "
    "normal_concat=range(2, 4), reduce=[('avg_pool_3x3', 1), ('none', 0)], reduce_concat=[2])"
)
TRIPLES = (
    "Genotype(normal=[('sep_conv_3x3', 2, 0), ('skip_connect', 4, 0), ('dil_conv_5x5', 4, 2), ('noise', 4, 1)], "
    "normal_concat=[2, 4], reduce=[], reduce_concat=range(2, 5))"
)
TEXTS = (ARCH, PAIRS, TRIPLES)

few = settings(max_examples=60, deadline=None, derandomize=True)
operations = st.sampled_from(list_ops())


def cell_of(inputs: int, degrees: st.SearchStrategy[int], first_concat: int) -> st.SearchStrategy[CellGenotype]:
    """Cells of 1 to 6 nodes with those in-degrees and any concatenation of states from `first_concat` on."""

    @st.composite
    def build(draw: st.DrawFn) -> CellGenotype:
        count = draw(st.integers(1, 6))
        nodes = []
        for node in range(count):
            degree = draw(degrees)
            feed = st.tuples(operations, st.integers(0, inputs + node - 1))
            nodes.append(tuple(draw(st.lists(feed, min_size=degree, max_size=degree))))
        states = st.integers(first_concat, inputs + count - 1)
        return CellGenotype(tuple(nodes), tuple(draw(st.lists(states, min_size=1, unique=True))))

    return build()


def darts_genotypes(degrees: st.SearchStrategy[int]) -> st.SearchStrategy[Genotype]:
    return st.builds(
        lambda normal, reduce: Genotype({"normal": normal, "reduce": reduce}, DARTS_SKELETON, "darts"),
        cell_of(2, degrees, 0),
        cell_of(2, degrees, 2),
    )


arches = st.tuples(*[operations] * 6).map(
    lambda six: "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*six)  # as published
)
any_degree = st.integers(0, 4)


def a_cell(*nodes: tuple[tuple[str, int], ...], concat: tuple[int, ...] = (2,)) -> CellGenotype:
    return CellGenotype(nodes or ((("sep_conv_3x3", 0), ("skip_connect", 1)),), concat)


def a_genotype(normal: CellGenotype | None = None, reduce: CellGenotype | None = None) -> Genotype:
    return Genotype({"normal": normal or a_cell(), "reduce": reduce or a_cell()}, DARTS_SKELETON, "darts")


# There and back


@few
@given(
    darts_genotypes(any_degree), st.integers() | st.none(), st.text() | st.none(), st.from_regex(r"[ -~]{1,20}", fullmatch=True)
)
def test_json_keeps_everything(genotype: Genotype, seed: int | None, config_hash: str | None, space: str) -> None:
    genotype = dataclasses.replace(genotype, seed=seed, config_hash=config_hash, space=space)
    again = Genotype.parse(genotype.to_text("json"))
    assert again == genotype
    assert (again.seed, again.config_hash, again.space) == (seed, config_hash, space)
    assert again.to_text("json") == genotype.to_text("json")


@few
@given(cell_of(1, any_degree, 0))
def test_json_takes_any_cell_of_the_other_skeleton(cell: CellGenotype) -> None:
    genotype = Genotype({"cell": cell}, NASBENCH201_SKELETON, "mine")
    assert Genotype.parse(genotype.to_text("json")) == genotype
    assert Genotype.parse(genotype.to_text(genotype.text_form)).cells == genotype.cells


@few
@given(darts_genotypes(st.just(2)))
def test_two_inputs_a_node_are_written_as_pairs(genotype: Genotype) -> None:
    text = genotype.to_text("darts")
    assert Genotype.parse(text) == genotype
    assert text.count("(") == 1 + text.count("range(") + sum(2 * len(cell.nodes) for cell in genotype.cells.values())
    assert all(text.count(f"', {target}, ") == 0 for target in range(2, 8))


@few
@given(darts_genotypes(any_degree))
def test_any_inputs_are_written_as_triples(genotype: Genotype) -> None:
    lost = [cell for cell in genotype.cells.values() if not cell.nodes[-1] and max(cell.concat) < 1 + len(cell.nodes)]
    if lost:
        assert genotype.text_form == "json"
        with pytest.raises(ValueError, match=r"no darts text: .*it has no input and is not concatenated; the form json"):
            genotype.to_text("darts")
    else:
        assert genotype.text_form == "darts"
        assert Genotype.parse(genotype.to_text("darts")) == genotype


@few
@given(arches)
def test_nasbench201_strings_come_back_as_published(arch: str) -> None:
    genotype = Genotype.parse(arch)
    assert genotype.to_text("nasbench201") == arch
    assert (genotype.text_form, genotype.space, genotype.skeleton) == ("nasbench201", "nasbench201", NASBENCH201_SKELETON)
    assert genotype.cells["cell"].concat == (3,)


@pytest.mark.parametrize("text", TEXTS)
def test_save_and_load(text: str, tmp_path: Path) -> None:
    genotype = dataclasses.replace(Genotype.parse(text), seed=7, config_hash="c0ffee")
    genotype.save(tmp_path / "genotype.json")
    loaded = Genotype.load(tmp_path / "genotype.json")
    assert (loaded, loaded.seed, loaded.config_hash) == (genotype, 7, "c0ffee")
    (tmp_path / "text").write_text(f"\ufeff\n {text}\n")
    assert Genotype.load(tmp_path / "text") == genotype
    assert sorted(os.listdir(tmp_path)) == ["genotype.json", "text"]


def test_published_genotypes(shared_data: Callable[[str], Path]) -> None:
    rows = json.loads(shared_data("genotypes/published.json").read_text())
    assert len(rows) == 62
    for row in rows:
        genotype = Genotype.parse(row["text"])
        assert row["text"] == genotype.to_text("darts").replace("range(2, 6)", "[2, 3, 4, 5]").replace(
            "range(2, 7)", "[2, 3, 4, 5, 6]"
        ).replace("range(4, 7)", "[4, 5, 6]")
        assert Genotype.parse(genotype.to_text("json")) == genotype


def test_what_the_texts_mean() -> None:
    genotype = Genotype.parse(TRIPLES)
    assert genotype.cells["normal"] == CellGenotype(
        ((("sep_conv_3x3", 0),), (), (("skip_connect", 0), ("dil_conv_5x5", 2), ("noise", 1))), (2, 4)
    )
    assert genotype.cells["reduce"] == CellGenotype(((), (), ()), (2, 3, 4))
    assert Genotype.parse(ARCH).cells["cell"] == CellGenotype(
        ((("nor_conv_3x3", 0),), (("nor_conv_3x3", 0), ("avg_pool_3x3", 1)),
         (("skip_connect", 0), ("nor_conv_3x3", 1), ("skip_connect", 2))), (3,),
    )  # fmt: skip


def test_layout_of_a_text_does_not_matter() -> None:
    spread = PAIRS.replace("(", "(\n ").replace(",", " ,\n\t")
    assert Genotype.parse(spread) == Genotype.parse(PAIRS)
    entries = {"reduce_concat": "(2,)", "normal": "[('none', 0), ['none', 1]]", "reduce": "[]", "normal_concat": "range(3)"}
    shuffled = Genotype.parse(f"Genotype({', '.join(f'{key}={value}' for key, value in entries.items())},)")
    assert shuffled.cells["normal"].concat == (0, 1, 2)
    assert Genotype.parse(ARCH.replace("|", " | ").replace("+", "\n+\n")) == Genotype.parse(ARCH)


# Equality


def test_order_of_inputs_does_not_count() -> None:
    one = a_genotype(a_cell((("sep_conv_3x3", 0), ("skip_connect", 1)), (("none", 0), ("none", 2))))
    other = a_genotype(a_cell((("skip_connect", 1), ("sep_conv_3x3", 0)), (("none", 2), ("none", 0))))
    assert one == other and hash(one) == hash(other)


def test_provenance_does_not_count() -> None:
    known = dataclasses.replace(a_genotype(), seed=3, config_hash="x")
    assert known == a_genotype() and hash(known) == hash(a_genotype())


@pytest.mark.parametrize(
    "other",
    [
        a_genotype(a_cell((("sep_conv_5x5", 0), ("skip_connect", 1)))),
        a_genotype(a_cell((("sep_conv_3x3", 1), ("skip_connect", 0)))),
        a_genotype(a_cell((("sep_conv_3x3", 0), ("skip_connect", 1), ("skip_connect", 1)))),
        a_genotype(a_cell((("sep_conv_3x3", 0), ("skip_connect", 1)), concat=(1, 2))),
        a_genotype(None, a_cell((("none", 0),))),
        dataclasses.replace(a_genotype(), space="mine"),
        "a text",
    ],
)
def test_everything_else_counts(other: object) -> None:
    assert a_genotype() != other


def test_nodes_are_not_interchangeable() -> None:
    first, second = (("noise", 0),), (("none", 1),)
    assert a_cell(first, second) != a_cell(second, first)


def test_a_genotype_is_a_value() -> None:
    cells = {"normal": a_cell(), "reduce": a_cell()}
    genotype = Genotype(cells, DARTS_SKELETON, "darts", 5)
    cells.clear()
    assert list(genotype.cells) == ["normal", "reduce"]
    with pytest.raises(TypeError):
        genotype.cells["normal"] = a_cell((("none", 0),))  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        genotype.seed = 6  # type: ignore[misc]
    for twin in (copy.deepcopy(genotype), pickle.loads(pickle.dumps(genotype))):
        assert twin == genotype and twin.seed == 5
    lists = CellGenotype([[["sep_conv_3x3", 0], ("skip_connect", 1)]], [2])  # type: ignore[arg-type]
    assert lists == a_cell() and hash(lists) == hash(a_cell())


# Refusal


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            a_cell((("sep_conv_9x9", 0),)),
            r"normal, node 0, input 0: unknown operation 'sep_conv_9x9'; did you mean .* known: avg_",
        ),
        (a_cell((("none", 0),), (("none", 0), ("none", 3))), r"normal, node 1, input 1: state 3 is out of range, .* 0 to 2"),
        (a_cell((("none", -1),)), r"normal, node 0, input 0: state -1 is out of range"),
        (a_cell(concat=(3,)), r"normal, concat: state 3 is out of range, it must be 0 to 2"),
        (a_cell(concat=(-1,)), r"normal, concat: state -1 is out of range"),
        (a_cell(concat=(2, 1, 2)), r"normal, concat: state 2 is there twice"),
        (a_cell(concat=()), r"normal, concat: must name at least one state"),
        (CellGenotype((), (0,)), r"normal: a cell has 1 to 62 nodes, not 0"),
        (CellGenotype(((),) * 63, (2,)), r"normal: a cell has 1 to 62 nodes, not 63"),
        (
            CellGenotype(((), (("none", 0),) * 513), (2,)),
            r"normal: .* have at most 512 inputs together, not 513",
        ),
    ],
)
def test_impossible_cells(cell: CellGenotype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_genotype(normal=cell)


@pytest.mark.parametrize(
    ("nodes", "concat", "message"),
    [
        ([[("none", True)]], [2], "node 0, input 0: expected the number of a state, got True"),
        ([[("none", 1.0)]], [2], "node 0, input 0: expected the number of a state, got 1.0"),
        ([[], [("none", 0), (3, 0)]], [2], "node 1, input 1: expected an operation and its source state"),
        ([[("none", 0, 1)]], [2], "node 0, input 0: expected an operation and its source state"),
        (["none"], [2], "node 0: expected a list, got 'none'"),
        ([[]], 2, "concat: expected a list, got 2"),
        ([[]], ["2"], "concat: expected the number of a state, got '2'"),
    ],
)
def test_cells_of_something_else(nodes: object, concat: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellGenotype(nodes, concat)  # type: ignore[arg-type]


def test_reduction_cells_do_not_concatenate_their_inputs() -> None:
    assert a_genotype(normal=a_cell(concat=(0, 2))).cells["normal"].concat == (0, 2)
    with pytest.raises(ValueError, match="reduce, concat: state 0 is an input"):
        a_genotype(reduce=a_cell(concat=(0, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": {"normal": a_cell()}}, "the darts skeleton has the kinds normal, reduce, not 'normal'"),
        ({"cells": {"cell": a_cell()}, "skeleton": NASBENCH201_SKELETON}, "cell, node 0, input 1: state 1 is out of range"),
        ({"skeleton": NASBENCH201_SKELETON}, "the nasbench201 skeleton has the kinds cell, not 'normal', 'reduce'"),
        ({"skeleton": dataclasses.replace(DARTS_SKELETON, name="mine")}, "unknown skeleton 'mine'; known: darts, nasbench201"),
        ({"space": ""}, "space: expected a name, got ''"),
        ({"space": "a\nb"}, "space: expected a name"),
        ({"seed": 1.5}, "seed: expected an integer or none, got 1.5"),
        ({"seed": True}, "seed: expected an integer or none, got True"),
        ({"config_hash": 3}, "config_hash: expected a text or none, got 3"),
    ],
)
def test_impossible_genotypes(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(a_genotype(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        ("  \n", "the text is empty"),
        ("DARTS_V2", "expected JSON, a NAS-Bench-201 string or Genotype.* begins with 'DARTS_V2'"),
        ("x" * (LARGEST_TEXT + 1), "4194305 characters are more than"),
        # NAS-Bench-201
        ("|none~0|+|none~0|none~1|", "3 nodes with . between them, not 2"),
        (ARCH + "+|none~0|", "3 nodes with . between them, not 4"),
        (ARCH[:-1], r"cell, node 2: expected \|operation~state"),
        (ARCH.replace("avg_pool_3x3~1|", ""), "cell, node 1: it needs exactly one operation from each .* 0 to 1, but has 0"),
        (ARCH.replace("~2", "~1"), "cell, node 2: it needs exactly one operation from each .* 0 to 2, but has 0, 1, 1"),
        (ARCH.replace("~2", "~3"), "cell, node 2: .* but has 0, 1, 3"),
        (ARCH.replace("~2", "~"), "cell, node 2, input 2: expected operation~state, got 'skip_connect~'"),
        (ARCH.replace("avg_pool_3x3", "avg_pool_4x4"), "cell, node 1, input 1: unknown operation 'avg_pool_4x4'; did "),
        # pairs
        (PAIRS.replace(", ('none', 0)", ""), "reduce: every node takes two pairs, but 1 is an odd number"),
        (PAIRS.replace("('none', 0)", "('none', 2)"), "reduce, node 0, input 1: state 2 is out of range, it must be 0 to 1"),
        (PAIRS.replace("('none', 0)", "('none', True)"), "reduce, node 0, input 1: expected the number of a state, got True"),
        (PAIRS.replace("('none', 0)", "('none', 0.0)"), "reduce, node 0, input 1: expected the number of a state, got 0.0"),
        (PAIRS.replace("('none', 0)", "('none', 2, 0)"), "reduce, entry 1: pairs and triples are mixed"),
        (PAIRS.replace("('none', 0)", "('none',)"), r"reduce, entry 1: expected \(operation, source\) or"),
        (PAIRS.replace("('none', 0)", "'none'"), r"reduce, entry 1: expected \(operation, source\) or"),
        (PAIRS.replace("('none', 0)", "('sep_conv_9x9', 0)"), "reduce, node 0, input 1: unknown operation 'sep_conv_9x9'"),
        (PAIRS.replace("range(2, 4)", "range(2, 5)"), "normal, concat: state 4 is out of range, it must be 0 to 3"),
        (PAIRS.replace("range(2, 4)", "range(2, 10**9)"), r"normal_concat: expected , or \) at line 1, but there is .\*\*9"),
        (PAIRS.replace("range(2, 4)", "range(2, 1000000000)"), "normal, concat: .*out of range"),
        (PAIRS.replace("range(2, 4)", "range(2, 4, 0)"), "normal, concat: .*out of range"),
        (PAIRS.replace("range(2, 4)", "range(True)"), "normal, concat: expected the number of a state, got True"),
        (PAIRS.replace("range(2, 4)", "range(4, 2)"), "normal, concat: must name at least one state"),
        (PAIRS.replace("range(2, 4)", "set([2])"), "normal_concat: only lists .* are read, not set$"),
        (PAIRS.replace("range(2, 4)", "[2, 2]"), "normal, concat: state 2 is there twice"),
        (PAIRS.replace("[2]", "2"), "reduce, concat: expected a list, got 2"),
        (PAIRS.replace("reduce_concat=", "normal="), "keyword normal is there twice"),
        (PAIRS.replace("reduce_concat=", "middle="), "unknown keyword 'middle'; known: normal, normal_concat, reduce"),
        (PAIRS.replace("reduce_concat=", ""), "expected a keyword at line 1"),
        (PAIRS.replace(", reduce_concat=[2]", ""), "keyword reduce_concat is missing"),
        (PAIRS.replace("normal_concat=", "**"), r"expected a keyword at line 1, but there is '\*\*range"),
        (PAIRS[:-1], r"expected , or \) at line 1, but there is the end of the text .cut short"),
        (PAIRS + " more", "something else behind it: more"),
        (PAIRS + ".cells", "something else behind it: .cells"),
        ("Genotype", "expected JSON, .* begins with 'Genotype'"),
        ("Genotype()", "keyword normal is missing"),
        ("Genotype([], [2], [], [2])", "every value needs its keyword"),
        # triples
        (TRIPLES.replace("4, 0)", "1, 0)"), "normal, entry 1: target state 1 is out of range, it must be 2 to 63"),
        (TRIPLES.replace("4, 0)", "True, 0)"), "normal, entry 1: expected the number of a state, got True"),
        (TRIPLES.replace("4, 0)", f"{2**80}, 0)"), "normal, entry 1: target state an integer of more than 64 bits is out"),
        (TRIPLES.replace("4, 0)", "4, 4)"), "normal, node 2, input 0: state 4 is out of range, it must be 0 to 3"),
        (TRIPLES.replace("[2, 4]", "[2, 99999]"), "normal, concat: state 99999 is out of range, it must be 0 to 63"),
        # nothing that runs, nothing that exhausts
        (PAIRS.replace("('none', 0)", "__import__('os').abort()"), "reduce: only lists and tuples of plain texts and integers"),
        (PAIRS.replace("range(2, 4)", "__import__('os').abort()"), "normal_concat: only lists .*, not __import__"),
        (PAIRS.replace("[2]", "[" * 90 + "]" * 90), "reduce_concat: nested too deeply, more than 16 brackets"),
        ("Genotype(" + "(" * 100_000, "Genotype.*nested too deeply"),
        ("Genotype(normal=" + "-" * 100_000 + "1)", "normal: expected a value at line 1"),
        ("Genotype(normal=1" + "+1" * 100_000 + ")", r"Genotype.*expected , or \) at line 1"),
        (PAIRS.replace("[2]", "[" + "9" * 900 + "]"), "reduce, concat: state an integer of more than 64 bits is out"),
        (PAIRS.replace("('none', 0)", "(" + "9" * 100_000 + ",)"), "reduce: a value of 100000 characters, 9999.* is too long"),
        ("Genotype(\0)", r"Genotype.*but there is '.x00"),
    ],
)  # fmt: skip
def test_broken_texts(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Genotype.parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def changed(**changes: object) -> str:
    """The JSON of a genotype with some of its keys replaced, or left out where the value is `...`."""
    content = json.loads(a_genotype().to_text("json"))
    content.update(changes)
    return json.dumps({key: value for key, value in content.items() if value is not ...})


SPACE = {"name": "darts", "skeleton": "darts", "inputs": 2, "kinds": ["normal", "reduce"]}
CELL = {"nodes": [[["none", 0]]], "concat": [2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(format=2), "genotype: unknown format 2; this version reads format 1"),
        (changed(format=True), "genotype: unknown format True"),
        (changed(format=1.0), "genotype: unknown format 1.0"),
        (changed(format=...), "genotype: key 'format' is missing"),
        (changed(cells=...), "genotype: key 'cells' is missing"),
        (changed(extra=1), "genotype: unknown key 'extra'; known: format, space, cells, seed, config_hash"),
        (changed(space="darts"), "space: expected an object with the keys name, skeleton, inputs, kinds, got 'darts'"),
        (changed(space={**SPACE, "skeleton": "resnet"}), "space: unknown skeleton 'resnet'; known: darts, nasbench201"),
        (changed(space={**SPACE, "skeleton": ["darts"]}), "space: unknown skeleton"),
        (changed(space={**SPACE, "inputs": 1}), "space: inputs of the darts skeleton are 2, not 1"),
        (changed(space={**SPACE, "inputs": 2.0}), "space: inputs of the darts skeleton are 2, not 2.0"),
        (changed(space={**SPACE, "kinds": ["cell"]}), "space: kinds of the darts skeleton are .*, not"),
        (changed(space={**SPACE, "name": 3}), "space: expected a name, got 3"),
        (changed(space={**SPACE, "name": "\ud800"}), "space: expected a name"),
        (changed(space={**SPACE, "nodes": 4}), "space: unknown key 'nodes'"),
        (changed(cells={"normal": CELL}), "cells: key 'reduce' is missing"),
        (changed(cells={"normal": CELL, "reduce": CELL, "cell": CELL}), "cells: unknown key 'cell'"),
        (changed(cells={"normal": CELL, "reduce": [CELL]}), "reduce: expected an object with the keys nodes, concat"),
        (changed(cells={"normal": CELL, "reduce": {**CELL, "nodes": [[["none", 2]]]}}), "reduce, node 0, input 0: state 2"),
        (changed(cells={"normal": CELL, "reduce": {**CELL, "nodes": [[["none"]]]}}), "reduce, node 0, input 0: expected"),
        (changed(cells={"normal": CELL, "reduce": {"nodes": [], "concat": [2]}}), "reduce: a cell has 1 to 62 nodes"),
        (changed(seed="1"), "seed: expected an integer or none"),
        (changed(seed=float("nan")), "NaN is not a number of JSON"),
        (changed()[:-30], "not valid JSON .half-written..: .* at line 1, column"),
        (changed().replace('"seed"', '"format"'), "key 'format' is there twice"),
        (changed() + changed(), r"holds 2 genotypes: 1 .line 1., 2 .line 1.; say"),
        ("{}", "genotype: key 'format' is missing"),
        ('{"format": ' + "[" * 200_000, "JSON nested too deeply"),
    ],
)  # fmt: skip
def test_broken_json(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Genotype.parse(text)
    assert "\n" not in str(error.value)


def test_a_space_of_the_user_and_no_provenance_are_fine() -> None:
    genotype = Genotype.parse(changed(space={**SPACE, "name": "my space"}, seed=..., config_hash=...))
    assert (genotype.space, genotype.seed, genotype.config_hash) == ("my space", None, None)


ODD = [
    "True",
    "None",
    "-1",
    "1.0",
    "1e999",
    "99999999999999999999",
    "''",
    "[]",
    "()",
    "{}",
    "range",
    "lambda: 0",
    "\0",
    "é",
    "'''",
    "\\",
    "#",
]
VALID = [
    *TEXTS,
    a_genotype().to_text("json"),
    *(Genotype.parse(ARCH).to_text(form) for form in ("json", "autodl", "nni", "naslib")),
    *(get_genotype("DARTS_V2").to_text(form) for form in ("pt_darts", "nni", "naslib", "nasbench301")),
    f"11/23 10:11:12 PM genotype = {PAIRS}\n11/23 10:12:13 PM genotype = {TRIPLES}",
    f"A = {PAIRS}\nB = Structure(4 nodes with {ARCH})",
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid text with a few pieces cut out, doubled, moved or replaced."""
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(start + 12, len(text))))
        piece = draw(
            st.sampled_from(["", text[start:end] * 2, *ODD])
            | st.sampled_from(list("0123456789()[]{}|~+,:'\"\n=_*.")).map(str)
            | st.text(max_size=3)
        )
        text = text[:start] + piece + text[end:]
    return text


@settings(max_examples=500, deadline=None, derandomize=True)
@given(mutated())
def test_a_mutated_text_is_a_genotype_or_a_value_error(text: str) -> None:
    try:
        genotype = Genotype.parse(text)
    except ValueError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600
    else:
        assert Genotype.parse(genotype.to_text("json")) == genotype
        assert Genotype.parse(genotype.to_text(genotype.text_form)).cells == genotype.cells


@pytest.mark.parametrize(
    ("genotype", "form", "message"),
    [
        (a_genotype(), "nasbench201", "no nasbench201 text: its skeleton is darts"),
        (Genotype.parse(ARCH), "darts", "no darts text: its skeleton is nasbench201"),
        (
            Genotype({"cell": CellGenotype(((("none", 0),),), (1,))}, NASBENCH201_SKELETON, "mine"),
            "nasbench201",
            "it needs 3 nodes",
        ),
        (
            Genotype({"cell": CellGenotype(((("none", 0),), (("none", 0),), ()), (3,))}, NASBENCH201_SKELETON, "mine"),
            "nasbench201",
            "cell, node 1: it needs exactly one operation from each of the states 0 to 1, but has 0",
        ),
        (a_genotype(), "yaml", "unknown text form 'yaml'; known: darts, pt_darts, nasbench201, .*, json"),
    ],
)
def test_forms_that_a_genotype_does_not_have(genotype: Genotype, form: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        genotype.to_text(form)


# Files


def test_files_that_hold_no_genotype(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    whole = a_genotype().to_text("json").encode()
    for content, message in [
        (b"", "not a genotype: .*the text is empty"),
        (b"\x89PNG\r\n\x1a\n\xff\x00", "binary, or not UTF-8"),
        (b"\0" * 100, "not a genotype"),
        (whole[: len(whole) // 2], "not valid JSON .half-written"),
        (whole + b" " * LARGEST_TEXT, "is too large, above 4 MiB"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            Genotype.load(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json: no such file"):
        Genotype.load(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="is a folder, where a file is needed"):
        Genotype.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no regular file"):  # in place of waiting for a writer
        Genotype.load(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no such file"):
        Genotype.load("a\0b")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "genotype.json"
    a_genotype().save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Genotype.parse(ARCH).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    Genotype.parse(ARCH).save(path)
    assert Genotype.load(path) == Genotype.parse(ARCH)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        a_genotype().save(tmp_path / "absent" / "genotype.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        a_genotype().save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"] and not os.listdir(tmp_path / "folder")


@pytest.mark.parametrize("skeleton", [DARTS_SKELETON, NASBENCH201_SKELETON])
def test_json_names_the_skeleton(skeleton: Skeleton) -> None:
    genotype = a_genotype() if skeleton is DARTS_SKELETON else Genotype.parse(ARCH)
    space = json.loads(genotype.to_text("json"))["space"]
    assert space == {
        "name": skeleton.name, "skeleton": skeleton.name, "inputs": skeleton.inputs, "kinds": list(skeleton.kinds),
    }  # fmt: skip
