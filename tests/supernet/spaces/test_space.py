"""Search spaces: edges, alphas, and the rules that derive a genotype."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.testing import check_space
from supernet import Genotype, SearchSpace, get_space, list_spaces, register_space
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.nasbench201 import NASBENCH201_SKELETON


def table(space: SearchSpace, entries: dict[tuple[int, str], float]) -> torch.Tensor:
    weights = torch.zeros(len(space.edges), len(space.candidates))
    for (edge, name), value in entries.items():
        weights[edge, space.candidates.index(name)] = value
    return weights


def test_darts_is_as_published() -> None:
    space = get_space("darts")
    assert space.candidates == (
        "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    )  # fmt: skip
    assert space.edges == (
        (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4), (0, 5), (1, 5), (2, 5), (3, 5), (4, 5),
    )  # fmt: skip
    assert {kind: alpha.shape for kind, alpha in space.new_alphas().items()} == {"normal": (14, 8), "reduce": (14, 8)}


def test_nasbench201_is_as_published() -> None:
    space = get_space("nasbench201")
    assert space.candidates == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    assert space.edges == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert {kind: alpha.shape for kind, alpha in space.new_alphas().items()} == {"cell": (6, 5)}


def test_darts_keeps_two_edges_a_node_and_never_none() -> None:
    space = get_space("darts")
    weights = table(
        space,
        {
            (0, "none"): 0.9, (0, "skip_connect"): 0.1, (1, "sep_conv_3x3"): 0.3,
            (2, "none"): 0.9, (3, "dil_conv_5x5"): 0.2, (4, "avg_pool_3x3"): 0.4, (2, "max_pool_3x3"): 0.1,
            (6, "sep_conv_5x5"): 0.5, (8, "sep_conv_5x5"): 0.5, (7, "none"): 0.8,
            (13, "dil_conv_3x3"): 0.6, (9, "max_pool_3x3"): 0.7,
        },
    )  # fmt: skip
    genotype = space.derive({"normal": weights, "reduce": weights}, seed=3, config_hash="abc")
    assert genotype.cells["normal"].nodes == (
        (("skip_connect", 0), ("sep_conv_3x3", 1)),
        (("dil_conv_5x5", 1), ("avg_pool_3x3", 2)),
        (("sep_conv_5x5", 1), ("sep_conv_5x5", 3)),
        (("max_pool_3x3", 0), ("dil_conv_3x3", 4)),
    )
    assert genotype.cells["normal"].concat == (2, 3, 4, 5)
    assert (genotype.seed, genotype.config_hash) == (3, "abc")


def test_nasbench201_keeps_every_edge_and_may_keep_none() -> None:
    space = get_space("nasbench201")
    best = ["nor_conv_3x3", "none", "nor_conv_1x1", "skip_connect", "none", "avg_pool_3x3"]
    genotype = space.derive({"cell": table(space, dict.fromkeys(enumerate(best), 0.9))})
    assert genotype.to_text("nasbench201") == (
        "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    )


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(["darts", "nasbench201"]), seed=st.integers(0, 2**31))
def test_what_is_derived_round_trips_and_is_strongest(name: str, seed: int) -> None:
    space = get_space(name)
    generator = torch.Generator().manual_seed(seed)
    mixture = {kind: alpha.softmax(-1) for kind, alpha in space.new_alphas(scale=1.0, generator=generator).items()}
    genotype = space.derive(mixture)
    for form in (name, "json"):
        assert Genotype.parse(genotype.to_text(form)) == genotype
    rank = 2 if name == "darts" else None
    for kind, cell in genotype.cells.items():
        for node, feeds in enumerate(cell.nodes):
            target = space.inputs + node
            strength = {}
            for edge, (source, end) in enumerate(space.edges):
                if end == target:
                    row = dict(zip(space.candidates, mixture[kind][edge].tolist(), strict=True))
                    if rank:
                        row.pop("none")
                    strength[source] = max(row, key=row.get), max(row.values())
            best = sorted(strength, key=lambda source: -strength[source][1])[:rank]
            assert sorted(feeds) == sorted((strength[source][0], source) for source in best)


def test_untied_mixtures_are_averaged() -> None:
    space = get_space("nasbench201")
    one, other = (
        table(space, {(edge, name): value for edge in range(6)}) for name, value in (("none", 0.5), ("skip_connect", 0.8))
    )
    genotype = space.derive({"cell": torch.stack([one, one, other, other])})
    assert {operation for feeds in genotype.cells["cell"].nodes for operation, _ in feeds} == {"skip_connect"}


def test_alphas_depend_on_the_generator_alone() -> None:
    space = get_space("darts")
    first, second = (space.new_alphas(generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(first[kind], second[kind]) for kind in space.kinds)
    values = torch.cat([alpha.detach().flatten() for alpha in first.values()])
    assert 0.8e-3 < values.std() < 1.2e-3
    untied = space.new_alphas(cells={"normal": 6, "reduce": 2})
    assert {kind: alpha.shape for kind, alpha in untied.items()} == {"normal": (6, 14, 8), "reduce": (2, 14, 8)}


def test_wrong_tables_are_refused() -> None:
    space = get_space("darts")
    good = {kind: torch.rand(14, 8) for kind in space.kinds}
    with pytest.raises(ValueError, match="space darts has the kinds normal, reduce, not cell"):
        space.derive({"cell": torch.rand(6, 5)})
    with pytest.raises(ValueError, match=r"mixture\['reduce'\]: expected \[edges=14, candidates=8\], got \[6, 5\]"):
        space.derive({**good, "reduce": torch.rand(6, 5)})
    with pytest.raises(ValueError, match=r"mixture\['normal'\]: not finite"):
        space.derive({**good, "normal": torch.full((14, 8), math.nan)})


def test_wrong_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown space 'drats'; known: darts, nasbench201"):
        get_space("drats")
    with pytest.raises(ValueError, match="'darts' is registered already"):
        register_space(SearchSpace("darts", DARTS_SKELETON, 1, ("none",), (2,)))
    assert register_space(get_space("darts")) is get_space("darts")
    for message, arguments in {
        "unknown operation 'sep'": (DARTS_SKELETON, 4, ("sep",), (2,)),
        "candidates must be distinct": (DARTS_SKELETON, 4, ("none", "none"), (2,)),
        "needs at least one node": (DARTS_SKELETON, 0, ("none",), (2,)),
        "a cell has at most 62 nodes, not 63": (DARTS_SKELETON, 63, ("skip_connect",), (2,), {}, 2),
        "have at most 512 inputs together, not 527": (DARTS_SKELETON, 31, ("none",), (2,)),
        "concat must name nodes 2 to 3": (DARTS_SKELETON, 2, ("none",), (1, 2)),
        "derived_inputs must be at least 1": (DARTS_SKELETON, 2, ("none",), (2, 3), {}, 2),
        "derived_inputs must be at least 1, with": (DARTS_SKELETON, 2, ("skip_connect",), (2, 3), {}, 0),
        "takes cells with one state in concat": (NASBENCH201_SKELETON, 3, ("none",), (2, 3)),
    }.items():
        with pytest.raises(ValueError, match=message):
            SearchSpace("mine", *arguments)


@pytest.mark.parametrize("name", list_spaces())
def test_every_space_searches_and_derives(name: str) -> None:
    space = get_space(name)
    assert space.name == name and set(space.searched_as) <= set(space.candidates)
    genotype = space.derive({kind: torch.rand(len(space.edges), len(space.candidates)) for kind in space.kinds})
    assert genotype.skeleton is space.skeleton and genotype.space == name
    check_space(space)
