"""Well-known published genotypes by name, each with its source.

They were found on CIFAR-10 unless the name says ImageNet. Texts are in the form of DARTS; NASNet-A
and AmoebaNet-A are as the authors of DARTS wrote them down.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from base.checks import InputError
from base.texts import show
from supernet.genotypes.genotype import Genotype, load_noted
from supernet.genotypes.places import find_places, plain_text
from supernet.genotypes.texts import LARGEST_TEXT, read_text


@dataclass(frozen=True)
class PublishedGenotype:
    """A genotype as published: its text in DARTS's form, and the paper."""

    name: str
    text: str
    paper: str  # authors, title, venue
    arxiv: str


_DARTS_PAPER = "Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019"
_PC_DARTS_PAPER = (
    "Xu, Xie, Zhang, Chen, Qi, Tian, Xiong: PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search, "
    "ICLR 2020"
)
_DRNAS_PAPER = "Chen, Wang, Cheng, Tang, Hsieh: DrNAS: Dirichlet Neural Architecture Search, ICLR 2021"

_ALL = (
    PublishedGenotype(
        "DARTS_V1",
        """Genotype(
            normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
                    ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)],
            normal_concat=[2, 3, 4, 5],
            reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
                    ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)],
            reduce_concat=[2, 3, 4, 5])""",
        f"{_DARTS_PAPER} (first order)",
        "1806.09055",
    ),
    PublishedGenotype(
        "DARTS_V2",
        """Genotype(
            normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                    ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
            normal_concat=[2, 3, 4, 5],
            reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
                    ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
            reduce_concat=[2, 3, 4, 5])""",
        f"{_DARTS_PAPER} (second order)",
        "1806.09055",
    ),
    PublishedGenotype(
        "PC-DARTS",
        """Genotype(
            normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1),
                    ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)],
            normal_concat=[2, 3, 4, 5],
            reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2),
                    ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
            reduce_concat=[2, 3, 4, 5])""",
        _PC_DARTS_PAPER,
        "1907.05737",
    ),
    PublishedGenotype(
        "PC-DARTS-ImageNet",
        """Genotype(
            normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1),
                    ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)],
            normal_concat=[2, 3, 4, 5],
            reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1),
                    ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)],
            reduce_concat=[2, 3, 4, 5])""",
        f"{_PC_DARTS_PAPER} (searched on ImageNet)",
        "1907.05737",
    ),
    PublishedGenotype(
        "P-DARTS",
        """Genotype(
            normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1),
                    ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)],
            normal_concat=[2, 3, 4, 5],
            reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2),
                    ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)],
            reduce_concat=[2, 3, 4, 5])""",
        "Chen, Xie, Wu, Tian: Progressive Differentiable Architecture Search: Bridging the Depth Gap between Search and "
        "Evaluation, ICCV 2019",
        "1904.12760",
    ),
    PublishedGenotype(
        "DrNAS",
        """Genotype(
            normal=[('sep_conv_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2),
                    ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2), ('dil_conv_5x5', 3)],
            normal_concat=[2, 3, 4, 5],
            reduce=[('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('dil_conv_5x5', 2), ('sep_conv_5x5', 1),
                    ('sep_conv_5x5', 1), ('dil_conv_5x5', 3), ('skip_connect', 4), ('sep_conv_5x5', 1)],
            reduce_concat=[2, 3, 4, 5])""",
        _DRNAS_PAPER,
        "2006.10355",
    ),
    PublishedGenotype(
        "DrNAS-ImageNet",
        """Genotype(
            normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                    ('sep_conv_3x3', 0), ('dil_conv_3x3', 3), ('skip_connect', 0), ('sep_conv_3x3', 1)],
            normal_concat=[2, 3, 4, 5],
            reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2),
                    ('sep_conv_3x3', 0), ('sep_conv_3x3', 2), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1)],
            reduce_concat=[2, 3, 4, 5])""",
        f"{_DRNAS_PAPER} (searched on ImageNet)",
        "2006.10355",
    ),
    PublishedGenotype(
        "NASNet-A",
        """Genotype(
            normal=[('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 0), ('sep_conv_3x3', 0), ('avg_pool_3x3', 1),
                    ('skip_connect', 0), ('avg_pool_3x3', 0), ('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 1)],
            normal_concat=[2, 3, 4, 5, 6],
            reduce=[('sep_conv_5x5', 1), ('sep_conv_7x7', 0), ('max_pool_3x3', 1), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1),
                    ('sep_conv_5x5', 0), ('skip_connect', 3), ('avg_pool_3x3', 2), ('sep_conv_3x3', 2), ('max_pool_3x3', 1)],
            reduce_concat=[4, 5, 6])""",
        "Zoph, Vasudevan, Shlens, Le: Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018",
        "1707.07012",
    ),
    PublishedGenotype(
        "AmoebaNet-A",
        """Genotype(
            normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 2), ('sep_conv_3x3', 0),
                    ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1), ('skip_connect', 0), ('avg_pool_3x3', 1)],
            normal_concat=[4, 5, 6],
            reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_7x7', 2), ('sep_conv_7x7', 0),
                    ('avg_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1), ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)],
            reduce_concat=[3, 4, 6])""",
        "Real, Aggarwal, Huang, Le: Regularized Evolution for Image Classifier Architecture Search, AAAI 2019",
        "1802.01548",
    ),
)
PUBLISHED: Mapping[str, PublishedGenotype] = MappingProxyType({genotype.name: genotype for genotype in _ALL})


