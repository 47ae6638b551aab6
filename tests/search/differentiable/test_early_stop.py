"""Tests of search/differentiable/early_stop.py, on histories written out by hand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.differentiable.early_stop import Collapse, EarlyStopConfig, collapse, new_signs, reason_to_stop

ALWAYS = EarlyStopConfig(start=0.0)


@dataclass(frozen=True)
class Epoch:
    """The values of one epoch that are judged."""

    skip_share: Mapping[str, float]
    eigenvalue: float | None


def skips(*shares: float) -> list[Epoch]:
    """One epoch for each share of skip connections in a cell, no eigenvalue measured."""
    return [Epoch({"cell": share}, None) for share in shares]


def eigenvalues(*values: float | None) -> list[Epoch]:
    """One epoch for each eigenvalue, without a skip connection."""
    return [Epoch({"cell": 0.0}, value) for value in values]


def test_nothing_is_said_of_a_search_that_does_well() -> None:
    assert collapse([], ALWAYS, 50) == []
    assert collapse(skips(*[0.5] * 20), ALWAYS, 50) == []
    assert collapse(eigenvalues(*[0.3] * 20), ALWAYS, 50) == []


def test_more_skips_than_the_share_are_a_collapse() -> None:
    assert collapse(skips(0.0, 0.5), ALWAYS, 50) == []
    (sign,) = collapse(skips(0.0, 0.51), ALWAYS, 50)
    assert sign == Collapse('skip connections are 51% of the cell "cell", more than 50%', "skips", 0)
    assert collapse(skips(0.0, 0.51), EarlyStopConfig(start=0.0, skip_share=0.51), 50) == []


def test_one_kind_of_cell_is_enough_and_the_worst_is_named() -> None:
    history = [Epoch({"normal": 0.25, "reduce": 0.1}, None), Epoch({"normal": 0.625, "reduce": 0.875}, None)]
    (sign,) = collapse(history, ALWAYS, 50)
    assert sign.reason == 'skip connections are 87.5% of the cell "reduce", more than 50%'


@pytest.mark.parametrize(
    ("shares", "epoch"),
    [
        ([0.2, 0.3, 0.8], 1),
        ([0.2, 0.5, 0.8], 1),
        ([0.2, 0.6, 0.7, 0.8], 0),
        ([0.2, 0.9, 0.4, 0.8, 0.8], 2),
        ([0.9, 0.8, 0.7], 2),
        ([0.9], 0),
    ],
)
def test_the_genotype_to_take_is_the_last_one_before_the_skips(shares: list[float], epoch: int) -> None:
    (sign,) = collapse(skips(*shares), ALWAYS, 50)
    assert (sign.cause, sign.epoch) == ("skips", epoch)


def test_an_epoch_belongs_to_the_series_by_any_kind_of_cell() -> None:
    shares = [(0.1, 0.2), (0.1, 0.9), (0.9, 0.1)]
    (sign,) = collapse([Epoch({"normal": normal, "reduce": reduce}, None) for normal, reduce in shares], ALWAYS, 50)
    assert sign.epoch == 0


def test_skips_that_are_gone_again_are_no_collapse() -> None:
    assert collapse(skips(0.2, 0.9, 0.4), ALWAYS, 50) == []


def test_an_eigenvalue_that_outgrows_the_ratio_is_a_collapse() -> None:
    """Averages of 5: 1.0 over epochs 0 to 4; then over epochs 4 to 8, of which four have the later value."""
    before = [0.8, 1.2, 0.9, 1.1, 1.0]
    assert collapse(eigenvalues(*before, *[1.37] * 4), ALWAYS, 50) == []  # (1 + 4 * 1.37) / 5 = 1.296
    (sign,) = collapse(eigenvalues(*before, *[1.38] * 4), ALWAYS, 50)  # (1 + 4 * 1.38) / 5 = 1.304
    reason = (
        "the dominant eigenvalue of the Hessian grew from 1 to 1.3 (averages of 5 readings), more than 1.3 times "
        "(Zela et al. 2020)"
    )
    assert sign == Collapse(reason, "eigenvalue", 4)


def test_the_ratio_itself_is_no_collapse() -> None:
    config = EarlyStopConfig(start=0.0, window=1, back=1, ratio=1.5)
    assert collapse(eigenvalues(2.0, 3.0), config, 50) == []
    assert len(collapse(eigenvalues(2.0, 3.001), config, 50)) == 1
    assert collapse(eigenvalues(2.0, 3.001), EarlyStopConfig(start=0.0, window=1, back=1, ratio=1.6), 50) == []


def test_window_and_back_choose_the_readings_that_are_compared() -> None:
    history = eigenvalues(9.0, 1.0, 3.0, 5.0, 7.0, 2.0)
    ratios = {(1, 1): 2 / 7, (1, 3): 2 / 3, (1, 4): 2 / 1, (2, 2): 4.5 / 4, (2, 3): 4.5 / 2, (3, 1): 14 / 15, (3, 2): 14 / 9}
    for (window, back), ratio in ratios.items():
        found = collapse(history, EarlyStopConfig(start=0.0, window=window, back=back, ratio=1.0), 50)
        assert [sign.epoch for sign in found] == ([5 - back] if ratio > 1 else []), (window, back)
        if ratio > 1:
            above = EarlyStopConfig(start=0.0, window=window, back=back, ratio=ratio + 1e-9)
            below = EarlyStopConfig(start=0.0, window=window, back=back, ratio=ratio - 1e-9)
            assert (len(collapse(history, above, 50)), len(collapse(history, below, 50))) == (0, 1)


def test_nothing_is_said_before_there_are_readings_enough() -> None:
    config = EarlyStopConfig(start=0.0, window=3, back=2)
    growing = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert collapse(eigenvalues(*growing[:4]), config, 50) == []
    assert len(collapse(eigenvalues(*growing), config, 50)) == 1


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_epochs_without_a_reading_are_passed_over(absent: float | None) -> None:
    config = EarlyStopConfig(start=0.0, window=2, back=2)
    history = eigenvalues(absent, 1.0, absent, 1.0, absent, absent, 2.0, absent, 2.0)
    (sign,) = collapse(history, config, 50)
    assert sign.epoch == 3
    assert collapse([*history, *eigenvalues(absent)], config, 50) == [], "no verdict without a reading"
    assert len(collapse([*history, *eigenvalues(absent, 2.0)], config, 50)) == 1


@pytest.mark.parametrize("before", [-1.0, 0.0])
def test_an_eigenvalue_grows_only_from_above_zero(before: float) -> None:
    config = EarlyStopConfig(start=0.0, window=1, back=1)
    assert collapse(eigenvalues(before, 5.0), config, 50) == []
    assert collapse(eigenvalues(before, -0.1), config, 50) == []
    assert len(collapse(eigenvalues(1e-3, 5.0), config, 50)) == 1


def test_readings_from_before_the_start_are_no_measure() -> None:
    """The curvature of any search grows in its first epochs."""
    config = EarlyStopConfig(start=0.2, window=2, back=2)
    history = eigenvalues(*[0.01] * 10, *[0.3] * 10)
    assert all(collapse(history[:count], config, 50) == [] for count in range(1, 21))
    (sign,) = collapse(eigenvalues(*[0.01] * 12, 0.3, 0.3), config, 50)
    assert sign.epoch == 11
    assert collapse(eigenvalues(*[0.01] * 11, 0.3, 0.3), config, 50) == []


@pytest.mark.parametrize(
    ("start", "epochs", "first"), [(0.2, 50, 10), (0.2, 51, 11), (0.0, 50, 1), (1.0, 50, 50), (0.07, 100, 7), (0.5, 5, 3)]
)
def test_nothing_is_judged_before_the_start(start: float, epochs: int, first: int) -> None:
    """`first`: the number of epochs behind with the first verdict. Binary fractions make 0.07 * 100 more than 7."""
    config = EarlyStopConfig(start=start, window=1, back=1)
    history = [Epoch({"cell": 1.0}, 2.0**epoch) for epoch in range(epochs)]
    judged = [count for count in range(epochs + 1) if collapse(history[:count], config, epochs)]
    assert judged == list(range(first, epochs + 1))


BOTH = [Epoch({"cell": 0.1}, 1.0), Epoch({"cell": 0.9}, 2.0)]
"""A collapse by both signs."""


@pytest.mark.parametrize(
    ("when", "by_skips", "by_eigenvalue", "by_both"),
    [
        ("never", None, None, None),
        ("skips", "skips", None, "skips"),
        ("eigenvalue", None, "eigenvalue", "eigenvalue"),
        ("either", "skips", "eigenvalue", "skips"),
    ],
)
def test_a_search_stops_for_the_signs_that_it_is_told_to(when, by_skips, by_eigenvalue, by_both) -> None:
    config = EarlyStopConfig(when, start=0.0, window=1, back=1)
    histories = [skips(0.1, 0.9), eigenvalues(1.0, 2.0), BOTH, skips(0.1, 0.2)]
    signs = [reason_to_stop(history, config, 50) for history in histories]
    assert [sign and sign.cause for sign in signs] == [by_skips, by_eigenvalue, by_both, None]


def test_the_signs_are_told_whatever_the_search_stops_for() -> None:
    signs = [collapse(BOTH, EarlyStopConfig(when, start=0.0, window=1, back=1), 50) for when in ("never", "skips", "either")]
    assert signs[0] == signs[1] == signs[2]
    assert [sign.cause for sign in signs[0]] == ["skips", "eigenvalue"]


EPOCHS = st.builds(
    lambda share, eigenvalue: Epoch({"cell": share}, eigenvalue),
    st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0]),
    st.none() | st.floats(-0.5, 4.0) | st.just(math.nan),
)


@settings(deadline=None)
@given(history=st.lists(EPOCHS, min_size=1, max_size=12), window=st.integers(1, 3), back=st.integers(1, 3))
def test_any_epoch_taken_instead_has_been_and_fits_its_cause(history: list[Epoch], window: int, back: int) -> None:
    """Also each prefix has a verdict of its own, whatever list it comes in and whatever was judged before."""
    config = EarlyStopConfig("either", start=0.0, window=window, back=back)
    verdicts = [collapse(history[:count], config, 20) for count in range(1, len(history) + 1)]
    assert collapse(tuple(history), config, 20) == verdicts[-1], "nothing was remembered"
    for latest, signs in enumerate(verdicts):
        assert [sign.cause for sign in signs] in ([], ["skips"], ["eigenvalue"], ["skips", "eigenvalue"])
        for sign in signs:
            assert 0 <= sign.epoch <= latest
            if sign.cause == "eigenvalue":
                taken = history[sign.epoch].eigenvalue
                assert sign.epoch < latest and taken is not None and math.isfinite(taken)
            else:
                assert all(epoch.skip_share["cell"] > 0.5 for epoch in history[sign.epoch + 1 : latest + 1])


def test_the_defaults_are_for_the_log_alone() -> None:
    config = EarlyStopConfig()
    history = [Epoch({"cell": 1.0}, 1.5**epoch) for epoch in range(50)]
    assert reason_to_stop(history, config, 50) is None
    assert [sign.cause for sign in collapse(history, config, 50)] == ["skips", "eigenvalue"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("when", "always", "must be one of never, skips, eigenvalue, either, not always"),
        ("skip_share", -0.1, "must be a share from 0 to 1, not -0.1"),
        ("skip_share", 1.1, "must be a share from 0 to 1, not 1.1"),
        ("skip_share", math.nan, "must be a share from 0 to 1, not nan"),
        ("ratio", 0.99, "must be at least 1, not 0.99"),
        ("ratio", math.inf, "must be at most 1000000000.0, not inf"),
        ("ratio", math.nan, "must be at least 1, not nan"),
        ("window", 0, "must be at least 1, not 0"),
        ("back", 0, "must be at least 1, not 0"),
        ("start", -0.1, "must be a share from 0 to 1, not -0.1"),
        ("start", 1.1, "must be a share from 0 to 1, not 1.1"),
        ("start", math.nan, "must be a share from 0 to 1, not nan"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: {message}$"):
        EarlyStopConfig(**{field: value})


def test_the_ends_of_the_ranges_are_taken() -> None:
    EarlyStopConfig(skip_share=0.0, ratio=1.0, window=1, back=1, start=0.0)
    EarlyStopConfig(skip_share=1.0, start=1.0)


def test_a_sign_is_new_where_it_was_not_there_an_epoch_before() -> None:
    history = skips(0.6, 0.6, 0.4, 0.7, 0.9)
    signs = [(epoch, sign.cause) for epoch, sign in new_signs(history, ALWAYS, 5)]
    assert signs == [(1, "skips"), (4, "skips")]
    assert [epoch for epoch, _ in new_signs(history, EarlyStopConfig(start=0.4), 5)] == [2, 4]


def test_epochs_in_which_a_selection_goes_on_are_not_judged() -> None:
    history = skips(0.1, 0.1, 0.9)
    config = EarlyStopConfig("skips", start=0.0)
    assert reason_to_stop(history, config, 2) is None and list(new_signs(history, config, 2)) == []
    assert reason_to_stop(history, config, 3) is not None and len(list(new_signs(history, config, 3))) == 1
