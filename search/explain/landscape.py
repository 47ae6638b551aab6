"""The scores of all architectures of a benchmark table as one array: an axis for each edge."""

import itertools
import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from base.checks import FieldError, InputError
from base.texts import show
from search.costs.tabular import Table
from search.sampling.encoding import Encoding
from supernet import SearchSpace, get_space

COLUMNS = {
    "cifar10_test_200": "test_accuracy",
    "cifar10_valid_200": "valid_accuracy",
    "cifar10_valid_12": "valid_accuracy_12",
}
"""The accuracies of a table: the field of `TableRow` by the name of the column."""
_OPERATION = re.compile(r"(\w+)~(\d)")


@dataclass(frozen=True, eq=False)
class Landscape:
    """The score of every architecture of a space whose edges each have one of some operations."""

    slots: tuple[str, ...]
    """Names of the edges, "0 to 1", in the order of the space."""
    options: tuple[tuple[str, ...], ...]
    """Operations of each edge, in the order of the space."""
    values: np.ndarray
    """Scores, float64 [options of the first slot, ..., options of the last]; percent for an
    accuracy. See `search.explain.decomposition`."""

    def index(self, architecture: str) -> tuple[int, ...]:
        """Returns the place in `values` of an architecture, in the text of NAS-Bench-201.

        Raises InputError for another text, or one with an operation that is not there.
        """
        operations = operations_of(architecture)
        if len(operations) != len(self.slots):
            raise InputError(f"must be like |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, not {show(architecture)}")
        for name, slot, known in zip(operations, self.slots, self.options, strict=True):
            if name not in known:
                raise InputError(f"{slot} has no {show(name)} in the table, but {', '.join(known)}")
        return tuple(known.index(name) for name, known in zip(operations, self.options, strict=True))

    def text(self, index: Sequence[int]) -> str:
        """Returns the text of the architecture at `index`, as NAS-Bench-201 has it."""
        operations = [known[option] for known, option in zip(self.options, index, strict=True)]
        return _text(self.slots, operations)


def operations_of(architecture: str) -> tuple[str, ...]:
    """Returns the operations of an architecture string of NAS-Bench-201, in the order of the
    edges."""
    return tuple(name for name, _ in _OPERATION.findall(architecture))


def landscape(table: Table, column: str = "cifar10_test_200", encoding: Encoding | None = None) -> Landscape:
    """Returns the accuracies in a column of the table.

    With `encoding`, they are those of its architectures, in the order of its operations; without,
    those of all architectures that the operations in the table make, in the order of the space
    nasbench201 as far as it knows them. Raises FieldError for a table that lacks one of them, and
    for an encoding of a space in which the table has no architectures.
    """
    scores = {operations_of(architecture): getattr(row, COLUMNS[column]) for architecture, row in table.rows.items()}
    space = get_space("nasbench201") if encoding is None else encoding.space
    slots = tuple(f"{source} to {target}" for source, target in space.edges)
    if encoding is None:
        known = {name: place for place, name in enumerate(space.candidates)}
        # Of operations that the space does not know, the first in the table comes first.
        used = [dict.fromkeys(names) for names in zip(*scores, strict=True)]
        options = tuple(tuple(sorted(names, key=lambda name: known.get(name, len(known)))) for names in used)
    else:
        check_space(encoding.space)
        options = (tuple(space.candidates[column] for column in encoding.operations),) * len(slots)
    size = math.prod(map(len, options))
    present = {names: score for names, score in scores.items() if all(map(operator.contains, options, names))}
    if len(present) < size:
        absent = next(names for names in itertools.product(*options) if names not in present)
        text = _text(slots, absent)
        raise FieldError(
            "tabular",
            f"has {len(present):,} of the {size:,} architectures of {_space_of(encoding)}, and no {text}; "
            "an exact analysis needs all of them",
        )
    places = [{name: place for place, name in enumerate(names)} for names in options]
    values = np.empty(tuple(map(len, options)))
    for names, score in present.items():
        values[tuple(place[name] for place, name in zip(places, names, strict=True))] = score
    return Landscape(slots, options, values)


def check_space(space: SearchSpace) -> None:
    """Raises FieldError for a space in which a table of NAS-Bench-201's form has no
    architectures."""
    is_like = space.inputs == 1 and space.nodes == 3 and len(space.kinds) == 1 and space.derived_inputs is None
    if not is_like or space.concat != (3,):
        raise FieldError(
            "tabular",
            f"a table has the architectures of nasbench201, of six edges in one kind of cell, and the space {show(space.name)} "
            "has others; leave it out",
        )


def _space_of(encoding: Encoding | None) -> str:
    return "the operations in it" if encoding is None else f"the space {encoding.space.name} with the operations of the search"


def _text(slots: Sequence[str], operations: Sequence[str]) -> str:
    """Returns the architecture with these operations as NAS-Bench-201 writes it."""
    nodes: dict[str, list[str]] = {}
    for slot, name in zip(slots, operations, strict=True):
        source, target = slot.split(" to ")
        nodes.setdefault(target, []).append(f"{name}~{source}")
    return "+".join(f"|{'|'.join(feeds)}|" for feeds in nodes.values())