_ENDINGS = (".json", ".txt", ".log", ".py")
_BEGUN = re.compile(r"^\s*[|({\[]|\n|~[0-9]")
"""Signs of a text of which the rest may be missing."""


def list_genotypes() -> list[str]:
    """Returns the names of the published genotypes."""
    return list(PUBLISHED)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _find(name: str) -> PublishedGenotype | None:
    return next((genotype for genotype in _ALL if _plain(genotype.name) == _plain(name)), None)


def get_genotype(name: str) -> Genotype:
    """Returns the published genotype of that name; case, and - or _, make no difference.

    Raises ValueError for an unknown name.
    """
    found = _find(name)
    if found is None:
        raise InputError(f"unknown genotype {show(name)}; known: {', '.join(PUBLISHED)}")
    return Genotype.parse(found.text)


def read_genotype(source: str | os.PathLike[str]) -> Genotype:
    """Returns the genotype that `find_genotype` finds."""
    return find_genotype(source)[0]


def find_genotype(source: str | os.PathLike[str]) -> tuple[Genotype, str]:
    """Returns a genotype, and a line on what was chosen or left out; "" if there is nothing to say.

    `source` is a file, FILE#NAME or FILE#NUMBER for one of several in it, the name of a published
    genotype, or a text that `Genotype.parse` reads. Raises ValueError if it is nothing of these, or
    the file or text holds no genotype.
    """
    given = os.fspath(source)
    if os.path.isfile(given):
        return load_noted(given)
    if _find(given) is not None:
        return get_genotype(given), ""
    file, _, which = given.rpartition("#")
    if which and os.path.isfile(file):
        return load_noted(file, which)
    if _means_text(given):
        found = read_text(given)
        return Genotype.of(found), found.note
    if _means_file(given):
        return load_noted(given)
    raise InputError(f"{show(given)} is neither a file nor a published genotype; known: {', '.join(PUBLISHED)}")


def _means_text(given: str) -> bool:
    """Says whether a text of a genotype is given, which may be cut short, rather than a file."""
    if given.lower().endswith(_ENDINGS):
        return False
    return _BEGUN.search(given) is not None or bool(find_places(plain_text(given[:LARGEST_TEXT])))


def _means_file(path: str) -> bool:
    separated = any(separator in path for separator in (os.sep, os.altsep) if separator)
    return separated or path.lower().endswith(_ENDINGS) or os.path.exists(path)
