"""The report of `benchmarks/calibration.py`: tables, and what they show."""

import math
import os
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import scipy

from benchmarks.commit import commit
from pipeline.comparison.files import markdown_table
from pipeline.comparison.tables import Table
from pipeline.machine import cpu

OURS = "**at most 20**"  # the rules that the text is about
UNCORRECTED = "at most 20, each look at 5 %"


class Outcome(NamedTuple):
    """What a rule makes of simulated studies: shares of all, and the mean number of runs.

    Attributes:
        wrong: verdicts that are wrong.
        better: the second layer, whose true mean is not lower, is called better.
        equivalent: the layers are called equivalent.
        runs: of each layer.
        adjusted, unadjusted: 95 % intervals, at the look of the verdict, that hold the difference.
    """

    wrong: float
    better: float
    equivalent: float
    runs: float
    adjusted: float
    unadjusted: float


HEADER = """\
# How often a verdict is wrong, and how many runs a sequential study saves

| | |
| --- | --- |
| command | `make calibration`, that is `python -m benchmarks.calibration` |
| time | {seconds:.0f} s, two processes |
| machine | {cpu}, {cores} cores; numpy {numpy}, scipy {scipy} |
| commit | {commit} |
| date | {date} |

Each row stands for {studies:,} simulated studies of two layers, judged by the code that `compare`
and `study` use, with a margin of {margin:.2f} pp. The true difference is 0, half of the margin,
the margin, or twice the margin. A verdict is **wrong** if it calls layers different whose means are
equal, calls the worse layer better, or calls layers equivalent whose means differ by the margin or
more. The standard error of a share of 5 % is {error:.2f} %.

The rules:

- *5 runs*, *20 runs*: one test after so many runs of each layer (a study of fixed size).
- *at most 20*: looks after 5, 8, 12, 16 and 20 runs of each layer until there is a verdict. In
  bold: the design of `pipeline/comparison/sequential.py` (alpha spending of Lan and DeMets,
  O'Brien–Fleming type, of 4.5 %). Beside it, what else was considered: *each look at 5 %* (no
  correction), *Bonferroni* (1 % at each look), *Pocock* (the same level at each look, here
  {pocock:.2f} %).
- *at most 6*, *10*, *30*: the same design with its looks for these numbers.
- *5 runs, then 10*: a study of fixed size that was extended. Its two looks, which were not planned,
  have the levels 2.5 % and 1.25 %.
- *5 runs, 10 if undecided*: the same where the verdict after 5 runs was read and taken at the full
  5 %, and the study was extended only where it was undecided.
"""

TABLE_NOTE = """\
In the tables of the populations, *better* means that the layer with the higher mean is called
better (without a difference: one of the two layers), *equivalent* that the layers are called
equivalent, both in % of all studies; *runs* is the mean number of runs of each layer.
"""


def report(
    *,
    started: datetime,
    studies: int,
    margin: float,
    pocock: float,
    two: dict[str, dict[float, dict[str, Outcome]]],
    three: dict[tuple[float, ...], dict[str, tuple[float, float, float]]],
    improvement: dict[str, dict[tuple[float, int], float]],
) -> str:
    """The whole page as Markdown; the arguments are what `calibration.main` has simulated."""
    head = HEADER.format(
        seconds=(datetime.now(UTC) - started).total_seconds(),
        cpu=cpu(),
        cores=os.cpu_count(),
        numpy=np.__version__,
        scipy=scipy.__version__,
        commit=commit(),
        date=started.date(),
        studies=studies,
        margin=margin,
        error=100 * math.sqrt(0.05 * 0.95 / studies),
        pocock=100 * pocock,
    )
    blocks = [head, *_findings(two), TABLE_NOTE]
    for population, outcomes in two.items():
        blocks += [f"## Two layers: {population}", _rules_table(outcomes)]
    blocks += ["## Three layers", _three_layers(three)]
    blocks += ["## The interval of the difference", _intervals(two)]
    blocks += ["## The interval of the probability of improvement", _improvement(improvement)]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _worst(two: dict[str, dict[float, dict[str, Outcome]]], rule: str) -> float:
    return max(rules[rule].wrong for outcomes in two.values() for rules in outcomes.values())


