"""How often the comparison's verdicts are wrong, and how many runs a sequential study saves.

    python -m benchmarks.calibration       `make calibration`; half a minute on two cores

Simulates studies of two layers (and of three) with known differences, judges them with the code
that `compare` and `study` use, and writes `results/calibration.md`.
"""

from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from benchmarks.calibration_report import Outcome, report
from pipeline.comparison.sequential import Design, planned_looks, verdicts
from pipeline.comparison.statistics import (
    LEVEL,
    equivalence_test,
    holm,
    improvement_interval,
    mann_whitney_test,
    welch_test,
)

STUDIES = 40_000  # simulated for each row of a table
MARGIN = 0.10  # pp
DIFFERENCES = (0.0, 0.5, 1.0, 2.0)  # true differences, in margins
COUNTS = (3, 5, 8, 12, 20)  # runs of each layer, for the probability of improvement

# Real runs, from results/replication.md and results/validation.md, as deviations from their mean.
ACCURACIES = {
    "conv2d": [[98.97, 99.04, 98.93, 98.96, 99.07], [98.67, 98.80, 98.79]],
    "coordconv2d": [[99.18, 99.15, 98.98, 99.04, 98.86], [98.91, 98.96, 98.91]],
}
POPULATIONS = {
    "normal, deviations 0.10 and 0.10": (0.10, 0.10),
    "normal, deviations 0.06 and 0.13": (0.06, 0.13),
    "real runs of coordconv2d, resampled for both layers": ("coordconv2d", "coordconv2d"),
    "real runs of conv2d and of coordconv2d, resampled": ("conv2d", "coordconv2d"),
}


class Rule(NamedTuple):
    """When a study is looked at, and the nominal level at each look; None is for a `Design`."""

    looks: tuple[int, ...]
    levels: tuple[float, ...] | None = None
    planned: bool = True


@cache
def real_deviations(layer: str) -> np.ndarray:
    """Deviations of real runs from the mean of their study, scaled to be unbiased in variance."""
    return np.concatenate(
        [
            (np.array(runs) - np.mean(runs)) * np.sqrt(len(runs) / (len(runs) - 1))
            for runs in ACCURACIES[layer]
        ]
    )


def draw(source: float | str, rng: np.random.Generator, count: int) -> np.ndarray:
    """Accuracies of `(STUDIES, count)` runs, in pp around a mean of 0: normal, or real ones."""
    if isinstance(source, str):
        return rng.choice(real_deviations(source), (STUDIES, count))
    return rng.normal(0, source, (STUDIES, count))


def rules() -> dict[str, Rule]:
    """The ways to study that are compared."""
    looks = planned_looks(20)
    return {
        "5 runs": Rule((5,), (LEVEL,)),
        "20 runs": Rule((20,), (LEVEL,)),
        "at most 20, each look at 5 %": Rule(looks, (LEVEL,) * len(looks)),
        "at most 20, Bonferroni": Rule(looks, (LEVEL / len(looks),) * len(looks)),
        "at most 20, Pocock": Rule(looks, (pocock_level(looks),) * len(looks)),
        "**at most 20**": Rule(looks),
        "**at most 6**": Rule(planned_looks(6)),
        "**at most 10**": Rule(planned_looks(10)),
        "**at most 30**": Rule(planned_looks(30)),
        "**5 runs, then 10**": Rule((5, 10), planned=False),
        "5 runs, 10 if undecided": Rule((5, 10), (LEVEL, LEVEL / 4)),
    }


@cache
def pocock_level(looks: tuple[int, ...]) -> float:
    """The level that, the same at each look, makes 5 % over all (Pocock 1977)."""
    times = np.array(looks)
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    normal = stats.multivariate_normal(cov=correlation, seed=np.random.default_rng(0))

    def excess(level: float) -> float:
        bound = np.full(len(looks), stats.norm.isf(level / 2))
        return 1 - float(normal.cdf(bound, lower_limit=-bound)) - LEVEL

    return float(brentq(excess, LEVEL / len(looks), LEVEL, xtol=1e-5))


class LookStatistics(NamedTuple):
    """The tests of many studies after so many runs of each layer, each `(STUDIES,)`."""

    welch: np.ndarray
    equivalence: np.ndarray
    difference: np.ndarray
    error: np.ndarray
    freedom: np.ndarray


def tests_after(first: np.ndarray, second: np.ndarray, runs: int) -> LookStatistics:
    """The tests of the first runs; where no run differs from another, they find nothing."""
    a, b = first[:, :runs], second[:, :runs]
    welch = welch_test(a, b)
    p = np.nan_to_num(welch.pvalue, nan=1.0)
    equivalence = np.nan_to_num(equivalence_test(a, b, MARGIN), nan=1.0)
    error = np.sqrt((a.var(axis=1, ddof=1) + b.var(axis=1, ddof=1)) / runs)
    return LookStatistics(
        p, equivalence, b.mean(axis=1) - a.mean(axis=1), error, np.asarray(welch.df)
    )


