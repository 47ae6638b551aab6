"""Configuration files, genotypes and images that are wrong, damaged or absent."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from supernet.genotypes.published import get_genotype
from training.images.data import DATASETS, DataConfig, register_dataset
from training.images.sets import ImageSet

JSON = get_genotype("DARTS_V2").to_text("json")
CELL = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"
Refuse = Callable[..., str]
Run = Callable[..., int | str | None]
both = pytest.mark.parametrize("command", ["search.darts", "retrain"])


class Bomb:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pwned",)


# Configuration files


@both
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3\n", "mine.yaml, line 1: epoch: no such field; did you mean epochs?"),
        ("data:\n  nmae: digits\n", "mine.yaml, line 2: data.nmae: no such field; did you mean data.name?"),
        ("epochs: [1, 2]\n", "mine.yaml, line 1: epochs: must be a whole number, not [1, 2]"),
        ("data: digits\n", "mine.yaml, line 1: data: must hold fields of its own (`name: value`), not 'digits'"),
        ("weights: {lr: .nan}\n", "mine.yaml, line 1: weights.lr: must be finite, not nan"),
        ("epochs: 0\n", "mine.yaml, line 1: epochs: must be at least 1, not 0"),
        ("epochs: 1\nepochs: 2\n", "mine.yaml, line 2: not plain YAML: 'epochs' stands twice"),
        ("", "mine.yaml: the file is empty"),
        ("digits\n", "mine.yaml: must hold lines of the form `name: value`"),
        ("data:\n  name: 'dig", "mine.yaml, line 2: not plain YAML: found unexpected end of stream"),
        (bytes(range(256)), "mine.yaml: not a text file in UTF-8"),
        ("epochs: 1\0", "mine.yaml, line 1: not plain YAML: unacceptable character"),
        ("seed: 1" + 5000 * "0", "mine.yaml, line 1: not plain YAML: 1000"),
        (
            "device: !!python/object/apply:os.mkdir [pwned]\n",
            "mine.yaml, line 1: not plain YAML: !!python/object/apply:",
        ),
        ("data: &a\n  name: *a\n", "mine.yaml, line 2: not plain YAML: aliases (*name) are not read here"),
        ("seed: 0 #" + 10**6 * "x", "mine.yaml: is too large, above 256 KiB"),
        ("a: " + 10**5 * "[", "mine.yaml, line 1: not plain YAML: lists and mappings are nested more than 20 deep"),
        ('data:\n  limit: !!int ""\n', "mine.yaml, line 2: not plain YAML: !!int: tags (!name) are not read here; "),
        ("epochs: 010\n", "mine.yaml, line 1: not plain YAML: 010: a number has decimal digits alone "),
        (f"x{900 * 'y'}: 1\n", "mine.yaml, line 1: xyyy"),
        (f"epochs: {400 * '9'}\n", "mine.yaml, line 1: epochs: must be at most 1000000, not 9999"),
        (f"weights: {{lr: {400 * '9'}}}\n", "mine.yaml, line 1: weights.lr: must be at most 1.8e308, not 9999"),
        (f"epochs: [{10**5 * '1,'}]\n", "mine.yaml, line 1: not plain YAML: there are more than 1000 values"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_configuration_files(refuse: Refuse, here: Path, command: str, content: str | bytes, message: str) -> None:
    (here / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refuse(command, "--config", "mine.yaml").startswith(message)


def test_configurations_that_are_not_there(refuse: Refuse, here: Path) -> None:
    (here / "folder").mkdir()
    for name in ("nope", "nope.yaml", ""):
        known = "no such file, and no shipped configuration of this command (retrain_cifar10, retrain_demo, retrain_digits)"
        assert refuse("retrain", "--config", name) == f"--config {name!r}: {known}"
    assert refuse("retrain", "--config", "folder") == "folder: is a folder, where a file is needed"
    assert refuse("search.darts", "--config") == "--config: expected one argument"
    of_the_other = refuse("retrain", "--config", "digits")
    ours = "retrain_cifar10, retrain_demo, retrain_digits"
    assert of_the_other.endswith(f"digits.yaml, line 3: space: no such field; shipped for this command: {ours}")


def test_harmless_oddities_are_read(here: Path, capsys: pytest.CaptureFixture[str], run: Run) -> None:
    (here / "mine.yaml").write_bytes(b"\xef\xbb\xbfepochs: 7\r\ndata:\r\n  limit: 50\r\n")
    assert run("search.darts", "--config", "mine.yaml", "--print_config") == 0
    assert "\nepochs: 7\n" in (text := capsys.readouterr().out) and "\n  limit: 50\n" in text
    assert run("search.darts", "--config", "mine.yaml", "--config", "digits", "--print_config") == 0  # the later one wins
    assert "\nepochs: 7\n" not in capsys.readouterr().out


# Genotypes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a genotype: expected JSON, a NAS-Bench-201 string or Genotype(...), or what AutoDL, nni, NASLib "),
        ("epochs: 3\n", "not a genotype: expected JSON, "),
        (bytes(range(256)), "not a genotype: binary, or not UTF-8"),
        (pickle.dumps({"normal": []}), "not a genotype: binary, or not UTF-8"),
        (JSON[:300], "not valid JSON (half-written?): "),
        (CELL[:-20], "cell, node 2: expected |operation~state|...|"),
        (10**5 * '{"format":', "not a genotype: JSON nested too deeply"),
        (JSON + 2**22 * " ", "is too large, above 4 MiB"),
        (JSON.replace('"format": 1', '"format": 2'), "genotype: unknown format 2; this version reads format 1"),
        (JSON.replace('"skeleton": "darts"', '"skeleton": "ofa"'), "space: unknown skeleton 'ofa'; known: darts, nasbench201"),
        (JSON.replace('"skeleton": "darts"', '"skeleton": "nasbench201"'), "space: inputs of the nasbench201 skeleton are"),
        (JSON.replace('"reduce":', '"cell":'), "cells: key 'reduce' is missing"),
        (JSON.replace("dil_conv_3x3", "my_op"), "normal, node 3, input 1: unknown operation 'my_op'; known: avg_pool_3x3"),
        (JSON.replace('["dil_conv_3x3", 2]', '["dil_conv_3x3", 9]'), "normal, node 3, input 1: state 9 is out of range"),
        ("Genotype(normal=__import__('os').mkdir('pwned'), normal_concat=[2], reduce=[], reduce_concat=[2])", "normal: only "),
    ],
    ids=lambda value: repr(value[:20]),
)  # fmt: skip
def test_genotype_files(refuse: Refuse, here: Path, content: str | bytes, message: str) -> None:
    (here / "mine.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refuse("retrain", "--genotype=mine.json").startswith(f"genotype: mine.json: {message}")


def test_genotypes_that_are_not_there(refuse: Refuse, here: Path) -> None:
    (here / "folder").mkdir()
    assert refuse("retrain", "--genotype=nope.json") == "genotype: nope.json: no such file"
    assert refuse("retrain", "--genotype=folder") == "genotype: folder: is a folder, where a file is needed"
    (here / "folder/genotype.json").write_text(JSON)
    assert refuse("retrain", "--genotype=folder") == "genotype: folder: is a folder, did you mean folder/genotype.json?"
    assert refuse("retrain", "--genotype=folder/") == "genotype: folder/: is a folder, did you mean folder/genotype.json?"
    assert refuse("retrain", "--genotype=DARTS_V3").startswith(
        "genotype: 'DARTS_V3' is neither a file nor a published genotype; known: DARTS_V1, DARTS_V2, "
    )
    assert refuse("retrain", "--genotype=").startswith("genotype: give a file or one of DARTS_V1, DARTS_V2, ")


def test_an_operation_of_ones_own_has_to_be_imported(refuse: Refuse, here: Path) -> None:
    (here / "mine.json").write_text(JSON.replace("dil_conv_3x3", "my_op"))
    message = refuse("retrain", "--genotype=mine.json")
    assert message.endswith("; one of your own is known once the file with its @register_op is imported")


def test_a_genotype_of_a_space_without_auxiliary_head(refuse: Refuse, here: Path) -> None:
    (here / "mine.txt").write_text(CELL)
    message = refuse("retrain", "--genotype=mine.txt", "--auxiliary_weight=0.4", "--cells=1")
    assert message == "the nasbench201 skeleton has no place for an auxiliary head; set auxiliary_weight to 0"


# Tables


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.csv", b"", "columns missing: arch, "),
        ("table.csv", b"arch,cifar10_test_200\n", "columns missing: cifar10_valid_200, "),
        ("table.csv", bytes(range(128, 256)), "not a text in UTF-8; "),
        ("table.csv.gz", b"arch,cifar10_test_200\n", "not gzip, or damaged "),
        ("table.csv.gz", b"", "columns missing: arch, "),
    ],
    ids=["empty", "cut short", "binary", "not gzip", "empty gzip"],
)
def test_benchmark_tables(refuse: Refuse, here: Path, name: str, content: bytes, message: str) -> None:
    (here / name).write_bytes(content)
    assert refuse("search.darts", f"--tabular={name}").startswith(f"tabular: {name}: {message}")


# Data


@both
def test_images_that_are_too_small(refuse: Refuse, command: str) -> None:
    def tiny(config: DataConfig, part: str) -> ImageSet:
        return ImageSet(torch.zeros(80, 1, 5, 3, dtype=torch.uint8), torch.arange(80) % 2, 2, (0.5,), (0.5,))

    with DATASETS.temporarily():
        register_dataset("tiny")(tiny)
        message = refuse(command, "--data.name=tiny", "--data.limit=null", "--data.crop_padding=0")
    assert message == "images: 5x3 is too small, the network needs at least 4x4"


def test_cifar10_that_is_absent_or_damaged(refuse: Refuse, here: Path) -> None:
    cifar = ["--data.name=cifar10", "--data.root=images"]
    for command in ("search.darts", "retrain"):
        assert refuse(command, *cifar).startswith("data.root: there is no folder images/cifar-10-batches-py; name the folder")
    folder = here / "images/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("batches.meta", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    for command in ("search.darts", "retrain"):
        message = refuse(command, *cifar)
        assert message.startswith("data.root: CIFAR-10 in images/cifar-10-batches-py is incomplete or damaged (data_batch_1, ")
        assert message.endswith("; delete the folder and download it again with --data.download true")
