"""Genotypes as other projects print them: known answers, round trips, and which one of several is meant.

The known answers are architectures that the projects publish themselves, in their own form.
"""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.genotypes.genotype import CellGenotype, Genotype, load_noted
from supernet.genotypes.published import PUBLISHED, find_genotype, get_genotype, read_genotype
from supernet.genotypes.texts import FORMS, LARGEST_TEXT, read_text
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.nasbench201 import NASBENCH201_SKELETON
from supernet.spaces.space import get_space

few = settings(max_examples=25, deadline=None, derandomize=True)
V2 = get_genotype("DARTS_V2")
DARTS = V2.to_text("darts")
ARCH = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
CELL = Genotype.parse(ARCH)
WORSE = ARCH.replace("avg_pool_3x3", "none")

# The cells that the README of pt.darts gives for CIFAR-10, and the same as DARTS would print them.
PT_DARTS = """Genotype(
    normal=[[('sep_conv_3x3', 0), ('dil_conv_5x5', 1)], [('skip_connect', 0), ('dil_conv_3x3', 2)],
            [('sep_conv_3x3', 1), ('skip_connect', 0)], [('sep_conv_3x3', 1), ('skip_connect', 0)]],
    normal_concat=range(2, 6),
    reduce=[[('max_pool_3x3', 0), ('max_pool_3x3', 1)], [('max_pool_3x3', 0), ('skip_connect', 2)],
            [('skip_connect', 3), ('max_pool_3x3', 0)], [('skip_connect', 2), ('max_pool_3x3', 0)]],
    reduce_concat=range(2, 6)
)"""
PT_DARTS_FLAT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('dil_conv_5x5', 1), ('skip_connect', 0), ('dil_conv_3x3', 2), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 3), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('max_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])"
)

# DARTS_V2 as the model zoo of nni has it: operations and inputs of nodes 2 to 5.
NNI_OPERATIONS = {
    "normal": "sep_conv_3x3 sep_conv_3x3 sep_conv_3x3 sep_conv_3x3 sep_conv_3x3 skip_connect skip_connect dil_conv_3x3",
    "reduce": "max_pool_3x3 max_pool_3x3 skip_connect max_pool_3x3 max_pool_3x3 skip_connect skip_connect max_pool_3x3",
}
NNI_INPUTS = {"normal": (0, 1, 0, 1, 1, 0, 0, 2), "reduce": (0, 1, 2, 1, 0, 2, 2, 1)}
SLOTS = [(node, slot) for node in (2, 3, 4, 5) for slot in (0, 1)]
NNI = {
    **{f"{kind}/op_{n}_{k}": op for kind, ops in NNI_OPERATIONS.items() for (n, k), op in zip(SLOTS, ops.split(), strict=True)},
    **{f"{kind}/input_{n}_{k}": [s] for kind, inputs in NNI_INPUTS.items() for (n, k), s in zip(SLOTS, inputs, strict=True)},
}

# The cells of an example configuration of NAS-Bench-301, whose other settings are no part of a genotype.
PREFIX = "NetworkSelectorDatasetInfo:darts:"
NASBENCH301 = {
    "CreateImageDataLoader:batch_size": 96,
    **{f"{PREFIX}edge_normal_{number}": name for number, name in (
        (0, "skip_connect"), (1, "sep_conv_3x3"), (3, "dil_conv_5x5"), (4, "avg_pool_3x3"), (7, "dil_conv_5x5"),
        (8, "sep_conv_3x3"), (9, "dil_conv_3x3"), (10, "dil_conv_3x3"),
    )},
    **{f"{PREFIX}inputs_node_normal_{node}": inputs for node, inputs in ((3, "1_2"), (4, "2_3"), (5, "0_1"))},
    **{f"{PREFIX}edge_reduce_{number}": name for number, name in (
        (0, "dil_conv_3x3"), (1, "skip_connect"), (2, "max_pool_3x3"), (3, "dil_conv_5x5"), (6, "dil_conv_3x3"),
        (7, "avg_pool_3x3"), (9, "sep_conv_3x3"), (11, "sep_conv_3x3"),
    )},
    **{f"{PREFIX}inputs_node_reduce_{node}": inputs for node, inputs in ((3, "0_1"), (4, "1_2"), (5, "0_2"))},
    f"{PREFIX}layers": 8,
    f"{PREFIX}auxiliary": "True",
}  # fmt: skip
NASBENCH301_CELLS = (
    "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1), ('dil_conv_5x5', 1), ('avg_pool_3x3', 2), ('dil_conv_5x5', 2), "
    "('sep_conv_3x3', 3), ('dil_conv_3x3', 0), ('dil_conv_3x3', 1)], normal_concat=range(2, 6), reduce=[('dil_conv_3x3', 0), "
    "('skip_connect', 1), ('max_pool_3x3', 0), ('dil_conv_5x5', 1), ('dil_conv_3x3', 1), ('avg_pool_3x3', 2), "
    "('sep_conv_3x3', 0), ('sep_conv_3x3', 2)], reduce_concat=range(2, 6))"
)


