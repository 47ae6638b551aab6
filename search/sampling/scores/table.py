"""Scores of architectures from a benchmark table."""

from base.checks import FieldError
from search.costs.tabular import Table
from search.sampling.encoding import Encoding, Genome


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
