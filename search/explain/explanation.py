"""The options and the result of an explanation, the same for searches of all kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from search.costs.tabular import Table
from training.report.html import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "explanation"
"""The folder of an explanation in the directory of the run."""
PAGE_FILE, NUMBERS_FILE = "explanation.html", "explanation.json"
"""Its files: the page, and the numbers of the page. TensorBoard events lie beside them."""


@dataclass(frozen=True)
class ExplainOptions:
    """What is asked of an explanation."""

    device: torch.device
    seed: int = 0
    """Seed of every draw."""
    budget: int | None = None
    """The most units of cost: passes of a batch of images through the supernet for a differentiable
    search, fitted forests for one that samples; None for the default, which suits the run."""
    table: Table | None = None
    """A benchmark table with the truth."""
    column: str = "cifar10_test_200"
    """Its accuracy: a key of `search.explain.landscape.COLUMNS`."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the images (`DataConfig`) that are others now than in the configuration of the
    run."""
    pictures: bool = True
    """Whether there are figures."""


@dataclass(frozen=True)
class Explanation:
    """An explanation, ready to be shown and written."""

    page: Page
    numbers: Mapping[str, Any]
    """Content of explanation.json, in plain values."""
    sentences: Sequence[str]
    """The findings in words, made of the numbers alone."""
    figures: Mapping[str, "Figure"]
    """Figures for TensorBoard by tag."""
