"""Benchmark tables: what is read, what is refused and how, and the two baselines against all draws written out."""

import gzip
import itertools
import math
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search.costs.tabular
from search.costs.tabular import Table, TableRow, best_of_random, random_architecture
from supernet import Genotype
from supernet.genotypes.published import get_genotype
from training.run.config import RunOptions

SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
MIXED = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"
MIXED_IN_ANOTHER_ORDER = "|nor_conv_1x1~0|+|skip_connect~1|none~0|+|nor_conv_3x3~2|avg_pool_3x3~0|skip_connect~1|"
HEADER = "index,arch,cifar10_valid_200,cifar10_test_200,cifar10_valid_12,params_cifar10,flops_cifar10,latency_ms_pixel3"
SKIPS_LINE = f"0,{SKIPS},39.75,54.25,33.5,73306,7783050,1.5"
MIXED_LINE = f"1,{MIXED},81.5,85.125,63.25,129306,15647370,3.25"
LINES = (HEADER, SKIPS_LINE, MIXED_LINE)
PUBLISHED = "nasbench201/cifar10.csv.gz"


def write(path: Path, *lines: str) -> Path:
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_a_table_is_known_again(tmp_path: Path) -> None:
    path, run = write(tmp_path / "table.csv", *LINES), tmp_path / "run"
    run.mkdir()
    options = RunOptions(run, resume=True, overwrite=False)
    table = Table.of_run(path, options)
    assert not table.is_changed
    table.save_description(run)
    again = Table.of_run(write(tmp_path / "again.csv.gz", HEADER, MIXED_LINE, SKIPS_LINE), options)
    assert not again.is_changed and again.fingerprint == table.fingerprint
    slower = Table.of_run(write(tmp_path / "slower.csv", HEADER, SKIPS_LINE, MIXED_LINE.removesuffix("3.25") + "4.5"), options)
    assert not slower.is_changed
    assert not Table.of_run(path, RunOptions(run, resume=False, overwrite=True)).is_changed
    for lines, how in (
        ((HEADER, SKIPS_LINE), "2 architectures then, 1 now"),
        ((HEADER, SKIPS_LINE, MIXED_LINE.replace("63.25", "63.5")), "other architectures or figures"),
    ):
        changed = Table.of_run(write(path, *lines), options)
        assert changed.is_changed and changed.notes[-1] == f"the table has changed since the run began: {how}"
    (run / "table.json").write_text("{")
    assert not Table.of_run(path, options).is_changed


def refused(path: Path) -> str:
    """Returns the problem, without the beginning that all messages share."""
    with pytest.raises(ValueError) as caught:
        Table.read(path)
    message, beginning = str(caught.value), f"tabular: {path}: "
    assert message.startswith(beginning) and message.isprintable()
    return message.removeprefix(beginning)


def table_of(*accuracies: tuple[float, float]) -> Table:
    """A table of those accuracies: validation after 12 epochs, test."""
    rows = {}
    for number, (valid_12, test) in enumerate(accuracies):
        rows[f"|op_{number}~0|+|op~0|op~1|+|op~0|op~1|op~2|"] = TableRow(test, 0.0, valid_12, 0, 0, {})
    return Table(rows)


# What is read


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_row_holds_what_its_line_says(tmp_path: Path, name: str, kind: type) -> None:
    table = Table.read(kind(write(tmp_path / name, *LINES)))
    assert list(table.rows) == [SKIPS, MIXED]
    assert table.rows[MIXED] == TableRow(85.125, 81.5, 63.25, 129306, 15647370, {"pixel3": 3.25})


def test_columns_are_found_by_name_and_others_passed_over(tmp_path: Path) -> None:
    path = write(
        tmp_path / "table.csv",
        "flops_cifar10,latency_ms_b,note,cifar10_valid_12,arch,latency_ms_a,cifar10_test_200,params_cifar10,note,cifar10_valid_200",
        f"6,0,not a number,30,{SKIPS},7.5,10,5.0,,20",
    )
    row = Table.read(path).rows[SKIPS]
    assert row == TableRow(10.0, 20.0, 30.0, 5, 6, {"a": 7.5, "b": 0.0})
    assert isinstance(row.parameters, int)


