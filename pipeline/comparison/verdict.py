"""The verdict on a pair of groups, in one sentence without a full stop.

A study of fixed size is judged by its p values (`verdict`), one with several looks by the decision
of its design (`verdict_by_design`). Either way, wrong verdicts have a probability of at most 5 %,
over all pairs and all looks, for each of the two questions.
"""

from pipeline.comparison.formats import margin_text, signed, signed_interval, unsigned
from pipeline.comparison.pairs import Pair
from pipeline.comparison.sequential import Decision, Design
from pipeline.comparison.statistics import LEVEL

MANY_RUNS = 10_000  # numbers of runs beyond this one are not written out


def verdict(pair: Pair, *, noun: str) -> str:
    """The verdict on a pair in a study of fixed size.

    Args:
        noun: the word for a group in the sentence, such as `layer` in "runs per layer".
    """
    if (problem := _no_verdict(pair, noun)) is not None:
        return problem
    assert pair.welch_p_holm is not None
    assert pair.equivalence_p_holm is not None
    differ = pair.welch_p_holm < LEVEL
    if pair.equivalence_p_holm < LEVEL:
        interval = signed_interval(pair.equivalence_low, pair.equivalence_high)
        return _equivalent(pair, pair.difference, f"90 % CI {interval}", differ)
    if differ:
        return _better(pair, pair.difference, (pair.low, pair.high), "")
    smaller = min(pair.first_count, pair.second_count)
    estimates = _estimates(pair, noun, smaller)
    return (
        f"undecided between {pair.first} and {pair.second}{_holm_says(pair)} "
        f"(difference {signed(pair.difference)} pp, "
        f"95 % CI {signed_interval(pair.low, pair.high)}): {estimates}"
    )


def verdict_by_design(pair: Pair, decision: Decision | None, design: Design, *, noun: str) -> str:
    """The verdict on a pair in a study with several looks.

    Args:
        pair: the statistics of all runs.
        decision: of the design on this pair; None if no look has been taken.
        noun: the word for a group in the sentence, such as `layer` in "runs per layer".
    """
    names = f"{pair.first} and {pair.second}"
    if decision is None:
        return f"no verdict on {names} yet: the first look is at {design.looks[0]} runs per {noun}"
    if decision.low is None:
        return _no_spread(names, noun)
    adjusted = f", adjusted for {len(design.looks)} looks"
    runs = f"with {decision.runs} runs per {noun}"
    reached = f"{adjusted}; decided at look {decision.look}, {runs}"
    if decision.outcome in ("equivalent", "both"):
        interval = signed_interval(
            decision.equivalence_low_adjusted, decision.equivalence_high_adjusted
        )
        words = f"90 % CI {interval}{reached}"
        return _equivalent(pair, decision.difference, words, decision.outcome == "both")
    bounds = decision.low_adjusted, decision.high_adjusted
    if decision.outcome == "different":
        return _better(pair, decision.difference, bounds, reached)
    if decision.look < len(design.looks):
        outlook = f"the next look is at {design.looks[decision.look]} runs per {noun}"
    else:
        outlook = f"in a new study, {_estimates(pair, noun)}"
    return (
        f"undecided between {names} after {decision.look} of {len(design.looks)} looks, {runs} "
        f"(difference {signed(decision.difference)} pp, "
        f"95 % CI {signed_interval(*bounds)}{adjusted}): {outlook}"
    )


def short_verdict(pair: Pair, decision: Decision | None, look: int) -> str:
    """The same in a few words, for a line about all pairs after a look.

    Args:
        look: the last look taken, from 1; a verdict that was reached earlier names its look.
    """
    if decision is None or decision.outcome == "undecided":
        return f"{pair.first} and {pair.second} are undecided"
    reached = f" (look {decision.look})" if decision.look < look else ""
    if decision.outcome == "different":
        better, worse = pair.second, pair.first
        if decision.difference < 0:
            better, worse = worse, better
        return f"{better} is better than {worse} by {unsigned(decision.difference)} pp{reached}"
    margin = margin_text(pair.margin)
    return f"{pair.first} and {pair.second} are equivalent within ±{margin} pp{reached}"


def _no_verdict(pair: Pair, noun: str) -> str | None:
    """Why there are no tests of a pair; None if there are."""
    names = f"{pair.first} and {pair.second}"
    counts = {pair.first: pair.first_count, pair.second: pair.second_count}
    if min(counts.values()) < 2:
        single = " and ".join(name for name, count in counts.items() if count < 2)
        return f"no verdict on {names} is possible: fewer than two runs of {single}"
    return _no_spread(names, noun) if pair.welch_p_holm is None else None


def _no_spread(names: str, noun: str) -> str:
    return (
        f"no verdict on {names} is possible: all runs of a {noun} have the same accuracy, "
        "so the variation between runs is unknown"
    )


def _equivalent(pair: Pair, difference: float, interval: str, differ: bool) -> str:
    real = "; the difference is real, but smaller than the margin" if differ else ""
    return (
        f"{pair.first} and {pair.second} are equivalent within ±{margin_text(pair.margin)} pp "
        f"(difference {signed(difference)} pp, {interval}){real}"
    )


def _better(
    pair: Pair, difference: float, bounds: tuple[float | None, float | None], reached: str
) -> str:
    better, worse = pair.second, pair.first
    if difference < 0:
        better, worse, bounds = worse, better, (bounds[1], bounds[0])
    interval = " to ".join(unsigned(bound) for bound in bounds)
    by = f"{unsigned(difference)} pp (95 % CI {interval}{reached})"
    return f"{better} is better than {worse} by {by}"


def _holm_says(pair: Pair) -> str:
    """That only the correction for several pairs prevents a verdict; empty otherwise."""
    significant = [p for p in (pair.welch_p, pair.equivalence_p) if p is not None and p < LEVEL]
    return f" after Holm's correction for {pair.pairs} pairs" if significant else ""


def _estimates(pair: Pair, noun: str, before: int = 0) -> str:
    """How many runs would decide a pair, the smaller number first.

    Args:
        before: runs of each group that there are already; the numbers are those on top.
    """
    answers = [
        (pair.runs_needed_as_seen, "show a difference as large as the one seen"),
        (
            pair.runs_needed_equivalence,
            f"show equivalence within ±{margin_text(pair.margin)} pp if there is no difference",
        ),
    ]
    # With enough runs for one of the answers already, only the other one is still to be expected.
    open_answers = sorted((n - before, what) for n, what in answers if n is not None and n > before)
    if not open_answers:
        return f"more runs per {noun} would decide it"
    more = "more " if before else ""
    parts: list[str] = []
    for count, what in open_answers:
        about = f"about {count:,}" if count <= MANY_RUNS else f"over {MANY_RUNS:,}"
        runs = "" if parts else f" {'run' if count == 1 else 'runs'} per {noun}"
        parts.append(f"{about} {more}".rstrip() + f"{runs} would {what}")
    each = "each with" if len(parts) > 1 else "with"
    return f"{', '.join(parts)} ({each} power 0.8)"
