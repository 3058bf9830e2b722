"""A comparison in words and digits: the tables, Markdown, CSV and JSON. Percent has two digits."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.comparison.report import Group, PairResult, Protocol, Report, RunResult
from pipeline.comparison.statistics import Summary, margin_text, signed

RUN_COLUMNS = 10  # more runs of a group than these get no column each
PAIR_COLUMNS = 3  # of more pairs than these, each gets a row, and its verdict a line of a list
MACHINE_VALUES = 4  # of more versions, CPUs or commits than these, only their number is told
NOTE_LENGTH = 7000  # characters; MLflow keeps 8000 of a tag, and more than tables stands there


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    header: list[str]
    rows: list[list[str]]


def group_table(report: Report, protocol: Protocol) -> Table:
    """The published shape, a line per group and a column per run, and how sure the mean is."""
    columns = max(len(group.runs) for group in protocol.groups)
    pose = _pose_column(protocol)
    if columns <= RUN_COLUMNS:
        runs = [f"run #{number}" for number in range(1, columns + 1)]
    else:
        runs = ["runs"]
    rows = []
    for group in protocol.groups:
        if columns <= RUN_COLUMNS:
            cells = [_percent(run.accuracy) for run in group.runs]
            cells += [""] * (columns - len(cells))
        else:
            cells = [str(len(group.runs))]
        rows.append(
            [
                group.name,
                *cells,
                mean_and_deviation(group.accuracy),
                mean_and_deviation(group.f1),
                _interval(group.accuracy.low, group.accuracy.high),
                f"{group.accuracy.best:.2f}",
                mean_and_deviation(group.last_accuracy) if group.last_accuracy else "–",
                *([_pose_of_group(protocol, group)] if pose else []),
            ]
        )
    summaries = ["accuracy [%]", "F1 [%]", "95 % CI", "best", "last epoch [%]", *pose]
    return Table([report.noun, *runs, *summaries], rows)


def run_header(report: Report, protocol: Protocol) -> list[str]:
    """What stands above a run's name, group, seed and the cells of `run_rows`."""
    numbers = ["accuracy [%]", "F1 [%]", "best epoch", "last epoch [%]"]
    return ["run", report.noun, "seed", *numbers, *_pose_column(protocol)]


def run_rows(protocol: Protocol, group: Group) -> list[tuple[RunResult, list[str]]]:
    """Each run with its cells under accuracy, F1, best and last epoch, and pose deviation."""
    pose = _pose_column(protocol)
    return [
        (
            run,
            [
                _percent(run.accuracy),
                _percent(run.f1),
                str(run.best_epoch),
                "–" if run.last_accuracy is None else _percent(run.last_accuracy),
                *([_pose_of_run(protocol, group, run)] if pose else []),
            ],
        )
        for run in group.runs
    ]


# the unit of the pose deviation on each data set where it is known, and its digits
_POSE_UNITS = {
    "rotated": ("°", 1),
    "rts": ("°", 1),
    "translated": ("px", 2),
    "scaled": ("log2 area", 3),
}


def _pose_column(protocol: Protocol) -> list[str]:
    """The title of the column of the pose deviation; empty where no group has one."""
    if all(group.pose is None for group in protocol.groups):
        return []
    if "dataset" in protocol.params:
        unit, _ = _POSE_UNITS[protocol.params["dataset"]]
        return [f"pose deviation [{unit}]"]
    return ["pose deviation"]  # in another unit for each group, which stands in the cell


def _pose_of_group(protocol: Protocol, group: Group) -> str:
    if group.pose is None:
        return "–"
    unit, digits = _pose_unit(protocol, group)
    return f"{mean_and_deviation(group.pose, digits)}{unit}"


def _pose_of_run(protocol: Protocol, group: Group, run: RunResult) -> str:
    if run.pose_deviation is None:
        return "–"
    unit, digits = _pose_unit(protocol, group)
    return f"{run.pose_deviation:.{digits}f}{unit}"


def _pose_unit(protocol: Protocol, group: Group) -> tuple[str, int]:
    """What to write after a group's numbers, nothing if it stands in the title; their digits."""
    unit, digits = _POSE_UNITS[(protocol.params | group.params)["dataset"]]
    return f" {unit}" if "dataset" in group.params else "", digits