def as_lines(content: dict[str, object]) -> str:
    """A configuration as ConfigSpace up to 0.4 prints it."""
    return "Configuration:\n" + "".join(f"  {key}, Value: {value!r}\n" for key, value in content.items())


WEIGHED = {
    kind: [tuple((name, source, 0.125) for name, source in feeds) for feeds in cell.nodes] for kind, cell in V2.cells.items()
}
"""As the searches of AutoDL print it, with the weight of each operation."""
AUTODL_SEARCH = str({**WEIGHED, "normal_concat": [2, 3, 4, 5], "reduce_concat": [2, 3, 4, 5]})

OF_DARTS = [
    ("assignment", f"DARTS_V2 = {DARTS}"),
    ("typed assignment", f"best: Genotype = {DARTS};"),
    ("line of a log", f"11/23 10:11:12 PM genotype = {DARTS}"),
    ("pt.darts's log", f"11/23 10:11:12 PM | Best Genotype = {V2.to_text('pt_darts')}"),
    ("level", f"[INFO] genotype = {DARTS} (valid 97.1)"),
    ("long line", f"10:11 INFO {'x' * 5000} genotype = {DARTS} {'y' * 5000}"),
    ("lightning", f"2024-01-02 03:04:05,678 - INFO - {DARTS}"),
    ("module", f"gt.Genotype{DARTS.removeprefix('Genotype')}"),
    ("quotes", f'"{DARTS}"'),
    ("markdown", f"```py\n# CIFAR10\n{DARTS}\n```"),
    ("json value", json.dumps({"name": "DARTS", "text": DARTS, "params": 3349342})),
    ("numpy 2", DARTS.replace(", 0)", ", np.int64(0))").replace(", 2)", ", numpy.int32(2))")),
    ("numpy's texts", DARTS.replace("'sep_conv_3x3'", "np.str_('sep_conv_3x3')")),
    ("tensors", DARTS.replace(", 1)", ", tensor(1, device='cuda:0'))").replace("range(2, 6)", "array([2, 3, 4, 5])")),
    ("windows", f"\ufeff{DARTS}\r\n".replace(", ", ",\r\n  ")),
    ("word processor", DARTS.replace("'", "\u2019")),
    ("nested", V2.to_text("pt_darts")),
    ("AutoDL's cells", V2.to_text("pt_darts").replace("[(", "((").replace(")]", "))")[:-1] + ", connectN=None, connects=None)"),
    ("AutoDL's search", AUTODL_SEARCH),
    ("nni", str(NNI)),
    ("nni's json", json.dumps(NNI, indent=4)),
    ("nni without lists", str({key: value[0] if isinstance(value, list) else value for key, value in NNI.items()})),
    ("NASLib", "(((0, 3), (1, 3), (0, 3), (1, 3), (1, 3), (0, 2), (0, 2), (2, 5)), "
               "((0, 0), (1, 0), (2, 2), (1, 0), (0, 0), (2, 2), (2, 2), (1, 0)))"),
]  # fmt: skip
OF_NASBENCH201 = [
    ("string", ARCH),
    ("assignment", f"arch = '{ARCH}'"),
    ("AutoDL", f"Structure(4 nodes with {ARCH})"),
    ("AutoDL's log", f"<<<--->>> The 000-099-th epoch : Structure(4 nodes with {ARCH})"),
    ("AutoDL's last line", f"Last : the gentotype is : Structure(4 nodes with {ARCH}), with the validation accuracy of 90.1%."),
    ("NASLib", "(4,3,3,0,0,0)"),
    ("NASLib's list", "[4, 3, 3, 0, 0, 0]"),
    ("NASLib with numpy 2", "best_arch = (np.int64(4), np.int64(3), np.int64(3), np.int64(0), np.int64(0), np.int64(0))\r\n"),
    ("nni", "{'cell/0_1': 'avg_pool_3x3', 'cell/0_2': 'conv_1x1', 'cell/1_2': 'skip_connect', 'cell/0_3': 'conv_1x1', "
            "'cell/1_3': 'skip_connect', 'cell/2_3': 'skip_connect'}"),
    ("nni's benchmark", '{"0_1": "avg_pool_3x3", "0_2": "conv_1x1", "1_2": "skip_connect", "0_3": "conv_1x1", '
                        '"1_3": "skip_connect", "2_3": "skip_connect"}'),
]  # fmt: skip
PASTED = [pytest.param(text, V2, id=f"darts: {name}") for name, text in OF_DARTS] + [
    pytest.param(text, CELL, id=f"nasbench201: {name}") for name, text in OF_NASBENCH201
]