def judge(tests: dict[int, LookStatistics], rule: Rule, difference: float) -> Outcome:
    """What a rule makes of simulated studies.

    A verdict is wrong if it calls layers different whose means are equal, calls the worse layer
    better, or calls layers equivalent whose means differ by the margin or more.
    """
    welch = np.stack([tests[n].welch for n in rule.looks], axis=-1)
    equivalence = np.stack([tests[n].equivalence for n in rule.looks], axis=-1)
    design = Design(rule.looks, MARGIN, planned=rule.planned)
    if rule.levels is None:
        reached = verdicts(design, welch[:, None], equivalence[:, None])
        look, different, equivalent = (
            array[:, 0] for array in (reached.look, reached.different, reached.equivalent)
        )
        levels = np.array([design.level(k) for k in range(len(rule.looks))])
    else:
        levels = np.array(rule.levels)
        answers = (welch < levels), (equivalence < levels)
        decided = answers[0] | answers[1]
        decided[:, -1] = True
        look = decided.argmax(axis=1)
        different, equivalent = (answer[np.arange(STUDIES), look] for answer in answers)
    seen, error, freedom = (
        np.stack([getattr(tests[n], name) for n in rule.looks], axis=-1)[np.arange(STUDIES), look]
        for name in ("difference", "error", "freedom")
    )
    better, worse = different & (seen > 0), different & (seen < 0)
    wrong = worse | (different & (difference == 0)) | (equivalent & (difference >= MARGIN))
    off = abs(seen - difference)
    return Outcome(
        wrong=float(wrong.mean()),
        better=float((better & ~equivalent).mean()),
        equivalent=float(equivalent.mean()),
        runs=float(np.array(rule.looks)[look].mean()),
        adjusted=float((off <= error * stats.t.isf(levels[look] / 2, freedom)).mean()),
        unadjusted=float((off <= error * stats.t.isf(LEVEL / 2, freedom)).mean()),
    )


def two_layers(population: str) -> dict[float, dict[str, Outcome]]:
    """By true difference, in margins, and rule: the outcome."""
    outcomes = {}
    sources = POPULATIONS[population]
    for number, margins in enumerate(DIFFERENCES):
        rng = np.random.default_rng([1, number])
        most = max(rule.looks[-1] for rule in rules().values())
        first, second = (draw(source, rng, most) for source in sources)
        second += margins * MARGIN
        runs = sorted({n for rule in rules().values() for n in rule.looks})
        tests = {n: tests_after(first, second, n) for n in runs}
        outcomes[margins] = {
            name: judge(tests, rule, margins * MARGIN) for name, rule in rules().items()
        }
    return outcomes


# true means of three layers, in margins
THREE = ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 2), (0, 0.5, 1))


def three_layers(means: tuple[float, ...]) -> dict[str, tuple[float, float, float]]:
    """By rule: studies with a pair wrongly called different, wrongly equivalent, or either."""
    rng = np.random.default_rng([2, *(int(2 * mean) for mean in means)])
    groups = [draw(0.10, rng, 20) + mean * MARGIN for mean in means]
    pairs = list(combinations(range(3), 2))
    differences = np.array([means[j] - means[i] for i, j in pairs])
    shares = {}
    for name, looks in (("20 runs", (20,)), ("**at most 20**", planned_looks(20))):
        tests = [[tests_after(groups[i], groups[j], n) for n in looks] for i, j in pairs]
        welch, equivalence = (
            np.stack([np.stack([getattr(t, name) for t in row], axis=-1) for row in tests], axis=1)
            for name in ("welch", "equivalence")
        )
        if len(looks) > 1:
            reached = verdicts(Design(looks, MARGIN), welch, equivalence)
            different, equivalent = reached.different, reached.equivalent
        else:
            different, equivalent = (holm(p[..., 0]) < LEVEL for p in (welch, equivalence))
        different = (different & (differences == 0)).any(axis=1)
        equivalent = (equivalent & (abs(differences) >= 1)).any(axis=1)
        shares[name] = tuple(
            float(wrong.mean()) for wrong in (different, equivalent, different | equivalent)
        )
    return shares


def improvement_coverage(population: str) -> dict[tuple[float, int], float]:
    """By true difference and runs of each layer: how many intervals hold the probability."""
    sources = POPULATIONS[population]
    coverage = {}
    for number, margins in enumerate(DIFFERENCES):
        rng = np.random.default_rng([3, number])
        difference = margins * MARGIN
        if isinstance(sources[0], str):
            first, second = (real_deviations(source) for source in sources)
            truth = float(mann_whitney_test(first, second + difference)[0])
        else:
            truth = float(stats.norm.cdf(difference / np.hypot(*sources)))
        first, second = (draw(source, rng, max(COUNTS)) for source in sources)
        for count in COUNTS:
            a, b = np.round(first[:, :count], 9), np.round(second[:, :count] + difference, 9)
            improvement, _ = mann_whitney_test(a, b)
            found = np.rint(2 * count**2 * improvement).astype(int)
            possible = np.arange(2 * count**2 + 1) / (2 * count**2)
            bounds = np.array([improvement_interval(float(p), count, count) for p in possible])
            low, high = bounds[found].T
            coverage[margins, count] = float(((low <= truth) & (truth <= high)).mean())
    return coverage


def main() -> None:
    """Simulate, and write the results."""
    started = datetime.now(UTC)
    with ProcessPoolExecutor(2) as pool:
        two, three, improvement = (
            pool.map(function, cases)
            for function, cases in (
                (two_layers, POPULATIONS),
                (three_layers, THREE),
                (improvement_coverage, POPULATIONS),
            )
        )
        text = report(
            started=started,
            studies=STUDIES,
            margin=MARGIN,
            pocock=pocock_level(planned_looks(20)),
            two=dict(zip(POPULATIONS, two, strict=True)),
            three=dict(zip(THREE, three, strict=True)),
            improvement=dict(zip(POPULATIONS, improvement, strict=True)),
        )
    Path("results/calibration.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
