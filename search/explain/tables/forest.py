"""Functional ANOVA of a score that is known for some architectures, by a forest of regression
trees (Hutter, Hoos & Leyton-Brown 2014), with intervals.

A tree cuts the space into boxes, the leaves. The mean of its predictions over all architectures
with one option of a slot, or with a pair of options of two, is a sum over its leaves: exact, whatever
the size of the space (their algorithm 2).

A forest by itself explains too little: it is smoother than the score, and more so with fewer
trials, so that a share of its variance is no share of the score's. Two things correct it, both
from the residuals of each trial under the trees that have not seen it (out of bag):

- An expectation over all architectures is the forest's plus the mean residual of the trials, as in
  a difference estimator (Cassel, Sarndal & Wretman 1976); from a sum of squares the expected square
  of its noise is taken.
- Let f be the score, h the forest, and g and h_i their means over the options of slot i. For the
  total effect T_i = E[(f - g)^2], orthogonality gives exactly

      E[(f - h_i)^2] = T_i + E[(g - h_i)^2] = T_i + (1 - t_i) E[(f - h)^2],

  where t_i is the total effect of the slot on the error f - h, as a share. It is not known. If the
  error is white, t_i = (k_i - 1) / k_i; that is the upper end. At the lower end the error depends
  on the slot as the score does, t_i = T_i / V, or half as much as a white one, whichever is less.
  The estimate is the middle, and the interval reaches over both ends.

As these hold for any forest, the intervals need no second one: they come from a bootstrap over the
trials and their residuals. The forest has to predict something, though: with R^2 near 0 the ends are
far from each other, as nothing is known.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.explain.decomposition import Slots

LEAST_TREES = 20
"""Trees of a forest at least: each trial needs some that have not seen it."""
DEFAULT_TREES = 200
BOOTSTRAPS = 300
_WHOLE = 2**15  # architectures up to which the forest is asked about each
_DRAWN = 1024  # of a larger space
# 95% of a normal distribution are within 1.96 standard deviations. The factor is for the forest, which
# the bootstrap takes as given, and for scores of few cells that cannot learn: without it 85% of the
# intervals cover the main effect of edge 0 to 1 (NAS-Bench-201, 500 trials), with it 90% or more.
_REACH = 1.5 * 1.96


@dataclass(frozen=True)
class Share:
    """A share of the variance of the score, with its interval of 95%."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ForestEffects:
    """The effects of all slots on the score of an architecture that is drawn at random."""

    variance: float
    """Variance of the score, in the square of its unit."""
    explained: float
    """Share of it that the forest predicts for trials that its trees have not seen (R^2)."""
    main: tuple[Share, ...]
    """Main effect of each slot."""
    total: tuple[Share, ...]
    """Total effect of each slot."""
    pairs: dict[Slots, Share]
    """Interaction of each pair of slots, without their main effects."""
    means: list[np.ndarray]
    """Mean score with each option of each slot: [k_i]."""