@pytest.mark.parametrize(("text", "genotype"), PASTED)
def test_as_other_projects_print_them(text: str, genotype: Genotype, tmp_path: Path) -> None:
    """From a file, and directly as the value of `--genotype`."""
    assert Genotype.parse(text) == read_genotype(text) == genotype
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "pasted").write_text(text, encoding=encoding, newline="")
        assert read_genotype(tmp_path / "pasted") == genotype
    assert read_genotype(f"{tmp_path}/pasted#1") == genotype


def test_known_answers_of_other_projects() -> None:
    assert Genotype.parse(PT_DARTS) == Genotype.parse(PT_DARTS_FLAT)
    expected = Genotype.parse(NASBENCH301_CELLS)
    for text in (str(NASBENCH301), json.dumps(NASBENCH301), f"Configuration(values={NASBENCH301})", as_lines(NASBENCH301)):
        assert Genotype.parse(text) == expected
    inactive = NASBENCH301 | {f"{PREFIX}edge_normal_13": None}
    assert Genotype.parse(str(inactive)) == expected
    # All edges and operations of NASLib differ: 1-2, 1-3, 1-4, 2-3, 2-4, 3-4 in its numbers of nodes.
    assert Genotype.parse("(0, 1, 2, 3, 4, 0)").to_text("nasbench201") == (
        "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|skip_connect~2|"
    )


def test_settings_that_are_no_part_of_a_genotype_are_said() -> None:
    assert read_text(str(NASBENCH301)).note == (
        "only the cells of the dictionary are taken, without batch_size, layers, auxiliary"
    )
    assert read_text(str(NNI | {"width": 16, "depth": 8, "a": 1, "b": 2})).note.endswith("without width, depth, a and 1 more")
    assert read_text(str(NNI)).note == ""


FORMS_OF = {
    "darts": ("darts", "pt_darts", "nni", "naslib", "nasbench301", "json"),
    "nasbench201": ("nasbench201", "autodl", "nni", "naslib", "json"),
}


@pytest.mark.parametrize("space", FORMS_OF)
@few
@given(st.integers(0, 2**32))
def test_every_form_of_a_space_comes_back(space: str, seed: int) -> None:
    genotype = get_space(space).random(torch.Generator().manual_seed(seed))
    for form in FORMS:
        if form in FORMS_OF[space]:
            text = genotype.to_text(form)
            assert read_genotype(text) == genotype, form
        else:
            assert genotype.misfit(form) == f"its skeleton is {space}"


def test_published_genotypes_are_the_same_in_every_form_that_holds_them(shared_data: Callable[[str], Path]) -> None:
    texts = [row["text"] for row in json.loads(shared_data("genotypes/published.json").read_text())]
    held = dict.fromkeys(FORMS_OF["darts"], 0)
    for text in [*texts, *(published.text for published in PUBLISHED.values())]:
        genotype = Genotype.parse(text)
        for form in held:
            if not genotype.misfit(form):
                assert Genotype.parse(genotype.to_text(form)) == genotype
                held[form] += 1
    # NASNet-A and AmoebaNet-A have five nodes, so that two forms of the field have no place for them.
    assert held == {"darts": 71, "pt_darts": 71, "nni": 67, "naslib": 67, "nasbench301": 67, "json": 71}


def one_cell(*nodes: tuple[tuple[str, int], ...], concat: tuple[int, ...] = (2, 3, 4, 5)) -> Genotype:
    usual = (("skip_connect", 0), ("sep_conv_3x3", 1))
    cells = {"normal": CellGenotype((*nodes, *(usual,) * (4 - len(nodes))), concat), "reduce": V2.cells["reduce"]}
    return Genotype(cells, DARTS_SKELETON, "darts")


