"""The plain value between a genotype and its texts, and the limits that both keep to."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from base.checks import InputError
from base.texts import show
from supernet.spaces.skeleton import SKELETONS, Skeleton

MOST_STATES = 64  # of a cell: a text of a few bytes can name any number; published cells have 7
MOST_INPUTS = 512  # of all nodes of a cell together: all eight operations on all 14 edges of DARTS are 112

_CELLS: dict[str, tuple[tuple[str, ...], int]] = {"darts": (("normal", "reduce"), 2), "nasbench201": (("cell",), 1)}
"""Of each field that has texts of its own: the kinds of cell, and the inputs of each."""

PlainCells = Mapping[str, tuple[Any, Any]]
"""(nodes, concat) of each kind of cell, as `CellGenotype` has them."""


class ParsedGenotype(NamedTuple):
    """The plain value of a genotype: its cells and the other fields.

    The value that a reader makes is unchecked. The value that a writer gets is checked: it comes
    from a `Genotype`.
    """

    cells: PlainCells
    skeleton: Skeleton
    space: Any
    seed: Any = None
    config_hash: Any = None
    note: str = ""
    """A line on what the reader left out or chose; "" if there is nothing to say."""


class Form(NamedTuple):
    """A form of text that genotypes are written in.

    `fields` are those that it is for, each the text form of a skeleton; none: it takes every
    genotype. `misfit` says why the cells of a genotype of a field cannot be written in it, None if
    they can.
    """

    write: Callable[[ParsedGenotype], str]
    fields: tuple[str, ...] = ()
    misfit: Callable[[PlainCells], str | None] = lambda cells: None


def misfit_of(genotype: ParsedGenotype, form: Form) -> str | None:
    """Returns why `genotype` cannot be written in `form`, None if it can."""
    if not form.fields:
        return None
    skeleton = genotype.skeleton
    if skeleton.text_form not in form.fields or (skeleton.kinds, skeleton.inputs) != _CELLS[skeleton.text_form]:
        return f"its skeleton is {skeleton.name}"
    return form.misfit(genotype.cells)


def of_darts(cells: PlainCells, note: str = "") -> ParsedGenotype:
    """Returns a genotype of DARTS's space."""
    return ParsedGenotype(cells, SKELETONS["darts"], "darts", note=note)


def of_nasbench201(nodes: list[list[tuple[str, int]]]) -> ParsedGenotype:
    """Returns a genotype of NAS-Bench-201's space."""
    return ParsedGenotype({"cell": (nodes, [len(nodes)])}, SKELETONS["nasbench201"], "nasbench201")


def items(place: str, value: object) -> list[Any] | tuple[Any, ...]:
    """Raises ValueError that names the place unless `value` is a list or tuple."""
    if not isinstance(value, list | tuple):
        raise InputError(f"{place}: expected a list, got {show(value)}")
    return value


def state_number(place: str, value: object) -> int:
    """Raises ValueError that names the place unless `value` is an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{place}: expected the number of a state, got {show(value)}")
    return value
