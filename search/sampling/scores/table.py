"""Scores of architectures from a benchmark table."""

import re

from base.checks import FieldError
from search.costs.tabular import Table
from search.sampling.encoding import Encoding, Genome


def check_covers(table: Table, encoding: Encoding) -> None:
    """Raises ValueError, naming one of them, if the table lacks an architecture that a search may
    ask for: that is to be known before it begins."""
    names = {encoding.space.candidates[column] for column in encoding.operations}
    there = sum(names.issuperset(re.findall(r"(\w+)~", architecture)) for architecture in table.rows)
    if there < encoding.size:
        for genome in encoding.all():  # at most one more than are there
            table[encoding.genotype(genome)]


class TableScores:
    """The accuracy, a share, on the validation images after 12 epochs of training that a benchmark
    table has."""

    def __init__(self, encoding: Encoding, table: Table) -> None:
        self._encoding = encoding
        self._table = table

    def __call__(self, genome: Genome, share: float) -> float:
        """Returns the scores.

        Raises ValueError for a part of an evaluation, which a table does not have.
        """
        if share != 1:
            raise FieldError("evaluate", "a table has whole evaluations only; take a sampler without parts, or a supernet")
        return self._table[self._encoding.genotype(genome)].valid_accuracy_12 / 100
