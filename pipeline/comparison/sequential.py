"""Group-sequential designs: looks at a growing study whose errors add up to no more than alpha.

Testing after 5 runs of each group, adding runs and testing again with the same level finds
differences that do not exist more often than that level says. A `Design` therefore fixes the
looks, in runs of each group, before the first run, and gives each look a nominal level of its own,
so that over all looks

- two groups with equal means are called different with probability at most alpha, and
- two groups whose means differ by the margin or more are called equivalent with probability at
  most alpha.

**Planned looks** use the alpha spending function of Lan and DeMets (Biometrika 70, 1983, 659-663)
that resembles the boundaries of O'Brien and Fleming. The nominal levels follow from the joint
normal distribution of the statistics at the looks, by recursive numerical integration (Jennison
and Turnbull, "Group Sequential Methods with Applications to Clinical Trials", 2000, chapter 19).
The p values of Welch's t tests are compared with these levels, which is the usual approximation for
t statistics (the significance-level approach, chapter 4.4 there). With few runs and unequal
deviations the approximation makes up to a tenth more errors than it should, so only nine tenths of
alpha are spent. `results/calibration.md` shows the errors that result, and compares the design with
Pocock's and with Bonferroni's.

**Looks that were not planned**, such as those of a study that is extended when its result is
known, can come at any number of runs and any number of times. The j-th look gets the level
alpha / 2^j: alpha/2, alpha/4, alpha/8 and so on, which adds up to at most alpha (Bonferroni).

The verdict on a pair is fixed at the look at which it is reached: later looks neither change it
nor add to it. Holm's correction for several pairs is applied to the p values adjusted for the
looks, for each of the two questions (Maurer and Bretz, Statistics in Biopharmaceutical Research 5,
2013, 311-320).
"""

import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

import numpy as np

from pipeline.comparison.boundaries import alpha_of_level, nominal_levels
from pipeline.comparison.statistics import (
    LEVEL,
    checked_sample,
    equivalence_test,
    holm,
    welch_test,
)

SPENT = 0.9  # share of alpha that planned looks spend
FEWEST_RUNS = 3  # of each group at the first of several looks
FRACTIONS = (0.25, 0.4, 0.6, 0.8, 1.0)  # of the runs, at which `planned_looks` looks


