"""Tests of search/explain/tables/motifs.py."""

import random

import numpy as np
import pytest
from scipy import stats

from search.explain.decomposition import ranks
from search.explain.tables.motifs import LEAST, benjamini_hochberg, difference, motifs, structures
from search.explain.tables.sampled import decisions
from search.sampling.encoding import Encoding, Genome
from supernet import Genotype, get_space
from supernet.genotypes.published import get_genotype

NASBENCH201 = Encoding(get_space("nasbench201"))
DARTS = Encoding(get_space("darts"))


def genome(text: str) -> Genome:
    return NASBENCH201.of_genotype(Genotype.parse(text))


def properties(*genomes: Genome, encoding: Encoding = NASBENCH201) -> set[str]:
    return {name for name, has in structures(encoding, genomes).items() if has[0]}


def test_structures_of_known_cells() -> None:
    dead = genome("|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|none~2|")
    assert properties(dead) == {"no skip_connect", "no nor_conv_1x1", "no avg_pool_3x3"}
    path = genome("|nor_conv_1x1~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
    assert properties(path) == {
        "skip_connect straight from an input to the output",
        "skip_connect on a path from an input to the output",
        "nor_conv_1x1 on a path from an input to the output",
        "nor_conv_3x3 on a path from an input to the output",
        "avg_pool_3x3 on a path from an input to the output",
        "nor_conv_1x1 on a path of at least 2 operations",
        "nor_conv_3x3 on a path of at least 2 operations",
        "avg_pool_3x3 on a path of at least 2 operations",
        "a path of at least 1 operation",
        "a path of at least 2 operations",
        "a path of at least 3 operations",
    }
    aside = genome("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|")
    assert "nor_conv_3x3 on a path from an input to the output" not in properties(aside)
    assert "avg_pool_3x3 on a path from an input to the output" not in properties(aside)  # nothing leads to it


def test_structures_name_the_kind_of_cell() -> None:
    found = properties(DARTS.of_genotype(get_genotype("DARTS_V2")), encoding=DARTS)
    assert "skip_connect straight from an input to the output in the normal cell" in found
    assert "max_pool_3x3 on a path from an input to the output in the reduce cell" in found
    assert "no max_pool_3x3 in the normal cell" in found


def test_the_motif_that_decides_comes_first() -> None:
    drawn = random.Random(0)
    genomes = [NASBENCH201.random(drawn) for _ in range(200)]
    noise = np.random.default_rng(0).normal(size=200)
    place, column = 3, NASBENCH201.operations[2]  # nor_conv_1x1 on 0 to 3
    scores = noise + 3 * np.array([one[place] == column for one in genomes])
    slots, options = decisions(NASBENCH201)
    names = [[f"{name} on {slot}" for name in of] for slot, of in zip(slots, options, strict=True)]
    found = motifs(NASBENCH201, genomes, names, scores, ranks(scores))
    assert found[0].name == "nor_conv_1x1 on 0 to 3" and not found[0].is_pair
    assert found[0].score.low < 3 < found[0].score.high and found[0].adjusted < 1e-6
    assert found[0].count == sum(one[place] == column for one in genomes)
    assert found[0].mean_with - found[0].mean_without == pytest.approx(found[0].score.value)
    assert all(LEAST <= motif.count <= 200 - LEAST for motif in found)
    assert [motif.adjusted for motif in found] == sorted(motif.adjusted for motif in found)
    # Without any effect hardly a motif is sure.
    by_chance = motifs(NASBENCH201, genomes, names, noise, ranks(noise))
    assert sum(motif.adjusted <= 0.05 for motif in by_chance) <= 2


def test_differences_are_those_of_welch() -> None:
    random = np.random.default_rng(1)
    ones, others = random.normal(1, 1, 12), random.normal(0, 3, 30)
    found, truth = difference(ones, others), stats.ttest_ind(ones, others, equal_var=False)
    interval = truth.confidence_interval()
    assert (found.value, found.p) == pytest.approx((ones.mean() - others.mean(), truth.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert difference(np.ones(3), np.zeros(4)).p == 0 and difference(np.ones(3), np.ones(4)).p == 1


def test_p_values_are_adjusted_as_by_scipy() -> None:
    p = np.random.default_rng(2).random(40) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))


@pytest.mark.parametrize("encoding", [NASBENCH201, DARTS, Encoding(get_space("nasbench201"), ["none", "avg_pool_3x3"])])
def test_decisions_have_names_for_all_options(encoding: Encoding) -> None:
    slots, options = decisions(encoding)
    assert [len(of) for of in options] == [variable.options for variable in encoding.variables]
    assert len(set(slots)) == len(slots) and all(len(set(of)) == len(of) for of in options)


def test_decisions_of_the_darts_space() -> None:
    slots, options = decisions(DARTS)
    of_third = dict(zip(slots, options, strict=True))["normal inputs of 3"]
    assert of_third == ["0 and 1", "0 and 2", "1 and 2"]
    assert "normal 0 to 2" in slots and "reduce first input of 5" in slots
