"""The sentences of a comparison: notes under tables, verdicts, what differs and what is missing."""

from collections import Counter
from fractions import Fraction

from pipeline.comparison.formats import enumeration, p_equals
from pipeline.comparison.report import PairResult, Protocol, Report
from pipeline.comparison.sequential import looks_taken
from pipeline.comparison.tables import COLLAPSED, PAIR_COLUMNS, has_pose_column
from pipeline.data.datasets import PLAIN
from pipeline.machine import UNCOMMITTED

MACHINE_VALUES = 4  # if there are more versions, CPUs or commits, only their number is reported


def group_note(protocols: list[Protocol]) -> str:
    """What the columns of `group_table` mean, for the tables of these protocols."""
    note = (
        "Accuracy and macro F1 on the test set: mean (sample standard deviation). 95 % CI: "
        "t interval of the mean accuracy, cut at 0 and 100. Best: the highest accuracy of "
        "a run. Last epoch: test accuracy after the last epoch, which no selection touches."
    )
    if any(_has_poses(protocol) for protocol in protocols):
        note += (
            " The accuracy after the last epoch is measured on one pose of each test image, the "
            "other accuracies on all that the data set has."
        )
    if any(has_pose_column(protocol) for protocol in protocols):
        note += (
            " Pose deviation: how much the pose of a digit still varies after the transformer; 0 "
            "where every image of a digit comes to the same pose."
        )
    return note


def _has_poses(protocol: Protocol) -> bool:
    """Whether the test set may show an image more than once."""
    return protocol.params.get("dataset") != PLAIN


def pair_note(report: Report, protocol: Protocol) -> str:
    """What the rows of `pair_table` mean."""
    note = (
        "The p value of the t test and of the Mann–Whitney test is for no difference; the p value "
        "of the equivalence test is for a difference of the margin or more. The probability of "
        "improvement is the probability that a run of the first-named group is better than a run "
        "of the other. The numbers of runs are for power 0.8 at 5 % over all pairs."
    )
    pairs = max((result.pair.pairs for result in protocol.pairs), default=0)
    if pairs > 1:
        note += (
            f" In brackets: p by Holm's correction for {pairs} pairs, which the verdict depends on."
        )
    if report.design:
        note += (
            " The verdict depends on the adjusted values, which are those of the look named; the "
            "other values use all runs and are not adjusted."
        )
    return note


def design_sentences(report: Report, protocol: Protocol) -> list[str]:
    """Which looks a study takes, which have been taken, and what follows for the error."""
    design = report.design
    if design is None:
        return []
    taken = looks_taken(design, {group.name: group.runs for group in protocol.groups})
    looks = enumeration(design.looks)
    error = f"{100 * design.alpha:g} %"
    if design.planned:
        plan = (
            f"Looks were planned at {looks} runs of each {report.noun}; {taken} of "
            f"{len(design.looks)} have been taken. Over all looks, the probability of a wrong "
            f"verdict is at most {error} for each of the two questions (alpha spending of Lan and "
            "DeMets, O'Brien–Fleming type)."
        )
    else:
        levels = ", ".join(f"{100 * design.level(look):.3g}" for look in range(len(design.looks)))
        plan = (
            f"This study was extended after a look at its result, so its looks at {looks} runs of "
            f"each {report.noun} share the error of {error}: their levels are {levels} %."
        )
    return [f"{plan} A verdict is fixed at the look at which it is reached."]


def any_tested(protocol: Protocol) -> bool:
    """Whether there are statistics: some pair has at least two runs of each group."""
    return any(_is_tested(result) for result in protocol.pairs)


def verdict_sentences(report: Report, protocol: Protocol) -> list[str]:
    """The verdict on each pair, or why there is none; sentences without a full stop.

    If there are many pairs, one sentence covers all those with too few runs.
    """
    if not protocol.pairs:
        (group,) = protocol.groups
        return [f"there are runs of {group.name} only, so there is nothing to compare"]
    if len(protocol.pairs) <= PAIR_COLUMNS:
        return [result.verdict for result in protocol.pairs]
    if not any_tested(protocol):
        return [f"none is possible with fewer than two runs of each {report.noun}"]
    single = [group.name for group in protocol.groups if len(group.runs) < 2]
    words = f"no verdict on a pair with {' or '.join(single)} is possible: fewer than two runs"
    shown = [result.verdict for result in protocol.pairs if _is_tested(result)]
    return [*shown, words] if single else shown


