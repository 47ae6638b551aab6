"""Players of a supernet: who they are, and a mixture without some of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from search.attribution.players import Players

KINDS = ["normal", "reduce"]


@given(st.integers(0, 1000), st.booleans())
def test_players_are_the_candidates_there_are_kind_by_kind(seed: int, untied: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 4) if untied else (3, 4)
    keep = {kind: torch.rand(shape, generator=generator) < 0.7 for kind in KINDS}
    players = Players(keep)
    assert len(players) == sum(int(table.sum()) for table in keep.values())
    tables = players.tables(torch.arange(1, len(players) + 1))
    assert [tables[kind][keep[kind]].tolist() for kind in KINDS] == [
        list(range(1, int(keep["normal"].sum()) + 1)),
        list(range(int(keep["normal"].sum()) + 1, len(players) + 1)),
    ]
    assert not any(tables[kind][~keep[kind]].any() for kind in KINDS)


@given(st.integers(0, 1000))
def test_who_is_gone_weighs_0_and_the_others_stay_as_they_are(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keep = {kind: torch.rand(3, 4, generator=generator) < 0.7 for kind in KINDS}
    mixture = {kind: torch.rand(3, 4, generator=generator) * keep[kind] for kind in KINDS}
    players = Players(keep)
    present = torch.rand(len(players), generator=generator) < 0.5
    there = players.tables(present)
    for kind, table in players.under(mixture, present).items():
        assert torch.equal(table[there[kind]], mixture[kind][there[kind]])
        assert not table[~there[kind]].any()


def test_a_tied_player_leaves_all_cells_of_an_untied_mixture() -> None:
    players = Players({"cell": torch.ones(2, 2, dtype=torch.bool)})
    gone = torch.tensor([True, False, True, True])
    (table,) = players.under({"cell": torch.full((3, 2, 2), 0.5)}, gone).values()
    assert table.tolist() == [[[0.5, 0.0], [0.5, 0.5]]] * 3