@pytest.mark.parametrize(
    ("genotype", "form", "message"),
    [
        (get_genotype("NASNet-A"), "nni", "normal: it needs 4 nodes, all of them concatenated in order"),
        (one_cell(concat=(2, 3, 4)), "naslib", "normal: it needs 4 nodes, all of them concatenated in order"),
        (one_cell((("skip_connect", 0),)), "nasbench301", "normal, node 0: it needs two inputs, but has 1"),
        (one_cell((("skip_connect", 0), ("none", 1))), "nni", "normal, node 0: none is none of max_pool_3x3, avg_pool_3x3"),
        (one_cell((("skip_connect", 0), ("noise", 1))), "naslib", "normal, node 0: noise is none of max_pool_3x3"),
        (one_cell((("skip_connect", 1), ("dil_conv_3x3", 1))), "nasbench301", "node 0: its inputs need two different states"),
        (Genotype.parse(ARCH.replace("avg_pool_3x3", "max_pool_3x3")), "naslib", "cell: max_pool_3x3 is none of skip_connect"),
        (CELL, "nasbench301", "its skeleton is nasbench201"),
        (V2, "autodl", "its skeleton is darts"),
        (Genotype({"cell": CellGenotype(((("none", 0),),), (1,))}, NASBENCH201_SKELETON, "mine"), "nni", "it needs 3 nodes"),
    ],
)
def test_what_a_form_cannot_hold(genotype: Genotype, form: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"has no {form} text: .*{message}.*; the form json takes every genotype"):
        genotype.to_text(form)
    if genotype is not CELL and genotype is not V2:
        assert Genotype.parse(genotype.to_text("json")) == genotype


