"""The statistics of groups of runs: summaries, intervals and tests, without words.

Every value that is compared is an accuracy in percent, so every difference is in percentage
points (pp). The runs of a group differ only in their seed and are independent samples.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.05  # probability of a wrong verdict, for each of a pair's two questions
CONFIDENCE = 0.95
FEWEST_FOR_IMPROVEMENT = 3  # runs of each group for an interval of the probability of improvement


@dataclass(frozen=True)
class Summary:
    """One group of runs; mean, deviation, low, high and best in percent, or as `summarize` says.

    Attributes:
        deviation: sample standard deviation; None with one run.
        low, high: 95 % t interval of the mean, cut at 0 and at the highest possible value; None
            with one run or if all runs have the same value.
        best: the highest value.
    """

    count: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    best: float


@dataclass(frozen=True)
class McNemar:
    """Two models on the same test images.

    Attributes:
        only_first, only_second: how many images only this model classifies correctly.
        p: exact and two-sided, for the hypothesis that both are equally likely to be the only
            correct one; in (0, 1].
    """

    only_first: int
    only_second: int
    p: float


def checked_sample(values: Sequence[float]) -> np.ndarray:
    """The values as float64 `(N,)`, rounded to nine decimals.

    Raises:
        ValueError: if there is no value or one is not finite.
    """
    # A fraction times 100 can be off by 1e-14, which would break ties and look like a deviation.
    sample = np.round(np.asarray(values, dtype=np.float64), 9)
    if not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"need at least one value and only finite ones, got {list(values)}")
    return sample


def deviation_of(sample: np.ndarray) -> float | None:
    """The sample standard deviation of `(N,)` values; None with one value."""
    if len(sample) < 2:
        return None
    # The mean of equal values can be off by 1e-14, too.
    return float(sample.std(ddof=1)) if np.ptp(sample) else 0.0


def summarize(values: Sequence[float], highest: float = 100.0) -> Summary:
    """Describe one group of runs.

    Args:
        values: in percent, or in another unit from 0 to `highest`.

    Raises:
        ValueError: if there is no value or one is not finite.

    >>> summarize([99.0, 99.1, 99.2]).count
    3
    """
    sample = checked_sample(values)
    mean, deviation = float(sample.mean()), deviation_of(sample)
    low = high = None
    if deviation:
        error = deviation / math.sqrt(len(sample))
        low, high = stats.t.interval(CONFIDENCE, len(sample) - 1, loc=mean, scale=error)
        low, high = max(float(low), 0.0), min(float(high), highest)
    return Summary(len(sample), mean, deviation, low, high, float(sample.max()))


def welch_test(first: np.ndarray, second: np.ndarray, alternative: str = "two-sided") -> Any:
    """Welch's t test of the difference of means, second minus first, along the last axis.

    Args:
        first, second: `(..., N)` and `(..., M)`, at least two runs each, not all equal.
        alternative: `two-sided`, `greater` or `less`.

    Returns:
        The result of `scipy.stats.ttest_ind`, with `pvalue` of shape `(...)`.
    """
    with warnings.catch_warnings():
        # scipy warns where one group has no deviation; that of the other group is enough.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return stats.ttest_ind(second, first, axis=-1, equal_var=False, alternative=alternative)


def equivalence_test(
    first: np.ndarray, second: np.ndarray, margin: float
) -> np.ndarray | np.float64:
    """The p value of equivalence: the larger one of two one-sided Welch tests against ±`margin`.

    This is the TOST procedure (Schuirmann 1987, doi:10.1007/BF01068419).

    Args:
        first, second: `(..., N)` and `(..., M)` in percent, at least two runs each, not all equal.
        margin: in pp.

    Returns:
        `(...)`.
    """
    above = welch_test(first, second + margin, "greater").pvalue
    below = welch_test(first, second - margin, "less").pvalue
    return np.maximum(above, below)


def mann_whitney_test(first: np.ndarray, second: np.ndarray) -> tuple[Any, Any]:
    """The probability of improvement and the Mann-Whitney test, along the last axis.

    Args:
        first, second: `(..., N)` and `(..., M)`, in percent.

    Returns:
        P(second > first), with ties counted half, which is Mann-Whitney's U divided by the number
        of pairs; and the two-sided p value. Both are `(...)`.

    >>> improvement, _ = mann_whitney_test(np.array([1, 2]), np.array([2, 3]))
    >>> float(improvement)
    0.875
    """
    test = stats.mannwhitneyu(second, first, alternative="two-sided", axis=-1)
    return test.statistic / (first.shape[-1] * second.shape[-1]), test.pvalue


def improvement_interval(
    improvement: float, first_count: int, second_count: int
) -> tuple[float | None, float | None]:
    """The 95 % interval of a probability of improvement; (None, None) with fewer than three runs.

    It is Wilson's score interval of a proportion (Journal of the American Statistical Association
    22, 1927, 209-212) of as many trials as the smaller group has runs: the variance of the
    probability p is at most p (1 - p) / min(N, M), whatever the distributions (Birnbaum and Klose,
    Annals of Mathematical Statistics 28, 1957, 933-945). So the interval is wider than it must be,
    does not shrink to a point if the groups do not overlap, and holds for unequal deviations.

    Args:
        improvement: as estimated, in [0, 1].
        first_count, second_count: runs of the two groups.

    >>> low, high = improvement_interval(1.0, 3, 3)
    >>> round(low, 2), high
    (0.44, 1.0)
    """
    trials = min(first_count, second_count)
    if trials < FEWEST_FOR_IMPROVEMENT:
        return None, None
    z2 = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) ** 2 / trials
    centre = improvement + z2 / 2
    half = math.sqrt(z2 * (improvement * (1 - improvement) + z2 / 4))
    return max((centre - half) / (1 + z2), 0.0), min((centre + half) / (1 + z2), 1.0)


def hedges_g(first: np.ndarray, second: np.ndarray) -> float:
    """The difference of means in pooled standard deviations, without its small-sample bias.

    The correction is the exact one (Hedges 1981, doi:10.3102/10769986006002107).

    Args:
        first, second: `(N,)` and `(M,)`, at least two runs each, not all equal.
    """
    n, m = len(first), len(second)
    freedom = n + m - 2
    pooled = math.sqrt(((n - 1) * first.var(ddof=1) + (m - 1) * second.var(ddof=1)) / freedom)
    correction = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2))
    difference = float(second.mean() - first.mean())
    return difference / pooled * correction / math.sqrt(freedom / 2)


def holm(p_values: npt.ArrayLike) -> np.ndarray:
    """Adjust p values for being tested together (Holm 1979, jstor.org/stable/4615733).

    Args:
        p_values: `(..., P)`; those along the last axis are tested together.

    Returns:
        `(..., P)`, in [0, 1].

    >>> holm([0.25, 0.125, 0.5])
    array([0.5  , 0.375, 0.5  ])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = p_values.argsort(axis=-1)
    factors = np.arange(p_values.shape[-1], 0, -1)
    steps = factors * np.take_along_axis(p_values, order, axis=-1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(steps, axis=-1), axis=-1)
    return np.minimum(adjusted, 1.0)


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> McNemar:
    """Compare two models image by image (McNemar 1947, doi:10.1007/BF02295996; exact binomial).

    The test accounts for the random choice of test images and not for the randomness of training.
    It is about these two trained models and not about their layers.

    Args:
        first_correct, second_correct: bool `(N,)`, whether each classifies image i correctly.

    Raises:
        ValueError: if the two arrays have different shapes.
    """
    a, b = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"both must be about the same images, got {a.shape} and {b.shape}")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    disagree = only_first + only_second
    p = float(stats.binomtest(only_first, disagree).pvalue) if disagree else 1.0
    return McNemar(only_first, only_second, p)
