"""The ranks of architectures by a score, and their correlation with a benchmark table."""

import csv
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from search.costs.tabular import TableRow
from search.sampling.encoding import Encoding
from search.sampling.findings import Findings, Rank, draw_front, find, write_findings
from search.sampling.samplers.uniform import RandomSearchConfig, UniformSampler
from search.sampling.trials import Trial, Trials
from supernet import get_space
from supernet.genotypes.published import get_genotype
from training.metrics import Score


def tau(scores: Sequence[float], truths: Sequence[float | None]) -> float | None:
    rows = [None if truth is None else TableRow(truth, 0.0, 0.0, 0, 0, {}) for truth in truths]
    ranks = [Rank(get_genotype("DARTS_V2"), score, {}, row) for score, row in zip(scores, rows, strict=True)]
    return Findings(ranks, "parameters", len(ranks), float(len(ranks)), Score.share("accuracy")).tau


def test_there_is_none_where_either_is_constant_or_nothing_is_known() -> None:
    assert tau([0.5], [90.0]) is None
    assert tau([0.5, 0.5, 0.5], [90.0, 91.0, 92.0]) is None
    assert tau([0.3, 0.4, 0.5], [90.0, 90.0, 90.0]) is None
    assert tau([0.3, 0.4, 0.5], [None, None, None]) is None
    assert tau([0.3, 0.4, 0.5], [90.0, None, 90.0]) is None


def test_it_is_that_of_pairs_with_ties_in_either() -> None:
    """tau-b (Kendall 1945): pairs in order less the others, over the roots of the numbers of pairs without a tie."""
    scores, truths = [0.1, 0.2, 0.2, 0.4, 1e-300], [90.0, 91.0, 92.0, 92.0, 89.0]
    order = untied_scores = untied_truths = 0
    for one in range(5):
        for other in range(one):
            s, t = scores[one] - scores[other], truths[one] - truths[other]
            order += int(math.copysign(1, s * t)) if s and t else 0
            untied_scores += s != 0
            untied_truths += t != 0
    assert tau(scores, truths) == pytest.approx(order / math.sqrt(untied_scores * untied_truths), rel=1e-12)
    assert tau([1.0, 2.0], [90.0, 90.0 + 1e-12]) == pytest.approx(1)


@pytest.mark.parametrize("score", [Score.share("macro_f1", "macro F1"), Score("loss", larger_is_better=False)])
def test_an_error_is_shown_in_its_own_sign_and_the_smallest_is_the_best(score: Score, tmp_path: Path) -> None:
    """Four architectures with the same numbers as an accuracy and as a loss: the ranks are reversed."""
    encoding = Encoding(get_space("nasbench201"))
    genomes = list(itertools.islice(encoding.all(), 4))
    numbers = dict(zip(genomes, [0.4, 0.1, 0.7, 0.2], strict=True))
    costs = {genome: {"parameters": 1000.0 + place, "multiply_adds": 1e6} for place, genome in enumerate(genomes)}
    sampler = UniformSampler(encoding, RandomSearchConfig(space="nasbench201"), 0, costs.__getitem__)
    trials = Trials(sampler, lambda genome, share: 0.0)
    trials.done = [Trial(genome, score.maximised(value), 1.0) for genome, value in numbers.items()]
    found = find(trials, encoding, costs.__getitem__, None, score, 0, "hash")
    assert found is not None
    assert [rank.score for rank in found.ranked] == sorted(numbers.values(), reverse=score.larger_is_better)
    best = max(numbers, key=lambda genome: score.maximised(numbers[genome]))
    assert found.genotype.cells == encoding.genotype(best).cells
    # The cheapest of all is on the front, and the best; nothing that is dearer and worse is.
    assert {found.ranked[place].score for place in found.front} == ({0.4, 0.7} if score.larger_is_better else {0.4, 0.1})
    write_findings(found, tmp_path, 2, "supernet", None)
    rows = list(csv.DictReader((tmp_path / "architectures.csv").open()))
    assert [float(row[f"score_{score.name}"]) for row in rows] == [rank.score for rank in found.ranked]
    text = (tmp_path / "report.md").read_text()
    assert f"scored by: {score.words} (from: supernet)" in text and f"| {score.words} |" in text
    assert score.written(found.ranked[0].score) in text and "-0." not in text
    figure = draw_front(found)
    assert figure.axes[0].get_ylabel() == score.words
    assert min(figure.axes[0].lines[0].get_ydata()) > 0
