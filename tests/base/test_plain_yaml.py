"""Tests of base/plain_yaml.py; what is refused as a configuration is in test_config.py."""

import pytest

from base.plain_yaml import LARGEST_FILE, read_yaml
from base.texts import one_line

# Each line stands for ten of the line before: read naively, gigabytes.
LISTS = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 13))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 13))


def test_a_file_of_another_system_is_read(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfepochs: 3\r\ndata:\r\n  name: digits\r\n")
    assert read_yaml(path) == {"epochs": 3, "data": {"name": "digits"}}


@pytest.mark.parametrize("text", [LISTS, MERGES, "a: &a\n  b: *a\n"], ids=["lists", "merges", "within itself"])
def test_aliases_are_refused_at_once(tmp_path, text, count_calls):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)

    def read():
        with pytest.raises(ValueError, match=r"bomb.yaml, line 2: not plain YAML: aliases \(\*name\) are not read here; write"):
            read_yaml(path)

    assert count_calls(read) < 5_000


def test_a_file_that_is_no_configuration_for_its_size(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("epochs: 3 #" + "x" * LARGEST_FILE)
    with pytest.raises(ValueError, match=r"large\.yaml: is too large, above 256 KiB"):
        read_yaml(path)


def test_one_line():
    assert one_line("a\n  b\t c ") == "a b c"
    assert one_line("x" * 1000) == "x" * 400 + " ..."
