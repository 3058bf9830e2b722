"""Two groups of runs compared: every statistic of a pair, and all pairs of several groups.

Each pair is asked two questions: do the means differ (Welch's t test), and do they differ by less
than the margin (two one-sided tests, TOST)? A test of difference that is not significant answers
neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from pipeline.comparison.planning import Spread, runs_for_equivalence, runs_to_detect
from pipeline.comparison.statistics import (
    CONFIDENCE,
    LEVEL,
    checked_sample,
    deviation_of,
    equivalence_test,
    hedges_g,
    holm,
    improvement_interval,
    mann_whitney_test,
    welch_test,
)


@dataclass(frozen=True)
class Pair:
    """Two groups of runs, the second compared with the first.

    What needs a deviation is None if a group has fewer than two runs, or if all runs of each group
    have the same value.

    Attributes:
        pairs: how many pairs were tested together.
        margin: differences up to this one, in pp, are treated as negligible.
        difference: mean of the second group minus mean of the first, in pp.
        improvement: probability that a run of the second group is better than one of the first,
            ties counted half, in [0, 1] (Agarwal et al. 2021, arXiv:2108.13264).
        mann_whitney_p: two-sided; exact if there are no ties and a group has at most 8 runs, else
            by the normal approximation.
        low, high: Welch's 95 % interval of the difference, in pp.
        welch_p, welch_p_holm: two-sided p that the means are equal; adjusted for all pairs.
        equivalence_low, equivalence_high: Welch's 90 % interval of the difference, in pp; it lies
            within the margin exactly if equivalence_p < 0.05.
        equivalence_p, equivalence_p_holm: p that the means differ by the margin or more; adjusted.
        hedges_g: the difference in pooled standard deviations, without its small-sample bias.
        improvement_low, improvement_high: its 95 % interval, see `improvement_interval`; None if a
            group has fewer than three runs.
        runs_needed: runs of each group to find a true difference of the margin, with power 0.8.
        runs_needed_equivalence: runs of each group to show equivalence if there is no true
            difference, with power 0.8.
        runs_needed_as_seen: runs of each group to find a true difference as large as the one seen,
            with power 0.8; None if there is none. All three numbers of runs are for the level
            0.05 / pairs, the strictest that Holm's correction can ask for.
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
    runs_needed_as_seen: int | None = None


def compare_all(groups: Mapping[str, Sequence[float]], *, margin: float) -> list[Pair]:
    """Compare every group with each later one; groups with fewer than two runs are left out.

    Args:
        groups: the runs by group, in percent.
        margin: differences up to this one, in pp, are treated as negligible; > 0.

    Raises:
        ValueError: if a value is not finite.
    """
    names = list(combinations((name for name, values in groups.items() if len(values) > 1), 2))
    pairs = [
        compare_pair(
            groups[first], groups[second], margin=margin, names=(first, second), pairs=len(names)
        )
        for first, second in names
    ]
    welch = iter(holm([p.welch_p for p in pairs if p.welch_p is not None]).tolist())
    equivalence = iter(
        holm([p.equivalence_p for p in pairs if p.equivalence_p is not None]).tolist()
    )
    return [
        pair
        if pair.welch_p is None
        else replace(pair, welch_p_holm=next(welch), equivalence_p_holm=next(equivalence))
        for pair in pairs
    ]


def compare_pair(
    first: Sequence[float],
    second: Sequence[float],
    *,
    margin: float,
    names: tuple[str, str] = ("first", "second"),
    pairs: int = 1,
) -> Pair:
    """Compare two groups of runs, given as percent.

    Args:
        margin: differences up to this one, in pp, are treated as negligible; > 0.
        names: what the groups are called.
        pairs: how many pairs are tested together; the planned runs allow for it. `compare_all`
            fills in the adjusted p values; here they are equal to the raw ones.

    Raises:
        ValueError: if a group is empty or a value is not finite.
    """
    a, b = checked_sample(first), checked_sample(second)
    improvement, mann_whitney_p = map(float, mann_whitney_test(a, b))
    improvement_low, improvement_high = improvement_interval(improvement, len(a), len(b))
    pair = Pair(
        first=names[0],
        second=names[1],
        first_count=len(a),
        second_count=len(b),
        pairs=pairs,
        margin=float(margin),
        difference=float(b.mean() - a.mean()),
        improvement=improvement,
        improvement_low=improvement_low,
        improvement_high=improvement_high,
        mann_whitney_p=mann_whitney_p,
    )
    deviation_a, deviation_b = deviation_of(a), deviation_of(b)
    if deviation_a is None or deviation_b is None or deviation_a == deviation_b == 0:
        return pair
    return _tested(pair, a, b, Spread(deviation_a, deviation_b))


def _tested(pair: Pair, a: np.ndarray, b: np.ndarray, spread: Spread) -> Pair:
    """The pair with all that needs a standard deviation."""
    welch = welch_test(a, b)
    interval = welch.confidence_interval(CONFIDENCE)
    # 90 %, because each of the two one-sided tests leaves 5 % on its side.
    equivalence_interval = welch.confidence_interval(1 - 2 * LEVEL)
    welch_p, equivalence_p = float(welch.pvalue), float(equivalence_test(a, b, pair.margin))
    level = LEVEL / pair.pairs
    seen = round(abs(pair.difference), 6)  # smaller differences come from rounding
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
        hedges_g=hedges_g(a, b),
        runs_needed=runs_to_detect(pair.margin, spread, level),
        runs_needed_equivalence=runs_for_equivalence(pair.margin, spread, level),
        runs_needed_as_seen=runs_to_detect(seen, spread, level) if seen else None,
    )
