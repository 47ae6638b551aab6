"""Things by name."""

import pytest

from base.checks import InputError
from base.registry import Registry


@pytest.fixture
def spaces() -> Registry[object]:
    found: Registry[object] = Registry("space", {"wide": "decimal:ROUND_UP"})
    found.add("narrow", 1)
    return found


def test_what_is_named_by_its_place_is_imported_when_it_is_asked_for() -> None:
    registry: Registry[object] = Registry("sound", {"loud": "this_is_nowhere:LOUD", "up": "decimal:ROUND_UP"})
    assert registry.names() == ["loud", "up"] and "loud" in registry
    registry.check("loud")
    assert registry["up"] == "ROUND_UP"
    with pytest.raises(ImportError):
        registry["loud"]


def test_a_name_is_given_once(spaces: Registry[object]) -> None:
    assert spaces.add("narrow", 1) == 1
    for name, thing in (("narrow", 2), ("wide", 3)):
        with pytest.raises(InputError, match=f"^space '{name}' is registered already$"):
            spaces.add(name, thing)
    assert spaces["narrow"] == 1 and spaces.add("wide", "ROUND_UP") == spaces["wide"]

    @spaces.register("decorated")
    def decorated() -> None: ...

    assert spaces["decorated"] is decorated and spaces.names() == ["wide", "narrow", "decorated"]


def test_an_unknown_name_is_said_beside_the_known_ones(spaces: Registry[object]) -> None:
    assert spaces.unknown("narow") == "unknown space 'narow'; known: wide, narrow"  # seen at a glance
    spaces.add("long", 2)
    for name, said in (("narow", "; did you mean narrow? known"), ("zzz", "; known")):
        with pytest.raises(InputError) as refused:
            spaces[name]
        assert str(refused.value) == f"unknown space {name!r}{said}: wide, narrow, long" == spaces.unknown(name)
    assert Registry("thing").unknown("x") == "unknown thing 'x'; known: none"


def test_names_are_in_the_order_of_their_arrival_or_of_the_alphabet() -> None:
    for alphabetical, order in ((False, ["b", "c", "a"]), (True, ["a", "b", "c"])):
        registry: Registry[object] = Registry("letter", {"b": "nowhere:B"}, alphabetical)
        registry.add("c", 1)
        registry.add("a", 2)
        assert registry.names() == order and registry.unknown("x").endswith(f"known: {', '.join(order)}")


def test_what_is_added_for_a_while_is_forgotten(spaces: Registry[object]) -> None:
    with pytest.raises(KeyboardInterrupt), spaces.temporarily():
        spaces.add("mine", 2)
        assert spaces["mine"] == 2
        raise KeyboardInterrupt
    assert spaces.names() == ["wide", "narrow"]
    spaces.add("mine", 3)
