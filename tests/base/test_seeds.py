"""Seeds are stable and differ by purpose."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from base.seeds import derive_seed, new_generator

parts = st.lists(st.integers() | st.text(max_size=5), max_size=4)


def test_known_seeds() -> None:
    """Written down once: another value would make every old run unrepeatable."""
    assert derive_seed() == 2858069222894195974
    assert derive_seed(0, "order", 3) == 8307221573466005009


@given(parts, parts)
def test_different_parts_give_different_seeds(one: list[int | str], other: list[int | str]) -> None:
    assert 0 <= derive_seed(*one) < 2**63
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def test_parts_are_kept_apart() -> None:
    assert len({derive_seed(1, 23), derive_seed(12, 3), derive_seed("1", 23), derive_seed("1, 23"), derive_seed(123)}) == 5


def test_generators_repeat() -> None:
    first, again, other = (torch.rand(4, generator=new_generator(7, purpose)) for purpose in ("crop", "crop", "flip"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