def test_a_table_needs_no_latencies(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", *[line.rpartition(",")[0] for line in LINES])
    assert Table.read(path).rows[SKIPS].latency_ms == {}


def test_harmless_oddities_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header, skips, mixed = (line.partition(",")[2] for line in LINES)  # so that the mark of UTF-8 stands before a column in use
    path.write_bytes("\r\n".join(["\ufeff" + header, "", skips.replace(SKIPS, f'"{SKIPS}"'), mixed]).encode())
    assert Table.read(path).rows == Table.read(write(tmp_path / "plain.csv", *LINES)).rows


def test_a_genotype_finds_its_row_whatever_the_order_of_its_inputs(tmp_path: Path) -> None:
    table = Table.read(write(tmp_path / "table.csv", *LINES))
    for text in (MIXED, MIXED_IN_ANOTHER_ORDER):
        assert table[Genotype.parse(text)] is table.rows[MIXED]


def test_a_genotype_that_the_table_lacks_is_refused(tmp_path: Path) -> None:
    table = Table.read(write(tmp_path / "table.csv", HEADER, SKIPS_LINE))
    with pytest.raises(ValueError) as caught:
        table[Genotype.parse(MIXED)]
    assert str(caught.value) == (
        f"tabular: the table has no {MIXED}; "
        "take a table of the whole space, or keep the search to operations that the table has"
    )


def test_a_genotype_of_another_space_is_refused(tmp_path: Path) -> None:
    table = Table.read(write(tmp_path / "table.csv", *LINES))
    with pytest.raises(ValueError) as caught:
        table[get_genotype("DARTS_V2")]
    assert str(caught.value) == (
        "tabular: a genotype of space darts has no NAS-Bench-201 text: its skeleton is darts; "
        "a table judges searches in the space nasbench201 alone"
    )


# What is refused


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "columns missing: arch, cifar10_test_200, cifar10_valid_200, cifar10_valid_12, params_cifar10, flops_cifar10; "),
        (
            [HEADER.replace("cifar10_test_200", "test").replace("flops", "flop"), SKIPS_LINE],
            "columns missing: cifar10_test_200, flops_cifar10; the first line must name them, with commas between",
        ),
        ([HEADER.replace("index", "arch"), SKIPS_LINE], "column 'arch' is there twice; take one of the two out"),
        ([HEADER.replace("index", "latency_ms_pixel3"), SKIPS_LINE], "column 'latency_ms_pixel3' is there twice; take"),
        ([HEADER], "no architecture below the names of the columns (cut short?); get the table again"),
        ([*LINES, MIXED_LINE[:-20]], "line 4: 6 fields instead of 8; give it one for each column"),
        ([*LINES, f"{MIXED_LINE},"], "line 4: 9 fields instead of 8; "),
        ([*LINES, SKIPS_LINE], f"line 4, column arch: {SKIPS} is there twice; take one of its lines out"),
        ([HEADER, '0,"', '",1,2,3,4,5,6'], "line 3, column arch: must be of the form |op~0|+|op~0|op~1|+"),
        ([*LINES, '2,"|nor'], "line 4: not CSV: unexpected end of data; mend the quotes or line ends"),
        ([*LINES, 200_000 * "x"], "line 4: not CSV: field larger than field limit (131072); "),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_tables_of_another_form(tmp_path: Path, lines: list[str], message: str) -> None:
    assert refused(write(tmp_path / "table.csv", *lines)).startswith(message)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("81.5", "nan", "cifar10_valid_200: must be a finite number of at least 0, not 'nan'"),
        ("85.125", "inf", "cifar10_test_200: must be a finite number of at least 0, not 'inf'"),
        ("85.125", "-1", "cifar10_test_200: must be a finite number of at least 0, not '-1'"),
        ("63.25", "", "cifar10_valid_12: must be a finite number of at least 0, not ''"),
        ("63.25", "1e999", "cifar10_valid_12: must be a finite number of at least 0, not '1e999'"),
        ("129306", "many", "params_cifar10: must be a finite number of at least 0, not 'many'"),
        ("129306", "0.129306", "params_cifar10: must be a whole number, not '0.129306'"),
        ("15647370", "15.64737", "flops_cifar10: must be a whole number, not '15.64737'"),
        ("3.25", "-", "latency_ms_pixel3: must be a finite number of at least 0, not '-'"),
        ("3.25", '"\n' + 500 * "x" + '"', "latency_ms_pixel3: must be a finite number of at least 0, not '\\n"),
    ],
)
def test_values_that_are_no_number_of_their_column(tmp_path: Path, good: str, bad: str, message: str) -> None:
    path = write(tmp_path / "table.csv", HEADER, MIXED_LINE.replace(f",{good}", f",{bad}"), SKIPS_LINE)
    line = 2 + bad.count("\n")
    assert refused(path).startswith(f"line {line}, column {message}")