def champion_sentences(report: Report, protocol: Protocol) -> list[str]:
    """McNemar's test of each pair, unless `champion_table` has it, and what the test means."""
    champions = {group.name: group.champion for group in protocol.groups}
    tested = [result for result in protocol.pairs if result.mcnemar]
    sentences = []
    for result in tested if len(tested) <= PAIR_COLUMNS else []:
        first, second, test = result.pair.first, result.pair.second, result.mcnemar
        if test:
            sentences.append(
                f"The best run of {first} (seed {champions[first].seed}) and that of {second} "
                f"(seed {champions[second].seed}) on the same test images: {test.only_first:,} "
                f"are classified correctly by the former only, {test.only_second:,} by the latter "
                f"only; McNemar's exact p {p_equals(test.p)}."
            )
    if tested:
        chosen = (
            "on these test images"
            if protocol.selection == "test"
            else "on the validation images that selected its epoch"
        )
        sentences.append(
            f"McNemar's test is about these two models and not about their {report.noun}s. Each "
            f"was chosen as the best of its {report.noun} {chosen}."
        )
        if _has_poses(protocol):
            sentences.append(
                "The test counts one pose of each test image, because several poses of one image "
                "are not independent."
            )
    return sentences


def machine_sentences(report: Report, protocol: Protocol) -> list[str]:
    """Where runs differ in versions, CPU and so on: `These runs come from different CPUs: …`.

    If there are many values, only their number is given. Where the groups do not have the same
    shares of them, a sentence says that this may be part of the difference between the groups. If
    all runs come from one commit with uncommitted changes, a sentence says so.
    """
    runs = [run for group in protocol.groups for run in group.runs]
    sentences = []
    for fact, values in protocol.machines.items():
        if len(values) > MACHINE_VALUES:
            sentence = f"These runs come from {len(values)} different {fact}."
        else:
            shares = [
                f"{value} ({', '.join(f'{count} of {group}' for group, count in groups.items())})"
                for value, groups in sorted(values.items(), key=lambda item: _by_number(item[0]))
            ]
            sentence = f"These runs come from different {fact}: {', '.join(shares)}."
        if _shares_differ(protocol, values):
            sentence += (
                f" The {report.noun}s do not have the same shares of them, so part of the "
                "difference may come from this."
            )
        sentences.append(sentence)
    commits = {run.ran_on["commits"] for run in runs if "commits" in run.ran_on}
    if len(commits) == 1 and commits.copy().pop().endswith(UNCOMMITTED):
        sentences.append(f"These runs come from commit {commits.pop()}.")
    silent = sum(not run.ran_on for run in runs)
    if 0 < silent < len(runs):
        sentences.append(f"What {silent} of these runs ran on is not recorded.")
    return sentences


def _shares_differ(protocol: Protocol, values: dict[str, Counter[str]]) -> bool:
    """Whether some value has another share of the recorded runs in one group than in another."""
    recorded = {
        group.name: sum(groups[group.name] for groups in values.values())
        for group in protocol.groups
    }
    known = {name: count for name, count in recorded.items() if count}
    return any(
        len({Fraction(groups[name], count) for name, count in known.items()}) > 1
        for groups in values.values()
    )


def _by_number(value: str) -> tuple[int, str]:
    """A key that sorts numbers by size, so that 2 threads come before 16."""
    return (int(value), "") if value.isdecimal() else (0, value)


def collapse_sentences(protocol: Protocol) -> list[str]:
    """How many runs of each group have collapsed, in which epoch and why; empty if none has."""
    groups = []
    for group in protocol.groups:
        collapsed = [run for run in group.runs if run.collapsed]
        if collapsed:
            runs = "; ".join(f"seed {run.seed}, {run.collapsed}" for run in collapsed)
            groups.append(f"{len(collapsed)} of {len(group.runs)} runs of {group.name} ({runs})")
    if not groups:
        return []
    return [
        f"{COLLAPSED} Collapsed: {', '.join(groups)}. A run that has collapsed counts like any "
        "other, with the model of its best epoch."
    ]


def shortfalls(report: Report) -> list[str]:
    """Which runs were left out, and what is missing; a sentence each."""
    counts = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    left_out = [f"Left out of {report.title}: {counts}."] if counts else []
    return [*left_out, *(f"Missing: {line}" for line in report.missing)]


def _is_tested(result: PairResult) -> bool:
    return min(result.pair.first_count, result.pair.second_count) > 1
