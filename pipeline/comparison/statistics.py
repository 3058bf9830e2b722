"""How sure a table is: intervals, tests and a verdict on whether groups of runs differ.

Every value that is compared is an accuracy in percent, so every difference is in percentage
points (pp). The runs of a group differ only in their seed and are independent samples. A pair is
asked two questions: do the means differ (Welch's test), and do they differ by less than the margin
that matters (two one-sided tests, TOST: Schuirmann 1987, doi:10.1007/BF01068419)? A test of
difference that is not significant answers neither.
"""

import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

MARGIN = 0.10  # pp; ten of MNIST's 10,000 test images
LEVEL = 0.05
CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Summary:
    """One group of runs; mean, deviation, low, high and best in percent, or as `summarize` says.

    deviation: sample standard deviation; None with one run.
    low, high: 95 % t interval of the mean, within what is possible; None with one run or without
        spread.
    best: the highest value.
    """

    count: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    best: float


@dataclass(frozen=True)
class Pair:
    """Two groups of runs, the second compared with the first.

    What needs a deviation is None if a group has fewer than two runs or neither has any spread.

    pairs: how many pairs were tested together.
    margin: differences up to this one, in pp, do not matter.
    difference: mean of the second group minus mean of the first, in pp.
    improvement: probability that a run of the second group beats one of the first, ties counted
        half, in [0, 1] (Agarwal et al. 2021, arXiv:2108.13264).
    mann_whitney_p: two-sided; exact if there are no ties and a group has at most 8 runs, else by
        the normal approximation.
    low, high: Welch's 95 % interval of the difference, in pp.
    welch_p, welch_p_holm: two-sided p that the means are equal; adjusted for all pairs.
    equivalence_low, equivalence_high: Welch's 90 % interval of the difference, in pp; it lies
        within the margin exactly if equivalence_p < 0.05.
    equivalence_p, equivalence_p_holm: p that the means differ by the margin or more; adjusted.
    hedges_g: the difference in pooled standard deviations, freed of its small-sample bias.
    improvement_low, improvement_high: 95 % percentile interval of a bootstrap stratified by
        group; without any overlap of the groups it shrinks to the point 0 or 1, and then
        understates how uncertain the improvement is.
    runs_needed: runs per group to find a true difference of the margin, with power 0.8.
    runs_needed_equivalence: runs per group to show equivalence if there is no true difference,
        with power 0.8.
    runs_as_observed: runs per group at which either test is significant if means and deviations
        stay as they are. Like the other two it is at the level 0.05 / pairs, the strictest that
        Holm's correction can ask for.
    """

    first: str
    second: str
    first_count: int
    second_count: int
    pairs: int
    margin: float
    difference: float
    improvement: float
    mann_whitney_p: float
    low: float | None = None
    high: float | None = None
    welch_p: float | None = None
    welch_p_holm: float | None = None
    equivalence_low: float | None = None
    equivalence_high: float | None = None
    equivalence_p: float | None = None
    equivalence_p_holm: float | None = None
    hedges_g: float | None = None
    improvement_low: float | None = None
    improvement_high: float | None = None
    runs_needed: int | None = None
    runs_needed_equivalence: int | None = None
    runs_as_observed: int | None = None


@dataclass(frozen=True)
class McNemar:
    """Two models on the same test images.

    only_first, only_second: how many images only this model classifies correctly.
    p: exact and two-sided, that each is as likely as the other; in (0, 1].
    """

    only_first: int
    only_second: int
    p: float


def summarize(values: Sequence[float], highest: float = 100.0) -> Summary:
    """Describe one group of runs, given as percent, or in another unit from 0 to `highest`.

    >>> summarize([99.0, 99.1, 99.2]).count
    3

    Raises:
        ValueError: if there is no value or one is not finite.
    """
    sample = _sample(values)
    mean, deviation = float(sample.mean()), _deviation(sample)
    low = high = None
    if deviation:
        error = deviation / math.sqrt(len(sample))
        low, high = stats.t.interval(CONFIDENCE, len(sample) - 1, loc=mean, scale=error)
        low, high = max(float(low), 0.0), min(float(high), highest)
    return Summary(len(sample), mean, deviation, low, high, float(sample.max()))