@pytest.mark.parametrize(
    "architecture",
    [
        "",
        "|none~0|",
        MIXED_IN_ANOTHER_ORDER,
        f"{MIXED} ",
        MIXED.replace("~2", "~3"),
        MIXED.replace("none", "no ne"),
        MIXED.replace("none", ""),
        f"{MIXED}+{MIXED}",
    ],
)
def test_strings_that_are_no_architecture(tmp_path: Path, architecture: str) -> None:
    path = write(tmp_path / "table.csv", HEADER, SKIPS_LINE, MIXED_LINE.replace(MIXED, architecture))
    assert refused(path).startswith("line 3, column arch: must be of the form |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, not '")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    absent = "no such file; name a benchmark table, a CSV file or one in gzip (.csv.gz)"
    for name in ("table.csv", "table.csv.gz"):
        assert refused(tmp_path / name) == absent
        (tmp_path / name).mkdir()
        assert refused(tmp_path / name) == "cannot be read: Is a directory; name a CSV file that you may read"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", *LINES)
    path.chmod(0)
    assert refused(path) == "cannot be read: Permission denied; name a CSV file that you may read"


@pytest.mark.parametrize("name", ["a\nb.csv", "a\0b.csv", "a\udcffb.csv"])
def test_a_message_is_one_line_whatever_the_name_of_the_file(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        Table.read(name)
    assert str(caught.value).startswith(f"tabular: {name!r}: ") and str(caught.value).isprintable()


def test_a_plain_file_with_the_name_of_a_gzip_file(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", *LINES).rename(tmp_path / "table.csv.gz")
    message = "not gzip, or damaged (Not a gzipped file (b'in')); get it again, or take .gz off a plain CSV file"
    assert refused(path) == message


def test_a_gzip_file_with_the_name_of_a_plain_one(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv.gz", *LINES).rename(tmp_path / "table.csv")
    assert refused(path) == "not a text in UTF-8; save it as one, or let the name of a gzip file end in .gz"


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("\n".join([*LINES, "Größe"]).encode("latin-1"))
    assert refused(path).startswith("not a text in UTF-8; ")


def test_a_gzip_file_cut_short_anywhere(tmp_path: Path) -> None:
    whole = write(tmp_path / "table.csv.gz", *LINES).read_bytes()
    for length in range(2, len(whole)):
        (tmp_path / "cut.csv.gz").write_bytes(whole[:length])
        assert refused(tmp_path / "cut.csv.gz") == "the gzip file is cut short; copy or download it again"


def test_a_gzip_file_with_a_changed_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv.gz", *LINES)
    whole = path.read_bytes()
    for place in (len(whole) // 2, len(whole) - 8):  # in the compressed text, in its checksum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert refused(path).startswith("not gzip, or damaged (")


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / name, 2**25 * "x")
    monkeypatch.setattr(search.costs.tabular, "LARGEST_TABLE", 2**20)
    tracemalloc.start()
    try:
        message = refused(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message == "larger than 1 MiB decompressed; name the table of one benchmark alone"
    assert peak < 2**22


def test_a_file_of_just_the_largest_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "table.csv", *LINES)
    monkeypatch.setattr(search.costs.tabular, "LARGEST_TABLE", path.stat().st_size)
    assert len(Table.read(path).rows) == 2
    monkeypatch.setattr(search.costs.tabular, "LARGEST_TABLE", path.stat().st_size - 1)
    assert refused(path).startswith("larger than ")


def test_shares_become_percent_and_are_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "table.csv",
        HEADER,
        SKIPS_LINE.replace("39.75,54.25,33.5", "0.3975,0.5425,0"),
        MIXED_LINE.replace("81.5,85.125,63.25", "0.815,0.85125,0.6325"),
    )
    table = Table.read(path)
    assert table.rows[MIXED] == TableRow(85.125, 81.5, 63.25, 129306, 15647370, {"pixel3": 3.25})
    assert table.notes == (
        f"table {path}: 2 architectures",
        "accuracies in the table are shares, none above 1: they are taken times 100, as percent",
    )
    assert Table.read(write(path, *LINES)).notes == (f"table {path}: 2 architectures",)
    # A network that could not be trained is no share.
    assert Table.read(write(path, HEADER, SKIPS_LINE.replace("33.5", "0"), MIXED_LINE)).rows[SKIPS].valid_accuracy_12 == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            MIXED_LINE.replace("81.5", "0.815"),
            "column cifar10_valid_200: an accuracy of 0.815 where others are up to 85.125: a sh",
        ),
        (MIXED_LINE.replace("63.25", "6325"), "line 3, column cifar10_valid_12: must be at most 100 percent, not '6325'"),
        (MIXED_LINE.replace("129306", "1e300"), "line 3, column params_cifar10: must be at most 1e+15, not '1e300'"),
    ],
)
def test_units_that_do_not_agree_are_asked_about(tmp_path: Path, line: str, message: str) -> None:
    assert refused(write(tmp_path / "table.csv", HEADER, SKIPS_LINE, line)).startswith(message)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [",".join(["latency_ms_a", *(f"latency_ms_{n}" for n in range(200_000))])],
            "line 1: longer than 262,144 characters; ",
        ),
        ([HEADER, '0,"', *(f'{n}","' for n in range(100_000))], "line 303"),
        ([*LINES, "," * 2**19], "line 4: longer than 262,144 characters; take out columns that are not read"),
    ],
    ids=["columns", "quotes", "commas"],
)
def test_tables_that_are_too_wide(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path / "table.csv", *lines)
    began = time.monotonic()
    tracemalloc.start()
    said = refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.startswith(message) and "longer than 262,144 characters" in said
    assert time.monotonic() - began < 1 and peak < 200 * 2**20