def forest_effects(
    choices: np.ndarray,
    options: Sequence[int],
    scores: np.ndarray,
    trees: int = DEFAULT_TREES,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> ForestEffects:
    """Estimates the effects from the `scores` of some architectures: [n], and `choices` [n, d], the
    option of each in each slot, below `options` [d].

    `advance` is called after each tree. Raises ValueError where all scores are equal, or the trees
    are fewer than `LEAST_TREES`.
    """
    if trees < LEAST_TREES:
        raise ValueError(f"{LEAST_TREES} trees are needed at least, not {trees}")
    if scores.min() == scores.max():
        raise ValueError("all scores are equal, so that no slot has an effect")
    random = np.random.default_rng(seed)
    data = _Data(np.asarray(choices), tuple(options), np.asarray(scores, np.float64), random)
    fitted = _fit(data, trees, random, advance)
    count = len(fitted.scores)

    def resampled(many: int) -> np.ndarray:
        return random.multinomial(many, np.full(many, 1 / many))

    first = _estimate(data, fitted, np.ones(count), None)
    again = [_estimate(data, fitted, resampled(count), None if data.is_whole else resampled(_DRAWN)) for _ in range(BOOTSTRAPS)]

    def shares(low: Callable[[_Estimates], np.ndarray], high: Callable[[_Estimates], np.ndarray]) -> list[Share]:
        # A square has a standard error that grows with it: its root has about the same everywhere.
        roots = [
            (np.sqrt(np.maximum(end(first), 0)), np.sqrt([np.maximum(end(one), 0) for one in again])) for end in (low, high)
        ]
        (least, around_least), (most, around_most) = roots
        bottom = np.maximum(least - _REACH * around_least.std(0, ddof=1), 0) ** 2
        top = np.minimum(most + _REACH * around_most.std(0, ddof=1), 1) ** 2
        middle = np.clip((low(first) + high(first)) / 2, 0, 1)
        return [Share(*map(float, three)) for three in zip(middle, bottom, top, strict=True)]

    pairs = [frozenset((one, other)) for one in range(len(options)) for other in range(one + 1, len(options))]
    return ForestEffects(
        first.variance,
        first.explained,
        tuple(shares(lambda one: one.main, lambda one: one.main)),
        tuple(shares(lambda one: one.least, lambda one: one.white)),
        dict(zip(pairs, shares(lambda one: one.pairs, lambda one: one.pairs), strict=True)),
        first.means,
    )


def seconds_of_a_tree(choices: np.ndarray, options: Sequence[int], scores: np.ndarray) -> float:
    """Returns the seconds that a tree of `forest_effects` takes, measured on the second of two."""
    random = np.random.default_rng(0)
    data = _Data(np.asarray(choices), tuple(options), np.asarray(scores, np.float64), random)
    times = [time.monotonic()]
    _fit(data, 2, random, lambda: times.append(time.monotonic()))
    return times[-1] - times[-2]


@dataclass(frozen=True)
class _Estimates:
    """Estimates, as shares of the variance where no unit is said."""

    variance: float
    explained: float
    main: np.ndarray
    least: np.ndarray
    """Total effects if the error of the forest depends little on the slots."""
    white: np.ndarray
    """Total effects if the error of the forest is white."""
    pairs: np.ndarray
    means: list[np.ndarray]


@dataclass(frozen=True)
class _Surface:
    """A forest h over all architectures, or some that were drawn from them: m."""

    values: np.ndarray
    """h: [m]."""
    without: np.ndarray
    """(h - h_i)^2: [d, m]."""

    def moments(self, weights: np.ndarray | None) -> tuple[float, np.ndarray]:
        """Returns the variance of h, and E[(h - h_i)^2] [d], with each architecture weighted; None
        weighs all alike."""
        mean = np.average(self.values, weights=weights)
        variance = float(np.average((self.values - mean) ** 2, weights=weights))
        return variance, np.average(self.without, axis=1, weights=weights)


@dataclass(frozen=True)
class _Fitted:
    """A forest, and the trials that some of its trees have not seen: n of them."""

    scores: np.ndarray
    encoded: np.ndarray
    """[n, columns]."""
    predicted: np.ndarray
    """h(x) by the trees that have not seen the trial: [n]."""
    averaged: np.ndarray
    """h_i(x) by the same trees: [d, n]."""
    surface: _Surface
    joint: np.ndarray
    """Means of h, see `_joint_means`."""


class _Data:
    """The trials, and the architectures that the forest is asked about."""

    def __init__(self, choices: np.ndarray, options: tuple[int, ...], scores: np.ndarray, random: np.random.Generator) -> None:
        self.choices, self.options, self.scores = choices, options, scores
        self.starts = np.cumsum([0, *options])
        """The first column of each slot in the encoding, and the number of columns."""
        self.encoded = self.encode(choices)
        self.swapped = self._swapped(choices)
        self.is_whole = np.prod(np.array(options, dtype=object)) <= _WHOLE
        if self.is_whole:
            self.asked = self.encode(np.stack(np.unravel_index(np.arange(np.prod(options)), options), 1))
        else:
            drawn = np.stack([random.integers(count, size=_DRAWN) for count in options], 1)
            self.asked = np.concatenate([self.encode(drawn), self._swapped(drawn)])

    def encode(self, choices: np.ndarray) -> np.ndarray:
        """Returns 0 and 1 for each option of each slot: float32 [n, columns]."""
        encoded = np.zeros((len(choices), self.starts[-1]), np.float32)
        np.put_along_axis(encoded, choices + self.starts[:-1], 1, 1)
        return encoded

    def _swapped(self, choices: np.ndarray) -> np.ndarray:
        """Returns the encoding of each architecture with each option of each slot put in:
        [columns * n, columns], by column."""
        parts = []
        for slot, count in enumerate(self.options):
            for option in range(count):
                other = choices.copy()
                other[:, slot] = option
                parts.append(self.encode(other))
        return np.concatenate(parts)

    def averaged(self, predictions: np.ndarray) -> np.ndarray:
        """Returns, of predictions for `_swapped` [columns * n], the means over the options of each
        slot: [d, n]."""
        by_column = predictions.reshape(self.starts[-1], -1)
        return np.stack([by_column[start:end].mean(0) for start, end in zip(self.starts, self.starts[1:], strict=False)])

    def surface(self, predictions: np.ndarray) -> "_Surface":
        """Returns the forest, of its predictions for `asked`."""
        if self.is_whole:
            grid = predictions.reshape(self.options)
            without = [((grid - grid.mean(slot, keepdims=True)) ** 2).ravel() for slot in range(grid.ndim)]
            return _Surface(predictions, np.stack(without))
        own = predictions[:_DRAWN]
        return _Surface(own, (own - self.averaged(predictions[_DRAWN:])) ** 2)


def _fit(data: _Data, trees: int, random: np.random.Generator, advance: Callable[[], None]) -> _Fitted:
    from sklearn.tree import DecisionTreeRegressor  # slow to import

    count, columns = data.encoded.shape
    asked, own, swapped = np.zeros(len(data.asked)), np.zeros(count), np.zeros((columns, count))
    unseen, joint = np.zeros(count), np.zeros((columns, columns))
    # A space that is searched by mutation has trials that are asked for twice: copies are drawn as
    # one, as with one in the bag the other out of it is not unseen.
    _, group = np.unique(data.choices, axis=0, return_inverse=True)
    groups = group.max() + 1
    for _ in range(trees):
        bag = random.multinomial(groups, np.full(groups, 1 / groups))[group.ravel()]
        seen, out = np.flatnonzero(bag), np.flatnonzero(bag == 0)
        tree = DecisionTreeRegressor(random_state=int(random.integers(2**31)))
        tree.fit(data.encoded[seen], data.scores[seen], sample_weight=bag[seen])
        if len(out):
            own[out] += tree.predict(data.encoded[out])
            places = (np.arange(columns)[:, None] * count + out).ravel()
            swapped[:, out] += tree.predict(data.swapped[places]).reshape(columns, -1)
            unseen[out] += 1
        asked += tree.predict(data.asked)
        joint += _joint_means(tree.tree_, data)
        advance()
    used = unseen > 0
    averaged = data.averaged((swapped[:, used] / unseen[used]).ravel())
    predicted = own[used] / unseen[used]
    return _Fitted(data.scores[used], data.encoded[used], predicted, averaged, data.surface(asked / trees), joint / trees)


def _estimate(data: _Data, fitted: _Fitted, weights: np.ndarray, drawn: np.ndarray | None) -> _Estimates:
    """Estimates the effects with each trial weighted, and each architecture that was `drawn` from
    the space."""

    def mean(values: np.ndarray) -> np.ndarray:
        return np.average(values, axis=-1, weights=weights)

    scores, predicted, averaged = fitted.scores, fitted.predicted, fitted.averaged
    residual = scores - predicted
    error = float(mean(residual**2))
    surface, without = fitted.surface.moments(drawn)
    variance = surface + mean((scores - mean(scores)) ** 2) - mean((predicted - mean(predicted)) ** 2)
    # Scores of trials that were drawn where they are good may vary less than the forest elsewhere.
    variance = max(float(variance), error)
    without = without + mean((scores - averaged) ** 2 - (predicted - averaged) ** 2)
    # E[(f - h_i)^2] = T + (1 - T / V) E[(f - h)^2], solved for T / V.
    alike = np.clip((without - error) / max(variance - error, 0.01 * variance), 0, 1)
    white = 1 - 1 / np.array(data.options)
    least = np.minimum(alike, white / 2)
    means, noise = _corrected(fitted.joint, fitted.encoded, residual, weights)
    main, pairs = _low_orders(means, noise, data)
    return _Estimates(
        variance,
        1 - error / variance,
        main / variance,
        np.clip((without - (1 - least) * error) / variance, 0, 1),
        np.clip((without - (1 - white) * error) / variance, 0, 1),
        pairs / variance,
        [np.diag(means)[start:end] for start, end in zip(data.starts, data.starts[1:], strict=False)],
    )


def _joint_means(tree: Any, data: _Data) -> np.ndarray:
    """Returns the mean of a tree's predictions over all architectures with the options of two
    columns, [columns, columns]; on the diagonal with that of one column.

    Options of the same slot exclude each other: their entries mean nothing.
    """
    allowed = np.ones((tree.node_count, data.encoded.shape[1]), bool)
    slot_of = np.repeat(np.arange(len(data.options)), data.options)
    level = np.array([0])
    while len(level):
        level = level[tree.children_left[level] >= 0]
        column, left, right = tree.feature[level], tree.children_left[level], tree.children_right[level]
        allowed[left] = allowed[level]
        allowed[left, column] = False
        allowed[right] = allowed[level] & ((slot_of != slot_of[column][:, None]) | (np.arange(len(slot_of)) == column[:, None]))
        level = np.concatenate([left, right])
    leaves = tree.children_left < 0
    boxes = allowed[leaves]
    widths = np.add.reduceat(boxes, data.starts[:-1], axis=1, dtype=np.float64) / np.array(data.options)
    # A box has the share of all architectures that is the product of its widths; given an option
    # of a slot, the width of that slot is 1 or 0.
    given = boxes / widths[:, slot_of]
    mass = tree.value[leaves, 0, 0] * widths.prod(1)
    joint = given.T @ (given * mass[:, None])
    np.fill_diagonal(joint, mass @ given)
    return joint


def _corrected(
    joint: np.ndarray, encoded: np.ndarray, residual: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Adds the mean residual of the trials with the options of each pair of columns to the mean
    prediction; returns the sums, and the variance of each."""
    there = encoded.T.astype(np.float64)
    copies = np.maximum((there * weight) @ there.T, 1e-9)
    mean = (there * (weight * residual)) @ there.T / copies
    square = (there * (weight * residual**2)) @ there.T / copies
    # Without a second trial nothing is known of the spread; that of all residuals stands in.
    whole = np.average(residual**2, weights=weight)
    spread = np.where(copies > 1.5, (square - mean**2) * copies / np.maximum(copies - 1, 0.5), whole)
    trials = there @ there.T
    return joint + np.where(trials > 0, mean, 0), np.where(trials > 0, spread / copies, 0)


def _low_orders(means: np.ndarray, noise: np.ndarray, data: _Data) -> tuple[np.ndarray, np.ndarray]:
    """Returns the variances of the main effects [d] and of the interactions of pairs, without the
    part of them that the noise of the means makes."""
    ends = list(zip(data.starts, data.starts[1:], strict=False))
    main = np.array(
        [np.diag(means)[start:end].var() - (1 - 1 / (end - start)) * np.diag(noise)[start:end].mean() for start, end in ends]
    )
    pairs = []
    for one, (first, after_first) in enumerate(ends):
        for second, after_second in ends[one + 1 :]:
            block, noisy = means[first:after_first, second:after_second], noise[first:after_first, second:after_second]
            part = block - block.mean(0) - block.mean(1, keepdims=True) + block.mean()
            freedom = (1 - 1 / block.shape[0]) * (1 - 1 / block.shape[1])
            pairs.append((part**2).mean() - freedom * noisy.mean())
    return main, np.array(pairs)