def pair_table(report: Report, protocol: Protocol) -> Table:
    """The statistics of each pair of groups: a column per pair, of many pairs a row per pair."""
    margin = margin_text(report.margin)
    header = [
        "pair",
        "difference of means [pp]",
        "95 % CI (Welch)",
        "Welch's t test, p",
        "Mann–Whitney test, p",
        "Hedges' g",
        "probability of improvement",
        "95 % CI (bootstrap)",
        f"equivalence within ±{margin} pp (TOST), p",
        "90 % CI (TOST)",
        f"runs of each to detect {margin} pp",
        "runs of each to show equivalence",
    ]
    rows = [
        [
            f"{pair.second} − {pair.first}",
            signed(pair.difference),
            _signed_interval(pair.low, pair.high),
            _p_of_many(pair.welch_p, pair.welch_p_holm, pair.pairs),
            _p(pair.mann_whitney_p),
            signed(pair.hedges_g),
            f"{pair.improvement:.2f}",
            _interval(pair.improvement_low, pair.improvement_high),
            _p_of_many(pair.equivalence_p, pair.equivalence_p_holm, pair.pairs),
            _signed_interval(pair.equivalence_low, pair.equivalence_high),
            _count(pair.runs_needed),
            _count(pair.runs_needed_equivalence),
        ]
        for pair in (result.pair for result in protocol.pairs)
    ]
    if len(rows) > PAIR_COLUMNS:
        return Table(header, rows)
    header, *rows = (list(cells) for cells in zip(header, *rows, strict=True))
    return Table(header, rows)


def group_note(protocols: list[Protocol]) -> str:
    """What the columns of the groups' tables of these protocols are."""
    note = (
        "Accuracy and macro F1 on the test set: mean (sample standard deviation). 95 % CI: "
        "t interval of the mean accuracy, cut at 0 and 100. Best: the run with the highest "
        "accuracy. Last epoch: test accuracy after the last epoch, which no selection touches."
    )
    if any(_has_poses(protocol) for protocol in protocols):
        note += (
            " It is measured on one pose of each test image, the accuracy on all that the data "
            "set has."
        )
    if any(_pose_column(protocol) for protocol in protocols):
        note += (
            " Pose deviation: how much the pose of a digit still varies after the transformer; 0 "
            "where every image of a digit comes to the same pose."
        )
    return note


def _has_poses(protocol: Protocol) -> bool:
    """Whether the test set may show an image more than once."""
    return protocol.params.get("dataset") != "mnist"


def pair_note(protocol: Protocol) -> str:
    """How to read the pairs' table."""
    note = (
        "The p of the t test and of the Mann–Whitney test is that of no difference; the p of the "
        "equivalence test is that of a difference of the margin or more. The probability of "
        "improvement is the chance that a run of the first-named beats one of the other. The "
        "numbers of runs are for power 0.8 at 5 % over all pairs."
    )
    pairs = max((result.pair.pairs for result in protocol.pairs), default=0)
    if pairs > 1:
        note += f" In brackets: p by Holm's correction for {pairs} pairs; the verdict goes by it."
    return note


def any_tested(protocol: Protocol) -> bool:
    """Whether some pair has two runs of each group, without which there are no statistics."""
    return any(_tested(result) for result in protocol.pairs)


def verdicts(report: Report, protocol: Protocol) -> list[str]:
    """What the runs show, without full stops: of each pair, or that there is none.

    Where the pairs are many, one sentence stands for all that have too few runs.
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
    shown = [result.verdict for result in protocol.pairs if _tested(result)]
    return [*shown, words] if single else shown


def champion_table(protocol: Protocol) -> Table | None:
    """McNemar's test of each pair that has one, if these are many."""
    tested = [result for result in protocol.pairs if result.mcnemar]
    if len(tested) <= PAIR_COLUMNS:
        return None
    seeds = {group.name: f"{group.name} (seed {group.champion.seed})" for group in protocol.groups}
    rows = [
        [
            f"{seeds[result.pair.first]} and {seeds[result.pair.second]}",
            f"{result.mcnemar.only_first:,}",
            f"{result.mcnemar.only_second:,}",
            _p(result.mcnemar.p),
        ]
        for result in tested
        if result.mcnemar
    ]
    header = ["best runs", "only the former correct", "only the latter correct"]
    return Table([*header, "McNemar's exact p"], rows)


def champion_sentences(report: Report, protocol: Protocol) -> list[str]:
    """McNemar's test of each pair that has one, unless these fill a table, and what it is about."""
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
                f"only; McNemar's exact p {_equals(test.p)}."
            )
    if tested:
        sentences.append(
            f"McNemar's test is about these very models and not about their {report.noun}s; and "
            f"each was picked as the best of its {report.noun} on the same images."
        )
        if _has_poses(protocol):
            sentences.append(
                "It counts one pose of each test image: several of one image are no samples of "
                "their own."
            )
    return sentences