def test_tables_that_are_too_long_or_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.costs.tabular, "MOST_ROWS", 1)
    assert refused(write(tmp_path / "table.csv", *LINES)) == (
        "line 3: more than 1 architectures; name the table of one benchmark alone"
    )
    os.mkfifo(tmp_path / "pipe.csv")
    assert refused(tmp_path / "pipe.csv").startswith("is no regular file; ")


# Baselines


def best_of_all_draws(accuracies: list[tuple[float, float]], count: int) -> tuple[float, float]:
    """Mean and standard deviation over every draw and, within it, over the draws that share the best validation accuracy."""
    tests, weights = [], []
    for draw in itertools.product(accuracies, repeat=count):
        best = max(valid_12 for valid_12, _ in draw)
        tied = [test for valid_12, test in draw if valid_12 == best]
        tests += tied
        weights += [len(accuracies) ** -count / len(tied)] * len(tied)
    mean = sum(weight * test for weight, test in zip(weights, tests, strict=True))
    return mean, math.sqrt(sum(weight * (test - mean) ** 2 for weight, test in zip(weights, tests, strict=True)))


few = settings(max_examples=100, deadline=None, derandomize=True)
# Few validation accuracies, so that most tables have ties.
some_accuracies = st.lists(st.tuples(st.integers(0, 3).map(float), st.floats(0, 100)), min_size=1, max_size=5)