def _findings(two: dict[str, dict[float, dict[str, Outcome]]]) -> list[str]:
    rules = list(next(iter(next(iter(two.values())).values())))
    lines = [
        "## Wrong verdicts, right ones, and runs",
        "The first column is the largest share of wrong verdicts over all populations and "
        "differences below. The others are means over the populations: studies with a right "
        "verdict, and runs of each layer.",
    ]
    margins = list(next(iter(two.values())))
    header = ["rule", "largest share wrong"]
    header += [f"right, {_in_margins(m)}" for m in margins]
    header += [f"runs, {_in_margins(m)}" for m in margins]
    rows = []
    for rule in rules:
        right, runs = [], []
        for m in margins:
            outcomes = [outcomes[m][rule] for outcomes in two.values()]
            right.append(np.mean([_right(outcome, m) for outcome in outcomes]))
            runs.append(np.mean([outcome.runs for outcome in outcomes]))
        cells = [f"{100 * _worst(two, rule):.2f} %", *(f"{_percent(share)} %" for share in right)]
        rows.append([rule, *cells, *(f"{count:.1f}" for count in runs)])
    ours = [outcomes[m][OURS].runs for outcomes in two.values() for m in margins]
    corrected = {rule: _worst(two, rule) for rule in rules if rule != UNCORRECTED}
    worst = max(corrected, key=lambda rule: corrected[rule])
    plain = worst.strip("*")
    return [
        *lines,
        markdown_table(Table(header, rows)),
        f"Looking repeatedly at 5 % gives a wrong verdict in up to "
        f"{_percent(_worst(two, UNCORRECTED))} % of the studies. Of all other rules, *{plain}* has "
        f"the largest share, {100 * corrected[worst]:.2f} %; the largest of the design with at "
        f"most 20 runs is {100 * _worst(two, OURS):.2f} %. The design saves "
        f"{20 - max(ours):.1f} to {20 - min(ours):.1f} of 20 runs of each layer, depending on the "
        "population and the difference, and still reaches almost as many right verdicts as 20 "
        "runs at once. Pocock's levels save more runs where layers differ, but reach fewer right "
        "verdicts, above all of equivalence; Bonferroni's reach the fewest.",
    ]


def _right(outcome: Outcome, margins: float) -> float:
    if margins == 0:
        return outcome.equivalent
    return outcome.better + (outcome.equivalent if margins < 1 else 0)


def _in_margins(margins: float) -> str:
    names = {0: "no difference", 0.5: "half the margin", 1: "the margin"}
    return names.get(margins, f"{margins:g} margins")


def _rules_table(outcomes: dict[float, dict[str, Outcome]]) -> str:
    header = ["rule"]
    for margins in outcomes:
        header += [f"**{_in_margins(margins)}**: wrong", "better", "equivalent", "runs"]
    rows = [
        [
            rule,
            *(
                cell
                for rules in outcomes.values()
                for cell in (
                    _percent(rules[rule].wrong),
                    _percent(rules[rule].better),
                    _percent(rules[rule].equivalent),
                    f"{rules[rule].runs:.1f}",
                )
            ),
        ]
        for rule in next(iter(outcomes.values()))
    ]
    return markdown_table(Table(header, rows))


def _three_layers(three: dict[tuple[float, ...], dict[str, tuple[float, float, float]]]) -> str:
    header = ["true means, in margins", "rule", "wrongly different", "wrongly equivalent", "either"]
    rows = [
        [", ".join(f"{mean:g}" for mean in means), rule, *(f"{100 * s:.2f} %" for s in shares)]
        for means, rules in three.items()
        for rule, shares in rules.items()
    ]
    return (
        "Normal runs with deviations of 0.10 pp. Holm's correction keeps the probability that any "
        "of the three pairs is wrongly called different at 5 % or less, and likewise the "
        "probability that any is wrongly called equivalent. Where both errors are possible in one "
        "study, because two means are equal and others are the margin apart, the probability of "
        "either error is larger than 5 %: the 5 % hold for each of the two questions.\n\n"
        + markdown_table(Table(header, rows))
    )


def _intervals(two: dict[str, dict[float, dict[str, Outcome]]]) -> str:
    header = ["population", "true difference", "adjusted", "not adjusted"]
    rows = [
        [
            population,
            _in_margins(margins),
            f"{_percent(rules[OURS].adjusted)} %",
            f"{_percent(rules[OURS].unadjusted)} %",
        ]
        for population, outcomes in two.items()
        for margins, rules in outcomes.items()
    ]
    return (
        "How many of the 95 % intervals at the look of the verdict hold the true difference, with "
        "the design of at most 20 runs.\n\n" + markdown_table(Table(header, rows))
    )


def _improvement(improvement: dict[str, dict[tuple[float, int], float]]) -> str:
    counts = sorted({count for shares in improvement.values() for _, count in shares})
    header = ["population", "true difference", *(f"{count} runs" for count in counts)]
    rows = [
        [
            population,
            _in_margins(margins),
            *(f"{_percent(shares[margins, count])} %" for count in counts),
        ]
        for population, shares in improvement.items()
        for margins in dict.fromkeys(margins for margins, _ in shares)
    ]
    return (
        "How many of the 95 % intervals hold the true probability, by runs of each layer. The "
        "interval is Wilson's, with the number of runs of the smaller group; below three runs "
        "none is given.\n\n" + markdown_table(Table(header, rows))
    )
