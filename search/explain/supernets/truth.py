"""The truth about an explanation: the exact importance of every operation in a benchmark table.

For operation o on edge e of the derived cell x, let x' be x with o on e. Its exact operation
importance is OI(x', e) = mean over the other operations of A(x') - A(x' with another one on e) (Wan
et al. 2022, section 4), and its exact SHAP value is that of edge e in x' against an architecture
drawn at random (Lundberg & Lee 2017): both from the accuracies A of all architectures of the space
that was searched, each trained alone. Neither has seen the supernet.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from search.costs.tabular import Table
from search.explain.decomposition import operation_importance, ranks, shap
from search.explain.landscape import Landscape, landscape
from search.explain.supernets.measures import Values, agreement
from search.explain.supernets.trained import Candidate, TrainedSupernet
from search.sampling.encoding import Encoding

TRUTHS = ("operation importance", "SHAP")
SCALES = ("accuracy", "rank")


@dataclass(frozen=True)
class Truth:
    """The exact importance of the candidates of a supernet, by one of `TRUTHS` on one of `SCALES`,
    and Kendall's tau of each measure with it."""

    name: str
    scale: str
    """accuracy, in points; rank: the percentage of architectures that are worse, in points."""
    values: Values
    all: Mapping[str, float | None]
    """Kendall's tau of each measure over all edges and operations; None where one is constant."""
    chosen: Mapping[str, float | None]
    """The same over the operations of the derived cell."""


def searched_part(supernet: TrainedSupernet, table: Table, column: str) -> Landscape:
    """Returns the accuracies, in a column of the table, of all architectures that were searched.

    Raises FieldError for a table that lacks one of them, or for a space without any.
    """
    return landscape(table, column, Encoding(supernet.space, supernet.config.exclude))


def truths(supernet: TrainedSupernet, measures: Mapping[str, Values], known: Landscape) -> list[Truth]:
    """Compares the measures with the exact importances in `known`, a `searched_part`."""
    (kind,) = supernet.space.kinds
    cell = [supernet.space.candidates[column] for column in np.asarray(supernet.path.choices[kind]).tolist()]
    derived = tuple(options.index(name) for name, options in zip(cell, known.options, strict=True))
    found = []
    for scale, values in zip(SCALES, (known.values, ranks(known.values)), strict=True):
        importance = operation_importance(values)
        exact: tuple[dict[Candidate, float], dict[Candidate, float]] = ({}, {})
        for one in supernet.candidates:
            index = list(derived)
            index[one.edge] = known.options[one.edge].index(supernet.operation(one))
            exact[0][one] = float(importance[(*index, one.edge)])
            exact[1][one] = float(shap(values, index)[one.edge])
        chosen = [one for one in supernet.chosen if supernet.has(one)]
        for name, truth in zip(TRUTHS, exact, strict=True):
            found.append(
                Truth(
                    name,
                    scale,
                    truth,
                    {measure: _tau(given, truth, supernet.candidates) for measure, given in measures.items()},
                    {measure: _tau(given, truth, chosen) for measure, given in measures.items()},
                )
            )
    return found


def _tau(given: Values, truth: Values, those: list[Candidate]) -> float | None:
    return agreement([given[one] for one in those], [truth[one] for one in those])