@few
@given(some_accuracies, st.integers(1, 4))
def test_the_best_of_some_is_the_mean_over_all_draws(accuracies: list[tuple[float, float]], count: int) -> None:
    expected = best_of_all_draws(accuracies, count)
    assert best_of_random(table_of(*accuracies), count) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@few
@given(some_accuracies)
def test_the_best_of_one_is_a_random_architecture(accuracies: list[tuple[float, float]]) -> None:
    table = table_of(*accuracies)
    assert best_of_random(table, 1) == pytest.approx(random_architecture(table), rel=1e-9, abs=1e-9)


def test_a_random_architecture_by_hand() -> None:
    assert random_architecture(table_of((1.0, 90.0), (1.0, 94.0), (7.0, 95.0))) == pytest.approx((93.0, math.sqrt(14 / 3)))


def test_the_best_of_very_many_are_those_with_the_highest_validation_accuracy() -> None:
    table = table_of((5.0, 90.0), (9.0, 80.0), (9.0, 84.0), (8.0, 99.0))
    assert best_of_random(table, 100_000) == pytest.approx((82.0, 2.0), rel=1e-12)


@pytest.mark.parametrize("count", [0, -1])
def test_the_best_of_none_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"^count: must be at least 1, not {count}$"):
        best_of_random(table_of((1.0, 90.0)), count)


# The published table


@pytest.fixture
def published(shared_data: Callable[[str], Path]) -> Table:
    return Table.read(shared_data(PUBLISHED))


def test_the_published_table_is_read_in_a_moment(
    shared_data: Callable[[str], Path], count_calls: Callable[[Callable[[], object]], int]
) -> None:
    path = shared_data(PUBLISHED)
    assert count_calls(lambda: Table.read(path)) < 30 * 15_625


def test_known_architectures_of_the_published_table(published: Table) -> None:
    best = max(published.rows, key=lambda text: published.rows[text].test_accuracy)
    assert list(published.rows).index(best) == 6111
    row = published[Genotype.parse(best)]
    assert (round(row.test_accuracy, 3), row.parameters, row.multiply_adds) == (94.373, 1_073_466, 153_272_970)
    assert sorted(row.latency_ms) == ["gold_6226", "pixel3", "raspi4", "titan_rtx_256"]
    collapsed = published[Genotype.parse(SKIPS)]
    assert (round(collapsed.test_accuracy, 2), round(collapsed.valid_accuracy, 2)) == (54.30, 39.77)


def test_the_strings_of_the_published_table_are_those_of_genotypes(published: Table) -> None:
    for text in list(published.rows)[::50]:
        assert published[Genotype.parse(text)] is published.rows[text]


def test_a_random_architecture_of_the_published_table(published: Table) -> None:
    assert round(random_architecture(published)[0], 2) == 87.06


@pytest.mark.parametrize(
    ("count", "exact", "reported"),
    [(10, (92.58, 1.05), (92.61, 1.00)), (100, (93.73, 0.36), (93.74, 0.34)), (500, (94.00, 0.23), (94.01, 0.22))],
)
def test_the_best_of_some_of_the_published_table(
    published: Table, count: int, exact: tuple[float, float], reported: tuple[float, float]
) -> None:
    """Near the reported means and deviations, and within the chance error of 5,000 random searches."""
    found = best_of_random(published, count)
    assert tuple(round(value, 2) for value in found) == exact
    assert found == pytest.approx(reported, abs=0.06)
    valid_12 = np.array([row.valid_accuracy_12 for row in published.rows.values()])
    test = np.array([row.test_accuracy for row in published.rows.values()])
    drawn = np.random.default_rng(0).integers(len(test), size=(5000, count))
    best = test[np.take_along_axis(drawn, valid_12[drawn].argmax(1)[:, None], 1)[:, 0]]
    assert best.mean() == pytest.approx(found[0], abs=4 * found[1] / math.sqrt(5000))
    assert best.std() == pytest.approx(found[1], rel=0.1)
