"""Published genotypes by name, and the argument that is a file or a name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import PUBLISHED, get_genotype, list_genotypes, read_genotype

THEIRS = {
    "DARTS_V1": "DARTS_V1", "DARTS_V2": "DARTS", "PC-DARTS": "PCDARTS", "PC-DARTS-ImageNet": "PC_DARTS_image",
    "P-DARTS": "PDARTS", "DrNAS": "DrNAS_cifar10", "DrNAS-ImageNet": "DrNAS_imagenet", "NASNet-A": "NASNet",
    "AmoebaNet-A": "AmoebaNet",
}  # fmt: skip
"""Names here and in the list that others published."""


def test_the_well_known_ones_are_there() -> None:
    assert list_genotypes() == list(PUBLISHED) == list(THEIRS)
    for name, published in PUBLISHED.items():
        genotype = get_genotype(name)
        assert published.name == name and genotype.space == "darts" and genotype.text_form == "darts"
        assert len(genotype.cells["normal"].nodes) == (5 if name in ("NASNet-A", "AmoebaNet-A") else 4)
        assert published.paper and len(published.arxiv) == len("1806.09055")


def test_they_are_the_published_ones(shared_data: Callable[[str], Path]) -> None:
    texts = {row["name"]: row["text"] for row in json.loads(shared_data("genotypes/published.json").read_text())}
    for name, their_name in THEIRS.items():
        assert get_genotype(name) == Genotype.parse(texts[their_name]), name


@pytest.mark.parametrize("name", ["PC-DARTS", "pc-darts", "PC_DARTS", "pc_Darts"])
def test_spelling_of_names(name: str) -> None:
    assert get_genotype(name) == read_genotype(name) == Genotype.parse(PUBLISHED["PC-DARTS"].text)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"unknown genotype 'DARTS_V3'; known: DARTS_V1, DARTS_V2, .*AmoebaNet-A"):
        get_genotype("DARTS_V3")
    with pytest.raises(ValueError, match="'DARTS_V3' is neither a file nor a published genotype; known: DARTS_V1"):
        read_genotype("DARTS_V3")


def test_published_genotypes_cannot_be_replaced() -> None:
    with pytest.raises(TypeError):
        PUBLISHED["DARTS_V1"] = PUBLISHED["DARTS_V2"]  # type: ignore[index]


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    get_genotype("P-DARTS").save("darts_v2")
    assert read_genotype("darts_v2") == get_genotype("P-DARTS")
    Path("darts_v1").mkdir()  # a folder is no file
    assert read_genotype("darts_v1") == get_genotype("DARTS_V1")


@pytest.mark.parametrize("path", ["absent.json", "absent/genotype", "DARTS_V2.json"])
def test_what_looks_like_a_file_is_missed_as_one(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{path}: no such file$"):
        read_genotype(path)


def test_files_that_are_no_genotype(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, where a file is needed"):
        read_genotype(tmp_path)
    (tmp_path / "notes").write_text("Genotype(")
    with pytest.raises(ValueError, match=r"notes: Genotype.*expected a value at line 1, but there is the end of the text"):
        read_genotype(tmp_path / "notes")
    with pytest.raises(ValueError, match="is neither a file nor"):
        read_genotype("a\0b")