def compare_all(groups: Mapping[str, Sequence[float]], margin: float = MARGIN) -> list[Pair]:
    """Compare every group with each later one; groups with fewer than two runs are left out.

    Args:
        groups: the runs by group, in percent.
        margin: differences up to this one, in pp, do not matter.

    Raises:
        ValueError: if a value is not finite or the margin is not positive.
    """
    names = list(combinations((name for name, values in groups.items() if len(values) > 1), 2))
    pairs = [
        compare_pair(groups[first], groups[second], margin, names=(first, second), pairs=len(names))
        for first, second in names
    ]
    welch = iter(holm([p.welch_p for p in pairs if p.welch_p is not None]))
    equivalence = iter(holm([p.equivalence_p for p in pairs if p.equivalence_p is not None]))
    return [
        pair
        if pair.welch_p is None
        else replace(pair, welch_p_holm=next(welch), equivalence_p_holm=next(equivalence))
        for pair in pairs
    ]


def compare_pair(
    first: Sequence[float],
    second: Sequence[float],
    margin: float = MARGIN,
    *,
    names: tuple[str, str] = ("first", "second"),
    pairs: int = 1,
) -> Pair:
    """Compare two groups of runs, given as percent.

    Args:
        margin: differences up to this one, in pp, do not matter.
        names: what the groups are called.
        pairs: how many pairs are tested together; the planned runs allow for it. The adjusted p
            are `compare_all`'s to fill in; here they repeat the raw ones.

    Raises:
        ValueError: if a group is empty, a value is not finite or the margin is not positive.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be a positive number of percentage points, got {margin}")
    a, b = _sample(first), _sample(second)
    pair = Pair(
        first=names[0],
        second=names[1],
        first_count=len(a),
        second_count=len(b),
        pairs=pairs,
        margin=float(margin),
        difference=float(b.mean() - a.mean()),
        improvement=float(probability_of_improvement(a, b)),
        mann_whitney_p=float(stats.mannwhitneyu(a, b, alternative="two-sided").pvalue),
    )
    deviation_a, deviation_b = _deviation(a), _deviation(b)
    if deviation_a is None or deviation_b is None or deviation_a == deviation_b == 0:
        return pair
    spread = _Spread(deviation_a, deviation_b)
    welch = _welch(a, b)
    interval = welch.confidence_interval(CONFIDENCE)
    # 90 %: each of TOST's two tests leaves 5 % on its side
    equivalence_interval = welch.confidence_interval(1 - 2 * LEVEL)
    welch_p, equivalence_p = float(welch.pvalue), float(equivalence_test(a, b, margin))
    improvement = stats.bootstrap(
        (a, b),
        probability_of_improvement,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    level = LEVEL / pairs
    return replace(
        pair,
        low=float(interval.low),
        high=float(interval.high),
        welch_p=welch_p,
        welch_p_holm=welch_p,
        equivalence_low=float(equivalence_interval.low),
        equivalence_high=float(equivalence_interval.high),
        equivalence_p=equivalence_p,
        equivalence_p_holm=equivalence_p,
        hedges_g=_hedges_g(pair.difference, len(a), len(b), spread),
        improvement_low=float(improvement.low),
        improvement_high=float(improvement.high),
        runs_needed=_smallest(lambda n: _power(margin, spread, n, level / 2) >= POWER),
        # to pass both one-sided tests, each failed with half of what the power leaves; exact but
        # for the samples that fail both (Schuirmann 1987)
        runs_needed_equivalence=_smallest(
            lambda n: _power(margin, spread, n, level) >= (1 + POWER) / 2
        ),
        runs_as_observed=_smallest(
            lambda n: _p_as_observed(pair.difference, margin, spread, n) < level
        ),
    )


def equivalence_test(
    first: np.ndarray, second: np.ndarray, margin: float
) -> np.ndarray | np.float64:
    """The p of equivalence: the larger of the p of two one-sided Welch tests against ±`margin`.

    Args:
        first, second: `(..., N)` and `(..., M)` in percent, at least two runs each, not all equal.
        margin: in pp.

    Returns:
        `(...)`.
    """
    above = _welch(first, second + margin, "greater").pvalue
    below = _welch(first, second - margin, "less").pvalue
    return np.maximum(above, below)


def probability_of_improvement(
    first: np.ndarray, second: np.ndarray, axis: int = -1
) -> np.ndarray | np.float64:
    """P(second > first), ties counted half: Mann-Whitney's U divided by how many pairs there are.

    Args:
        first, second: N and M runs along `axis`, in percent.

    >>> float(probability_of_improvement(np.array([1, 2]), np.array([2, 3])))
    0.875
    """
    n, m = first.shape[axis], second.shape[axis]
    ranks = stats.rankdata(np.concatenate([first, second], axis=axis), axis=axis)
    of_second = np.take(ranks, range(n, n + m), axis=axis).sum(axis=axis)
    return (of_second - m * (m + 1) / 2) / (n * m)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for being tested together (Holm 1979, jstor.org/stable/4615733).

    >>> holm([0.25, 0.125, 0.5])
    [0.5, 0.375, 0.5]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def verdict(pair: Pair, noun: str = "layer") -> str:
    """What the runs show of a pair, at 5 % over all pairs, as one sentence without a full stop.

    Args:
        noun: what a group is.
    """
    names = f"{pair.first} and {pair.second}"
    counts = {pair.first: pair.first_count, pair.second: pair.second_count}
    if min(counts.values()) < 2:
        single = " and ".join(name for name, count in counts.items() if count < 2)
        return f"no verdict on {names} is possible: fewer than two runs of {single}"
    if pair.welch_p_holm is None or pair.equivalence_p_holm is None:
        return (
            f"no verdict on {names} is possible: all runs of a {noun} agree, "
            "so nothing tells how far chance alone would move them"
        )
    differ = pair.welch_p_holm < LEVEL
    difference = f"difference {signed(pair.difference)} pp"
    margin = margin_text(pair.margin)
    if pair.equivalence_p_holm < LEVEL:
        interval = f"{signed(pair.equivalence_low)} to {signed(pair.equivalence_high)}"
        real = "; the difference is real, but smaller than the margin" if differ else ""
        return (
            f"{names} are equivalent within ±{margin} pp ({difference}, 90 % CI {interval}){real}"
        )
    if differ:
        better, worse, bounds = pair.second, pair.first, (pair.low, pair.high)
        if pair.difference < 0:
            better, worse, bounds = worse, better, (pair.high, pair.low)
        interval = " to ".join(_unsigned(bound) for bound in bounds)
        by = _unsigned(pair.difference)
        return f"{better} is better than {worse} by {by} pp (95 % CI {interval})"

    smaller = min(counts.values())
    planned = max(filter(None, (pair.runs_needed, pair.runs_needed_equivalence)))
    if planned > smaller:
        more = planned - smaller
        condition = f" (with power 0.8, for a difference of {margin} pp or none)"
    else:  # enough by plan: the truth seems to lie between none and the margin, or close to it
        more = max((pair.runs_as_observed or 0) - smaller, 1)
        condition = ", if means and deviations stay as they are"
    runs = f"about {more:,} more {'run' if more == 1 else 'runs'} per {noun}"
    uncorrected = [p for p in (pair.welch_p, pair.equivalence_p) if p is not None and p < LEVEL]
    holm_says = f" after Holm's correction for {pair.pairs} pairs" if uncorrected else ""
    interval = f"{signed(pair.low)} to {signed(pair.high)}"
    return (
        f"undecided between {names}{holm_says} ({difference}, 95 % CI {interval}): "
        f"{runs} would decide it{condition}"
    )


def margin_text(margin: float) -> str:
    """A margin in pp, with two digits or all that it takes: 0.125 must not read 0.12.

    >>> margin_text(0.1), margin_text(0.125)
    ('0.10', '0.125')
    """
    return f"{margin:.2f}" if margin == round(margin, 2) else f"{margin:g}"


def signed(value: float | None) -> str:
    """Two digits, always with a sign."""
    # 0.0 is added so that a rounded -0.001 is no negative zero
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> McNemar:
    """Compare two models image by image (McNemar 1947, doi:10.1007/BF02295996; exact binomial).

    It sees the chance in the choice of test images, not the one in training: it is about these
    two trained models and not about their layers.

    Args:
        first_correct, second_correct: bool `(N,)`, whether each classifies image i correctly.

    Raises:
        ValueError: if the two are not about the same number of images.
    """
    a, b = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"both must be about the same images, got {a.shape} and {b.shape}")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    disagree = only_first + only_second
    p = float(stats.binomtest(only_first, disagree).pvalue) if disagree else 1.0
    return McNemar(only_first, only_second, p)


@dataclass(frozen=True)
class _Spread:
    """The deviations of two groups, not both zero, and what follows for n runs of each."""

    first: float
    second: float

    def error(self, n: int) -> float:
        """The standard error of the difference of the means."""
        return math.hypot(self.first, self.second) / math.sqrt(n)

    def freedom(self, n: int) -> float:
        """Welch's degrees of freedom, from n - 1 (one deviation is zero) to 2 (n - 1)."""
        ratio = min(self.first, self.second) / max(self.first, self.second)
        return (n - 1) * (1 + ratio**2) ** 2 / (1 + ratio**4)


