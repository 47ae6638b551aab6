"""Tests of base/plain_yaml.py; what is refused as a configuration is in test_config.py."""

import time
import tracemalloc

import pytest

from base.plain_yaml import LARGEST_FILE, PlainError, parse_plain, read_yaml
from base.texts import one_line

# Each line stands for ten of the line before: read naively, gigabytes.
LISTS = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 13))


def test_a_file_of_another_system_is_read(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfepochs: 3\r\ndata:\r\n  name: digits\r\n")
    assert read_yaml(path) == {"epochs": 3, "data": {"name": "digits"}}


@pytest.mark.parametrize("text", [LISTS, "a: &a\n  b: *a\n"], ids=["lists", "within itself"])
def test_aliases_are_refused_at_once(tmp_path, text, count_calls):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)

    def read():
        with pytest.raises(ValueError, match=r"bomb.yaml, line 2: not plain YAML: aliases \(\*name\) are not read here; write"):
            read_yaml(path)

    assert count_calls(read) < 5_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('a: 1\nseed: !!int ""', "2: not plain YAML: !!int: tags (!name) are not read here; write the value alone"),
        ("a: !!timestamp x", "1: not plain YAML: !!timestamp: tags "),
        ("a: !!bool maybe", "1: not plain YAML: !!bool: tags "),
        ("a: !mine [1]", "1: not plain YAML: !mine: tags "),
        ("a: ! 1", "1: not plain YAML: !: tags "),
        ("!!map {a: 1}", "1: not plain YAML: !!map: tags "),
        ("a: 1\n<<: {b: 2}", "2: not plain YAML: merge keys (<<) are not read here; write the fields out"),
        ('a: 1\nb:\n  - "\\UFFFFFFFF"', "3: not plain YAML: a number in an escape "),
        ('a: "\\U00110000"', "1: not plain YAML: a number in an escape "),
        ("%YAML 1." + 5000 * "1" + "\n---\na: 1", "1: not plain YAML: a number in an escape "),
        ('a: "\\ud800"', "1: not plain YAML: \\ud800: half of a pair of UTF-16 is no character"),
        ("a: 1\nb: 010", "2: not plain YAML: 010: a number has decimal digits alone and no leading zero; "),
        ("a: [1, 1:30]", "1: not plain YAML: 1:30: a number has "),
        ("a: -0x1F", "1: not plain YAML: -0x1F: a number has "),
        ("a: 0b11", "1: not plain YAML: 0b11: a number has "),
        ("a: 0o17", "1: not plain YAML: 0o17: a number has "),
        ("a: 1_000", "1: not plain YAML: 1_000: a number has "),
        ("a: 1_0.5", "1: not plain YAML: 1_0.5: a number has "),
        ("a: 00.5", "1: not plain YAML: 00.5: a number has "),
        ("a: 089", "1: not plain YAML: 089: a number has "),
        ("a: " + 1001 * "1", "1: not plain YAML: 1111"),
        ("a: 1\n---\nb: 2", "2: not plain YAML: a second document begins; a file has one"),
        ("a: 1\n? [b]\n: 2", "2: not plain YAML: a key must be a name"),
        ("a: 1\na: 2", "2: not plain YAML: 'a' stands twice"),
        ("a: \0", "1: not plain YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
    ids=lambda value: value[:25],
)
def test_what_has_two_meanings_or_none_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PlainError) as caught:
        parse_plain(text, "mine")
    assert str(caught.value).startswith(f"mine, line {problem}") and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-12", -12), ("+3", 3), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("0.5", 0.5), ("1.0e+3", 1000.0),
        (".inf", float("inf")), ("yes", True), ("Off", False), ("null", None), ("~", None), ("", None),
        # Texts that other readers of YAML take for dates, or that a field for numbers reads.
        ("2024-01-01", "2024-01-01"), ("1e-3", "1e-3"), ("'010'", "010"), ('"1:30"', "1:30"), ("=", "="), ("1:75", "1:75"),
        ("12 kg", "12 kg"), ("a<<b", "a<<b"), ("'<<': 1", {"<<": 1}), ("&a 1", 1), (1000 * "1", int(1000 * "1")),
    ],
    ids=lambda value: repr(value)[:25],
)  # fmt: skip
def test_what_is_plain_is_read(text: str, value: object) -> None:
    assert parse_plain(text) == value and type(parse_plain(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [" + "1," * 120_000 + "]", "there are more than 1000 values"),
        ("a:\n" + "- 1\n" * 60_000, "there are more than 1000 values"),
        ("".join(f"k{number}: 1\n" for number in range(25_000)), "there are more than 1000 values"),
        ("a: " + "[" * 200_000, "lists and mappings are nested more than 20 deep"),
        ("? " * 120_000, "lists and mappings are nested more than 20 deep"),
        ("{a: " * 60_000, "lists and mappings are nested more than 20 deep"),
        ("a: 1" + ":1" * 120_000, ""),
        ("a: " + "1" * 250_000, "111: a number has at most 1000 digits"),
        ('a: "' + " x\n" * 80_000 + '"', ""),
        ("#\n" * 120_000, ""),
        ("1," * LARGEST_FILE, "is too large, above 262144 characters"),
    ],
    ids=lambda value: value[:12],
)
def test_the_largest_texts_are_read_or_refused_soon(text: str, problem: str) -> None:
    started = time.process_time()
    try:
        parse_plain(text)
        assert not problem
    except PlainError as error:
        assert problem and str(error).endswith(problem)
    assert time.process_time() - started < 1


def test_a_refusal_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PlainError):
            parse_plain("a: [" + "1," * 120_000 + "]")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_no_configuration_for_its_size(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("epochs: 3 #" + "x" * LARGEST_FILE)
    with pytest.raises(ValueError, match=r"large\.yaml: is too large, above 256 KiB"):
        read_yaml(path)


def test_one_line():
    assert one_line("a\n  b\t c ") == "a b c"
    assert one_line("x" * 1000) == "x" * 295 + " ... " + "x" * 100
    assert one_line(f"{'x' * 5000}: no such file").endswith("xxx: no such file")