@dataclass(frozen=True)
class Design:
    """The looks at a study and the error that they may make.

    Attributes:
        looks: runs of each group at each look, increasing; at least 2.
        margin: differences up to this one, in pp, are treated as negligible.
        alpha: probability of a wrong verdict over all looks, for each of the two questions.
        planned: whether all looks were planned before the first run. If not, more may follow.

    Raises:
        ValueError: if the looks do not increase from 2 on, the margin is not positive, or alpha is
            not in (0, 0.5].

    >>> [round(Design((5, 8, 12, 16, 20), margin=0.1).level(look), 5) for look in range(5)]
    [1e-05, 0.00061, 0.00624, 0.01945, 0.03819]
    """

    looks: tuple[int, ...]
    margin: float
    alpha: float = LEVEL
    planned: bool = True

    def __post_init__(self) -> None:
        looks = (1, *self.looks)
        if not self.looks or any(a >= b for a, b in pairwise(looks)):
            raise ValueError(f"looks must be increasing numbers of runs from 2 on: {self.looks}")
        if not self.margin > 0:
            raise ValueError(f"the margin must be positive, got {self.margin}")
        if not 0 < self.alpha <= 0.5:
            raise ValueError(f"alpha must be in (0, 0.5], got {self.alpha}")

    def level(self, look: int) -> float:
        """The nominal level of the two-sided test of difference at a look, counted from 0."""
        # Two one-sided boundaries with half of alpha each; that a study crosses both is so rare
        # that the exact level agrees in all digits shown.
        return 2 * self._one_sided_level(look, self.alpha / 2)

    def equivalence_level(self, look: int) -> float:
        """The nominal level of each one-sided test of equivalence at a look, counted from 0."""
        return self._one_sided_level(look, self.alpha)

    def adjusted(self, p_values: np.ndarray) -> np.ndarray:
        """Two-sided p values adjusted for the looks: the smallest alpha that finds a difference.

        Args:
            p_values: `(..., K)`, p values at the first K looks.

        Returns:
            `(..., K)`, the adjusted p after each look, in [0, 1]; it never increases.
        """
        return np.minimum(2 * self.adjusted_one_sided(np.asarray(p_values) / 2), 1.0)

    def adjusted_one_sided(self, p_values: np.ndarray) -> np.ndarray:
        """The same for one-sided p values, such as those of equivalence."""
        p_values = np.asarray(p_values, dtype=np.float64)
        adjusted = np.empty_like(p_values)
        for look in range(p_values.shape[-1]):
            if self.planned:
                spent = alpha_of_level(self.looks, look, p_values[..., look])
                adjusted[..., look] = spent / SPENT
            else:
                adjusted[..., look] = p_values[..., look] * 2.0 ** (look + 1)
        return np.minimum(np.minimum.accumulate(adjusted, axis=-1), 1.0)

    def to_json(self) -> str:
        """The design as one line of JSON, with the keys sorted, so that equal designs agree."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Design":
        """The design that `to_json` has written.

        Raises:
            ValueError: if the text is not that of a design.
        """
        try:
            content = json.loads(text)
            return cls(**{**content, "looks": tuple(content["looks"])})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a design: {text!r}") from error

    def _one_sided_level(self, look: int, alpha: float) -> float:
        if not self.planned:
            return float(alpha / 2 ** (look + 1))
        return float(nominal_levels(self.looks, SPENT * alpha)[look])


@dataclass(frozen=True)
class Decision:
    """What a design says of a pair of groups, the second compared with the first.

    All numbers are those of one look: the one at which the verdict was reached, or the last one
    taken if the pair is undecided. If all runs of each group have the same value, the intervals are
    None, and the pair cannot be decided.

    Attributes:
        outcome: `both` if the groups are equivalent and yet different, by the same look.
        look: how many looks had been taken.
        runs: runs of each group.
        difference: mean of the second group minus mean of the first, in pp.
        low, high: Welch's 95 % interval of the difference, in pp, not adjusted.
        equivalence_low, equivalence_high: the 90 % interval, not adjusted.
        welch_p, equivalence_p: not adjusted.
        low_adjusted, high_adjusted, equivalence_low_adjusted, equivalence_high_adjusted: repeated
            confidence intervals: with a probability of 95 % (90 %), those of all looks hold the
            true difference (Jennison and Turnbull, Journal of the Royal Statistical Society B 51,
            1989, 305-361).
        welch_p_adjusted, equivalence_p_adjusted: adjusted for the looks.
        welch_p_holm, equivalence_p_holm: these adjusted for all pairs by Holm's correction, too;
            the outcome follows from them.
    """

    first: str
    second: str
    outcome: Literal["different", "equivalent", "both", "undecided"]
    look: int
    runs: int
    difference: float
    low: float | None
    high: float | None
    low_adjusted: float | None
    high_adjusted: float | None
    equivalence_low: float | None
    equivalence_high: float | None
    equivalence_low_adjusted: float | None
    equivalence_high_adjusted: float | None
    welch_p: float
    welch_p_adjusted: float
    welch_p_holm: float
    equivalence_p: float
    equivalence_p_adjusted: float
    equivalence_p_holm: float


def planned_looks(most: int) -> tuple[int, ...]:
    """Looks, in runs of each group, for a study of at most so many runs of each group.

    >>> planned_looks(20), planned_looks(6), planned_looks(2)
    ((5, 8, 12, 16, 20), (3, 4, 5, 6), (2,))

    Raises:
        ValueError: for fewer than two runs.
    """
    if most < 2:
        raise ValueError(f"a comparison needs at least 2 runs of each group, got {most}")
    first = min(FEWEST_RUNS, most)
    return tuple(sorted({max(first, round(fraction * most)) for fraction in FRACTIONS}))


def unplanned_design(earlier: Sequence[int], runs: int, margin: float) -> Design | None:
    """The design of a study of fixed size that was looked at before, with fewer or more runs.

    Args:
        earlier: runs of each group at the earlier looks.
        runs: runs of each group now.

    Returns:
        None if this is the only look, which needs no adjustment.

    >>> unplanned_design([5], 10, margin=0.1).looks
    (5, 10)
    """
    looks = tuple(sorted({*earlier, runs}))
    return Design(looks, margin, planned=False) if len(looks) > 1 else None


def looks_taken(design: Design, groups: Mapping[str, Sized]) -> int:
    """How many looks of a design have been taken: at those, every group has its runs."""
    fewest = min(map(len, groups.values()), default=0)
    return sum(runs <= fewest for runs in design.looks)


def decide(design: Design, groups: Mapping[str, Sequence[float]]) -> list[Decision]:
    """The decision on every pair of groups after all looks taken.

    It depends on nothing but the runs and the design: given more runs later, it repeats the
    decisions of the earlier looks. A study ends when no pair is undecided, or at the last look.

    Args:
        groups: the runs of each group in percent, in the order in which they count: look k takes
            the first `design.looks[k]` of each.

    Returns:
        Every group with each later one; empty if no look has been taken.

    Raises:
        ValueError: if a value is not finite.
    """
    samples = {name: checked_sample(values) for name, values in groups.items()}
    looks = design.looks[: looks_taken(design, samples)]
    pairs = list(combinations(samples, 2))
    if not looks or not pairs:
        return []
    welch, equivalence = np.ones((2, len(pairs), len(looks)))
    for place, (first, second) in enumerate(pairs):
        for look, runs in enumerate(looks):
            a, b = samples[first][:runs], samples[second][:runs]
            if np.ptp(a) or np.ptp(b):
                welch[place, look] = welch_test(a, b).pvalue
                equivalence[place, look] = equivalence_test(a, b, design.margin)
    reached = verdicts(design, welch, equivalence)
    decisions = []
    for place, (first, second) in enumerate(pairs):
        look = int(reached.look[place])
        a, b = (samples[name][: looks[look]] for name in (first, second))
        decisions.append(
            Decision(
                first=first,
                second=second,
                outcome=_OUTCOMES[bool(reached.different[place]), bool(reached.equivalent[place])],
                look=look + 1,
                runs=looks[look],
                difference=float(b.mean() - a.mean()),
                **_intervals(design, look, a, b),
                welch_p=float(welch[place, look]),
                welch_p_adjusted=float(reached.welch[place, look]),
                welch_p_holm=float(reached.welch_holm[place, look]),
                equivalence_p=float(equivalence[place, look]),
                equivalence_p_adjusted=float(reached.equivalence[place, look]),
                equivalence_p_holm=float(reached.equivalence_holm[place, look]),
            )
        )
    return decisions


_OUTCOMES: dict[tuple[bool, bool], Literal["different", "equivalent", "both", "undecided"]] = {
    (True, False): "different",
    (False, True): "equivalent",
    (True, True): "both",
    (False, False): "undecided",
}


class Verdicts(NamedTuple):
    """What the tests of P pairs at K looks come to; `...` stands for any number of studies.

    Attributes:
        welch, equivalence: `(..., P, K)`, p values adjusted for the looks.
        welch_holm, equivalence_holm: `(..., P, K)`, these adjusted for the pairs, too.
        look: int `(..., P)`, the look at which a pair has its verdict, from 0, or the last one.
        different, equivalent: bool `(..., P)`, the verdict; neither if the pair is undecided.
    """

    welch: np.ndarray
    welch_holm: np.ndarray
    equivalence: np.ndarray
    equivalence_holm: np.ndarray
    look: np.ndarray
    different: np.ndarray
    equivalent: np.ndarray


def verdicts(design: Design, welch: np.ndarray, equivalence: np.ndarray) -> Verdicts:
    """The verdicts that follow from the p values of all tests.

    Args:
        welch: `(..., P, K)`, two-sided p values of P pairs at the first K looks.
        equivalence: `(..., P, K)`, those of the tests of equivalence.
    """
    welch, equivalence = design.adjusted(welch), design.adjusted_one_sided(equivalence)
    welch_holm = holm(welch.swapaxes(-1, -2)).swapaxes(-1, -2)
    equivalence_holm = holm(equivalence.swapaxes(-1, -2)).swapaxes(-1, -2)
    different, equivalent = welch_holm < design.alpha, equivalence_holm < design.alpha
    decided = different | equivalent
    decided[..., -1] = True  # the last look ends the study, decided or not
    look = decided.argmax(axis=-1)
    different, equivalent = (
        np.take_along_axis(answer, look[..., None], axis=-1)[..., 0]
        for answer in (different, equivalent)
    )
    return Verdicts(welch, welch_holm, equivalence, equivalence_holm, look, different, equivalent)


def _intervals(design: Design, look: int, a: np.ndarray, b: np.ndarray) -> dict[str, float | None]:
    """The intervals of a `Decision`, by the names of its fields."""
    errors = {
        ("low", "high"): design.alpha,
        ("low_adjusted", "high_adjusted"): design.level(look),
        ("equivalence_low", "equivalence_high"): 2 * design.alpha,
        ("equivalence_low_adjusted", "equivalence_high_adjusted"): 2
        * design.equivalence_level(look),
    }
    intervals: dict[str, float | None] = {}
    for names, error in errors.items():
        bounds: tuple[float | None, float | None] = (None, None)
        if np.ptp(a) or np.ptp(b):
            low, high = welch_test(a, b).confidence_interval(1 - error)
            bounds = float(low), float(high)
        intervals.update(zip(names, bounds, strict=True))
    return intervals
