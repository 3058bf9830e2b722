"""How many runs a comparison of two groups needs to have a power of 0.8."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats

POWER = 0.8


@dataclass(frozen=True)
class Spread:
    """The standard deviations of two groups, in pp, not both zero; and what follows for n runs.

    >>> Spread(3.0, 4.0).error(25)
    1.0
    """

    first: float
    second: float

    def error(self, n: int) -> float:
        """The standard error of the difference of the means with n runs of each group."""
        return math.hypot(self.first, self.second) / math.sqrt(n)

    def freedom(self, n: int) -> float:
        """Welch's degrees of freedom, from n - 1 (one deviation is zero) to 2 (n - 1)."""
        ratio = min(self.first, self.second) / max(self.first, self.second)
        return (n - 1) * (1 + ratio**2) ** 2 / (1 + ratio**4)


def runs_to_detect(difference: float, spread: Spread, level: float) -> int:
    """Runs of each group to find a true difference with power 0.8, by a two-sided test.

    Args:
        difference: in pp, > 0.
        level: of the test, such as 0.05.
    """
    return _smallest(lambda n: _power(difference, spread, n, level / 2) >= POWER)


def runs_for_equivalence(margin: float, spread: Spread, level: float) -> int:
    """Runs of each group to show equivalence with power 0.8 if there is no true difference.

    Each of the two one-sided tests may fail with half of the probability 1 - 0.8. This is exact
    if no sample fails both tests, and slightly too many runs otherwise (Schuirmann 1987).

    Args:
        margin: in pp, > 0.
        level: of each one-sided test.
    """
    return _smallest(lambda n: _power(margin, spread, n, level) >= (1 + POWER) / 2)


def _power(shift: float, spread: Spread, n: int, level: float) -> float:
    """The probability that n runs of each group show a true `shift`, by a one-sided test."""
    freedom = spread.freedom(n)
    # scipy fails for noncentralities around 1e12; from 1e3 on, the power is 1 anyway.
    noncentrality = min(shift / spread.error(n), 1e3)
    return float(stats.nct.sf(stats.t.isf(level, freedom), freedom, noncentrality))


def _smallest(enough: Callable[[int], bool]) -> int:
    """The smallest number of runs, from 2 on, that is enough; more runs must be enough, too."""
    high = 2
    while not enough(high):
        high *= 2
    return bisect_left(range(high), True, lo=2, hi=high, key=enough)
