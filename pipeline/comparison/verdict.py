"""The verdict on a pair of groups, in one sentence."""

from pipeline.comparison.formats import margin_text, signed, unsigned
from pipeline.comparison.pairs import Pair
from pipeline.comparison.statistics import LEVEL


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
        interval = " to ".join(unsigned(bound) for bound in bounds)
        by = unsigned(pair.difference)
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