def nni_without(key: str, **more: object) -> str:
    return str({name: value for name, value in NNI.items() if name != key} | more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nni_without("normal/op_3_0"), "normal/op_3_0 is missing; it must have nodes 2 to 5 with two inputs each"),
        (nni_without("", **{"normal/op_6_0": "skip_connect"}), "normal/op_6_0 is one too many; .*NASNet, ENAS, .* have five"),
        (nni_without("", **{"normal/input_3_0": [0, 1]}), r"node 1, input 0: expected the number of a state, got \[0, 1\]"),
        (nni_without("", **{"normal/input_3_0": 3}), "normal, node 1, input 0: state 3 is out of range"),
        (nni_without("", **{"normal/op_3_0": 3}), "normal, node 1, input 0: expected an operation and its source state"),
        ("{'cell/0_1': 'none'}", "nni's dictionary: it must have the edges 0_1, 0_2, 0_3, 1_2, 1_3, 2_3"),
        (str(NASBENCH301 | {f"{PREFIX}edge_normal_2": "skip_connect"}), "node 1: expected two of edge_normal_2 to .*_4, got 3"),
        (str(NASBENCH301 | {f"{PREFIX}inputs_node_normal_3": "0_1"}), "normal_3 says '0_1', but the edges are from 1_2"),
        (str(NASBENCH301 | {f"{PREFIX}edge_normal_14": "skip_connect"}), "edge_normal_14 is none of its choices"),
        (as_lines(NASBENCH301) + f"  {PREFIX}edge_normal_0, Value: 'none'\n", "edge_normal_0 is there twice"),
        ("(4, 3, 3, 0, 0)", "NASLib's numbers: expected six, .* got .4, 3, 3, 0, 0."),
        ("(4, 3, 3, 0, 0, 5)", "cell: operation 5 is none of NASLib's: 0 skip_connect, 1 none, 2 nor_conv_3x3"),
        ("(4, 3, 3, 0, 0, -1)", "the text begins with"),
        ("(4, 3, 3, 0, 0, (0,))", "NASLib's numbers: expected six"),
        (V2.to_text("naslib").replace("(0, 3)", "(0, 7)", 1), "entry 0: operation 7 is none of NASLib's: 0 max_pool"),
        (V2.to_text("naslib").replace("(0, 3)", "(0, 3, 1)", 1), r"normal, entry 0: expected \(source, operation\)"),
        (V2.to_text("naslib").replace("(0, 3)", "(2, 3)", 1), "normal, node 0, input 0: state 2 is out of range"),
        (f"Structure(5 nodes with {ARCH})", "Structure.*has 4 nodes, not 5"),
        (PT_DARTS.replace("[('skip_connect', 0), ('dil_conv_3x3', 2)]", "('none', 0)"), "normal, node 1: expected a list of"),
        (PT_DARTS.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 3"), "normal, node 1, input 1: state 3 is out of range"),
        (PT_DARTS.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 2, 2"), "normal, node 1, input 1: expected an operation and"),
        (DARTS[:-1] + ", connects=3)", "unknown keyword 'connects'"),
        (DARTS.replace(", 0)", ", np.int64(0, 1))"), r"normal: np.int64\(...\) with 2 values, where one is needed"),
        (DARTS.replace(", 0)", ", os.system('true'))"), "normal: only lists and tuples .* are read, not os.system"),
        (DARTS.replace("'sep_conv_3x3'", "'sep\\qconv'", 1), r"unknown operation 'sep.{1,3}qconv'"),
        ("{'normal_concat': [2], 'normal': [], 'reduce': []}", "dictionary: key reduce_concat is missing"),
        (f"{DARTS} or {DARTS}", "genotype: .*holds 2 genotypes|there is something else behind it|holds 2 genotypes"),
    ],
)  # fmt: skip
def test_broken_texts_of_other_projects(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_genotype(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_the_page_has_an_example_of_every_form() -> None:
    page = (Path(__file__).parents[3] / "docs" / "genotypes.md").read_text(encoding="utf-8")
    seen = []
    for section in page.split("\n### ")[1:]:
        form, _, rest = section.partition("\n")
        for example in re.findall(r"```text\n(.*?)```", rest, re.DOTALL):
            genotype = Genotype.parse(example)
            assert genotype == (get_genotype("PC-DARTS") if genotype.space == "darts" else CELL)
            assert "".join(genotype.to_text(form).split()) == "".join(example.split())
            seen.append((form, genotype.space))
    assert sorted(seen) == sorted((form, space) for space, forms in FORMS_OF.items() for form in forms if form != "json")


# What stands around a genotype

EVERY_FORM = {
    **{f"{space}: {form}": (genotype.to_text(form).strip(), genotype)
       for space, genotype in (("darts", V2), ("nasbench201", CELL)) for form in FORMS_OF[space] if not genotype.misfit(form)},
    "darts: Configuration": (f"Configuration(values={V2.to_text('nasbench301')})", V2),
    "darts: JSON on a line": (json.dumps(json.loads(V2.to_text("json"))), V2),
    "darts: JSON in another order": (json.dumps(json.loads(V2.to_text("json")), sort_keys=True), V2),
    "darts: tensors": (V2.to_text("naslib").replace("1", "tensor(1, device='cuda:0')"), V2),
    "nasbench201: numbers of numpy": (re.sub("([0-4])", r"np.int64(\1)", CELL.to_text("naslib")), CELL),
    "nasbench201: tensor": ("tensor([4, 3, 3, 0, 0, 0])", CELL),
    "nasbench201: tensor on a GPU": ("torch.tensor([4, 3, 3, 0, 0, 0], device='cuda:0', dtype=torch.int32)", CELL),
    "nasbench201: array": ("np.array([4, 3, 3, 0, 0, 0], dtype=int32)", CELL),
    "nasbench201: list of tensors": (re.sub("([0-4])", r"tensor(\1, device='cuda:0', dtype=int8)", "[4, 3, 3, 0, 0, 0]"), CELL),
    "nasbench201: broken over lines": (ARCH.replace("+|", "+\n|", 1).replace("~1|", "~1\n|", 1), CELL),
}  # fmt: skip
AROUND = {
    "alone": "{}",
    "full stop": "{}.",
    "semicolon": "{};\n",
    "assignment": "best = {}",
    "typed assignment": "best: Genotype = {};",
    "assignment of any name": "# of run 3\nX_1 = {}  # the best\nwidth = 16\n",
    "prompt": ">>> arch = {}\n",
    "title": "CIFAR-10: {}\n",
    "list of YAML": "- best: {}\n- width: 16\n",
    "markdown": "# Results\n\nThe best one:\n\n```python\nbest = {}\n```\n\nIt has few parameters (3, 3).\n",
    "markdown without a name": "# Results\n\n```\n{}\n```\n",
    "log": "2024-01-01 10:00:00,123 INFO genotype = {}\n2024-01-01 10:00:00,124 INFO shape = (1, 2, 2, 1, 1, 1)\n",
    "log of another word": "01/01 10:00:00 AM | final_arch: {} (valid 97.1)",
    "log with colours": "\x1b[32m10:00:00\x1b[0m \x1b[1;36mINFO\x1b[0m genotype = \x1b[38;5;208m{}\x1b[0m\x1b[K\n",
    "level": "INFO: genotype is {}",
    "windows": "\ufeffgenotype = {}\r\n",
    "json value of any name": f'{{{{"about": "{100 * "x"}", "best": {{}}, "epochs": 3}}}}',
    "json value": '{{"epochs": 3, "genotype": {}, "accuracy": 97.1}}',
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("form", EVERY_FORM)
def test_every_form_is_read_among_other_text(form: str, around: str, tmp_path: Path) -> None:
    text, genotype = EVERY_FORM[form]
    whole = AROUND[around].format(text)
    assert Genotype.parse(whole) == read_genotype(whole) == genotype
    (tmp_path / "pasted").write_text(whole, newline="")
    assert read_genotype(tmp_path / "pasted") == read_genotype(f"{tmp_path}/pasted#1") == genotype


@pytest.mark.parametrize("form", EVERY_FORM)
@pytest.mark.parametrize(
    ("each", "names"),
    [
        ("{}\n", ("", "")),
        ("{}.\n\n", ("", "")),
        ("A = {}\n", ("A", "B")),
        ("A: {}\n", ("A", "B")),
        ("- \x1b[1mA\x1b[0m: {}.\n", ("A", "B")),
    ],
)  # fmt: skip
def test_of_several_of_every_form_one_is_asked_for(form: str, each: str, names: tuple[str, str], tmp_path: Path) -> None:
    text, genotype = EVERY_FORM[form]
    first = each.format(text)
    path = tmp_path / "two"
    path.write_text(first + each.replace("A", "B").format(text))
    listed = f"1{' A' * bool(names[0])} (line 1), 2{' B' * bool(names[1])} (line {first.count(chr(10)) + 1})"
    way_out = "FILE#2 or FILE#B" if names[1] else "FILE#2"
    with pytest.raises(ValueError) as error:
        read_genotype(path)
    assert str(error.value) == f"{path}: holds 2 genotypes: {listed}; say which one is meant, as in {way_out}"
    for which in ("1", "2", *filter(None, names)):
        assert find_genotype(f"{path}#{which}") == (genotype, "")


def test_words_of_a_log_before_a_colon_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for before in ("INFO", "error", "10:00:00", "2024-01-01 10:00", "arch", "INFO:root", "Epoch", "genotype", "[INFO] best"):
        path.write_text(f"{before}: {WORSE}\n{before}: {ARCH}\n")
        genotype, note = find_genotype(path)
        assert genotype == CELL and "a log with 2 genotypes, of which the last is taken" in note, before
    # A title is no reason to ask which genotype of a log is meant.
    path.write_text(f"10:00:00 INFO genotype = {WORSE}\nFinal: {ARCH}\n")
    assert read_genotype(path) == CELL and read_genotype(f"{path}#Final") == CELL


@pytest.mark.parametrize(
    "line",
    [
        "10:00:00 INFO shape = (1, 2, 2, 1, 1, 1)",
        "10:00:00 INFO search = (1, 2, 2, 1, 1, 1)",
        "10:00:00 INFO (1, 2, 2, 1, 1, 1)",
        "The strides are (1, 2, 2, 1, 1, 1).",
        "INFO: (1, 2, 2, 1, 1, 1)",
        "arch = (16, 24, 32, 64, 96, 160)",
        "x = (1, 2, 2, 1, 1, 1) + y",
        "f(x, (1, 2, 2, 1, 1, 1))",
        "arch = (1, 2, 2, 1, 1, 1, 1)",
    ],
)
def test_not_all_six_numbers_are_a_genotype(line: str) -> None:
    with pytest.raises(ValueError, match="not a genotype: expected JSON"):
        Genotype.parse(f"epochs 3\n{line}\nend")
    for genotype in (f"10:00 INFO genotype = {ARCH}", f"{ARCH}", "arch = (4, 3, 3, 0, 0, 0)", f"A = {CELL.to_text('json')}"):
        assert Genotype.parse(f"{line}\n{genotype}\n{line}\n") == CELL


@pytest.mark.parametrize("line", ["strides = (1, 2, 2, 1, 1, 1)", "strides: [1, 2, 2, 1, 1, 1]", "(1, 2, 2, 1, 1, 1)"])
def test_numbers_of_another_name_are_read_only_if_there_is_nothing_else(line: str) -> None:
    for genotype in (ARCH, "arch = (4, 3, 3, 0, 0, 0)", CELL.to_text("json"), CELL.to_text("nni")):
        assert Genotype.parse(f"{line}\n{genotype}\n{line}\n") == CELL
    assert Genotype.parse(f"{line}\n") == Genotype.parse("(1, 2, 2, 1, 1, 1)")
    many = f"{line}\n" * 5_001
    assert Genotype.parse(f"{many}10:00 INFO genotype = {ARCH}\n") == CELL
    with pytest.raises(ValueError, match=r"^holds more than 5000 genotypes$"):
        Genotype.parse(many)


def test_a_broken_string_among_sound_ones_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "strings"
    path.write_text(f"{ARCH}\n{ARCH[:-30]}\n{ARCH}\n")
    with pytest.raises(ValueError, match=r"strings: the genotype of line 2: "):
        find_genotype(f"{path}#2")
    assert read_genotype(f"{path}#3") == CELL


def test_broken_json_in_a_log_is_found_at_its_line() -> None:
    text = f"10:00 INFO epoch 1\n10:01 INFO genotype = {CELL.to_text('json')[:-30]}"
    with pytest.raises(ValueError, match=rf"^not valid JSON .half-written..: .* at line {text.count(chr(10)) + 1}, column "):
        Genotype.parse(text)


def test_names_in_json_may_be_any_texts() -> None:
    for name in ("a \u201cspace\u201d", ARCH, "A: (4, 3, 3, 0, 0, 0)", "Genotype(", '{"format": 1}'):
        text = CELL.to_text("json").replace('"name": "nasbench201"', f'"name": {json.dumps(name, ensure_ascii=False)}')
        for before in ("", "best = ", "10:00 INFO genotype = "):
            assert Genotype.parse(before + text).space == name


# Several genotypes

LOG = "\n".join(
    line
    for epoch in range(50)
    for line in (
        f"11/23 10:{epoch:02d}:12 PM epoch {epoch} lr 2.5e-02",
        f"11/23 10:{epoch:02d}:13 PM genotype = {(V2 if epoch == 49 else get_genotype('DARTS_V1')).to_text('darts')}",
        "tensor([[0.1250, 0.1251]], grad_fn=<SoftmaxBackward>)\r 10%|#   | train 000 2.3e+00 10.9 56.2",
    )
)
AUTODL_LOG = f"""
||||||| |||| Search-Space : nas-bench-201
<<<--->>> The 000-100-th epoch : Structure(4 nodes with {WORSE})
[001-100-th] evaluate : loss=0.99, accuracy@1=65.1%, accuracy@5=97.0% | Structure(4 nodes with {WORSE})
[GDAS] run 250 epochs, cost 30000.0 s, last-geno is Structure(4 nodes with {ARCH}).
{ARCH}
"""
FILE = f"""from collections import namedtuple

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')

PRIMITIVES = ['none', 'max_pool_3x3']
DARTS_V1 = {get_genotype("DARTS_V1").to_text("darts")}
DARTS_V2 = Genotype(
  {DARTS.removeprefix("Genotype(")}
# FashionMNIST
FASHION = {PT_DARTS}

DARTS = DARTS_V2
"""


def test_the_last_genotype_of_a_log_is_meant_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(LOG)
    genotype, note = find_genotype(path)
    assert genotype == V2
    assert note == f"{path}: a log with 50 genotypes, of which the last is taken (line 149); FILE#1 to FILE#50 choose"
    assert find_genotype(f"{path}#3") == (get_genotype("DARTS_V1"), "")
    path.write_text(AUTODL_LOG)
    genotype, note = find_genotype(path)
    assert genotype == CELL and "a log with 4 genotypes, of which the last is taken (line 6)" in note
    path.write_text(LOG.replace("PM genotype = ", "PM | ")[:-400])  # killed while it was written
    with pytest.raises(ValueError, match=r"log.txt: the genotype of line 149: .* but there is "):
        find_genotype(path)
    assert find_genotype(f"{path}#49")[0] == get_genotype("DARTS_V1")


def test_of_several_with_names_one_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "genotypes.py"
    path.write_text(FILE)
    with pytest.raises(ValueError) as error:
        find_genotype(path)
    assert str(error.value) == (
        f"{path}: holds 3 genotypes: 1 DARTS_V1 (line 6), 2 DARTS_V2 (line 7), 3 FASHION (line 10); "
        "say which one is meant, as in FILE#3 or FILE#FASHION"
    )
    for which, expected in (
        ("DARTS_V2", V2),
        ("2", V2),
        ("FASHION", Genotype.parse(PT_DARTS)),
        ("3", Genotype.parse(PT_DARTS)),
    ):
        assert find_genotype(f"{path}#{which}") == (expected, "")
    for which in ("4", "0", "-1", "DARTS", "darts_v2", "1e0"):
        with pytest.raises(
            ValueError, match=f"genotypes.py: no genotype has the name or number '{which}'; it holds 3 genotypes"
        ):
            find_genotype(f"{path}#{which}")
    path.write_text(f"{FILE}\n11/23 10:11:12 PM genotype = {DARTS}\n")  # names and a log: a log is not what is meant
    with pytest.raises(ValueError, match=r"holds 4 genotypes: 1 DARTS_V1 .*, \.\.\.; say which|holds 4 genotypes"):
        find_genotype(path)
    path.write_text(f"A = {DARTS}\nA = {PT_DARTS}\n")
    with pytest.raises(ValueError, match="2 genotypes have the name or number 'A'"):
        find_genotype(f"{path}#A")
    for before in ("", "python augment.py --genotype "):  # as a README lists them
        path.write_text(f'{before}"{DARTS}"\n{before}"{DARTS}"\n')
        with pytest.raises(ValueError, match=r"holds 2 genotypes: 1 \(line 1\), 2 \(line 2\); say which .*, as in FILE#2$"):
            find_genotype(path)


def test_a_name_with_a_sharp_is_first_of_all_a_name(tmp_path: Path) -> None:
    (tmp_path / "cell#2").write_text(DARTS)
    assert read_genotype(tmp_path / "cell#2") == V2
    (tmp_path / "one").write_text("(4, 3, 3, 0, 0, 0)")
    with pytest.raises(ValueError, match=r"one: no genotype has the name or number '2'; it holds 1 genotype: 1 \(line 1\)"):
        read_genotype(f"{tmp_path}/one#2")
    with pytest.raises(ValueError, match=r"absent\.txt#2: no such file"):
        read_genotype(f"{tmp_path}/absent.txt#2")


# Limits


@pytest.mark.parametrize(
    "text",
    [
        "Genotype(" * 500_000,
        "a." * 140 + "Genotype(\n",
        "'cell/0_1' ",
        "{'normal/op_2_0':1,",
        "|a~0",
        "|" + "a~0|" * 1_000_000,
        "Structure(4 nodes with |" + "a~0|" * 1_000_000,
        "|a~0|+",
        "NetworkSelectorDatasetInfo:a, Value: 'b'\n",
        "Genotype(normal='" + "a" * 4_000_000,
        "Genotype(normal=[" + "0," * 2_000_000,
        "{'normal_concat':" + "[" * 4_000_000,
        "(" * 4_000_000,
        "(0," * 1_000_000,
        '{"format":' * 100_000,
        '{"format":[' + "[]," * 300_000,
        '{"format":' + "9" * 1_000_000 + "}",
        '{"format":1,"a":' + "[" * 500,
        '{"format":1,"a":"',
        '{"format":1,"a":[' + "0," * 2_000_000,
        "(4, 3, 3, 0, 0, 0) ",
        "x = (4, 3, 3, 0, 0, 0)\n",
        "s = (4,3,3,0,0,0)",
        "(4,3,3,0,0,",
        "((0,0),",
        "[" * 4_000_000,
        "np.int64(",
        "\x1b[",
        "\x1b[" + "1;" * 21,
        "|a~0|\n",
        "|" + "\n" * 4_000,
    ],
    ids=lambda text: text[:20],
)
def test_large_texts_are_refused_at_once(text: str) -> None:
    text = (text * (LARGEST_TEXT // len(text)))[:LARGEST_TEXT] if len(text) < 1000 else text
    began = time.process_time()
    with pytest.raises(ValueError) as error:
        Genotype.parse(text)
    assert time.process_time() - began < 3  # a third of it where nothing else runs
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(ValueError, match="large: is too large, above 4 MiB"):
        load_noted(tmp_path / "large")