def machine_sentences(protocol: Protocol) -> list[str]:
    """What the runs differ in of what they ran on: `These runs come from different CPUs: …`.

    Of many values, their number stands for them.
    """
    sentences = []
    for fact, values in protocol.machines.items():
        if len(values) > MACHINE_VALUES:
            sentences.append(f"These runs come from {len(values)} different {fact}.")
            continue
        shares = [
            f"{value} ({', '.join(f'{count} of {group}' for group, count in groups.items())})"
            for value, groups in sorted(values.items(), key=lambda item: _by_number(item[0]))
        ]
        sentences.append(f"These runs come from different {fact}: {', '.join(shares)}.")
    silent = sum(not run.ran_on for group in protocol.groups for run in group.runs)
    if 0 < silent < sum(len(group.runs) for group in protocol.groups):
        sentences.append(f"What {silent} of these runs ran on is not recorded.")
    return sentences


def _by_number(value: str) -> tuple[int, str]:
    """A key that sorts numbers by size, so that 2 threads come before 16."""
    return (int(value), "") if value.isdecimal() else (0, value)


def shortfalls(report: Report) -> list[str]:
    """What was left out and what is missing, a sentence each."""
    counts = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    left_out = [f"Left out of {report.title}: {counts}."] if counts else []
    return [*left_out, *(f"Missing: {line}" for line in report.missing)]


def as_markdown(report: Report) -> str:
    """The tables, the statistics and the verdict of each protocol."""
    blocks = []
    for protocol in report.protocols:
        blocks += [f"**{protocol.label}**, {protocol.caption}"]
        blocks += [_markdown_table(group_table(report, protocol))]
        if any_tested(protocol):
            blocks += [_markdown_table(pair_table(report, protocol)), pair_note(protocol)]
        sentences = verdicts(report, protocol)
        if len(sentences) > PAIR_COLUMNS:
            blocks += ["**Verdicts:**", "\n".join(f"- {sentence}" for sentence in sentences)]
        else:
            blocks += [f"**Verdict: {sentence}.**" for sentence in sentences]
        champions = champion_table(protocol)
        blocks += [_markdown_table(champions)] if champions else []
        blocks += champion_sentences(report, protocol)
        blocks += machine_sentences(protocol)
    blocks += [group_note(report.protocols)]
    blocks += shortfalls(report)
    return "\n\n".join(blocks) + "\n"


def for_note(markdown: str) -> str:
    """As much of it as fits into the note on top of a run's page, which MLflow cuts anywhere."""
    if len(markdown) <= NOTE_LENGTH:
        return markdown
    return markdown[:NOTE_LENGTH].rsplit("\n\n", 1)[0] + "\n\nThe rest is in `comparison.md`."


def as_csv(report: Report) -> str:
    """One line per run; fractions, not percent."""
    text = io.StringIO()
    names = [field.name for field in fields(RunResult) if field.name not in ("curves", "ran_on")]
    writer = csv.DictWriter(text, ["protocol", "selection", "run", *names], lineterminator="\n")
    writer.writeheader()
    for protocol in report.protocols:
        for group in protocol.groups:
            for number, run in enumerate(group.runs, start=1):
                writer.writerow(
                    {
                        "protocol": protocol.label,
                        "selection": protocol.selection,
                        "run": number,
                        **{name: getattr(run, name) for name in names},
                    }
                )
    return text.getvalue()


def as_json(report: Report) -> dict[str, Any]:
    """All but the learning curves and arrays, which the runs hold themselves.

    A run's numbers are fractions; summaries and pairs are in percent and percentage points.
    """
    content = asdict(report)
    for protocol in content["protocols"]:
        for group in protocol["groups"]:
            del group["confusion"], group["poses"]
            for run in [*group["runs"], group["champion"]]:
                del run["curves"]
    return content


def mean_and_deviation(summary: Summary, digits: int = 2) -> str:
    """`99.05 (0.03)`; one run alone has no deviation, `99.05 (–)`."""
    spread = "–" if summary.deviation is None else f"{summary.deviation:.{digits}f}"
    return f"{summary.mean:.{digits}f} ({spread})"


def _tested(result: PairResult) -> bool:
    return min(result.pair.first_count, result.pair.second_count) > 1


def _markdown_table(table: Table) -> str:
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _percent(fraction: float) -> str:
    # as summaries are: 100 times 0.78195 is a little more than 78.195, and would be rounded up
    return f"{round(100 * fraction, 9):.2f}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _signed_interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _p(p: float | None) -> str:
    """Two significant digits."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:#.2g}"


def _p_of_many(p: float | None, adjusted: float | None, pairs: int) -> str:
    return f"{_p(p)} ({_p(adjusted)})" if pairs > 1 and p is not None else _p(p)


def _count(runs: int | None) -> str:
    return "–" if runs is None else f"{runs:,}"


def _equals(p: float) -> str:
    return _p(p) if p < 0.001 else f"= {_p(p)}"