def _sample(values: Sequence[float]) -> np.ndarray:
    # a fraction times 100 can be off by 1e-14, which would break ties and pass for a spread
    sample = np.round(np.asarray(values, dtype=np.float64), 9)
    if not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"need at least one value and only finite ones, got {list(values)}")
    return sample


def _deviation(sample: np.ndarray) -> float | None:
    if len(sample) < 2:
        return None
    # the mean of equal values can be off by 1e-14, too
    return float(sample.std(ddof=1)) if np.ptp(sample) else 0.0


def _welch(first: np.ndarray, second: np.ndarray, alternative: str = "two-sided") -> Any:
    """scipy's result for second - first, along the last axis."""
    with warnings.catch_warnings():
        # scipy doubts its precision where a group has no spread; the other group's is enough
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return stats.ttest_ind(second, first, axis=-1, equal_var=False, alternative=alternative)


def _hedges_g(difference: float, n: int, m: int, spread: _Spread) -> float:
    """Hedges 1981, doi:10.3102/10769986006002107, with the exact correction."""
    freedom = n + m - 2
    pooled = math.sqrt(((n - 1) * spread.first**2 + (m - 1) * spread.second**2) / freedom)
    correction = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2))
    return difference / pooled * correction / math.sqrt(freedom / 2)


def _power(shift: float, spread: _Spread, n: int, level: float) -> float:
    """The chance that n runs per group show a true `shift`, by a one-sided test at `level`."""
    freedom = spread.freedom(n)
    # scipy has no noncentral t for noncentralities of 1e12; from 1e3 on the power is 1 anyway
    noncentrality = min(shift / spread.error(n), 1e3)
    return float(stats.nct.sf(stats.t.isf(level, freedom), freedom, noncentrality))


def _p_as_observed(difference: float, margin: float, spread: _Spread, n: int) -> float:
    """The smaller p of the two tests, of difference and of equivalence, with n runs per group."""
    size, error, freedom = abs(difference), spread.error(n), spread.freedom(n)
    differ = 2 * stats.t.sf(size / error, freedom)
    return float(min(differ, stats.t.sf((margin - size) / error, freedom)))


def _smallest(enough: Callable[[int], bool]) -> int:
    """The smallest number of runs, from 2 on, that is enough; more must be enough, too."""
    high = 2
    while not enough(high):
        high *= 2
    return bisect_left(range(high), True, lo=2, hi=high, key=enough)


def _unsigned(value: float | None) -> str:
    return "–" if value is None else f"{abs(value):.2f}"
