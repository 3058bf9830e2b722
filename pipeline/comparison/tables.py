"""The tables of a comparison, with cells as text."""

from dataclasses import dataclass

from pipeline.comparison.formats import (
    count,
    interval,
    margin_text,
    p_of_many,
    p_value,
    percent,
    signed,
    signed_interval,
)
from pipeline.comparison.groups import Group, RunResult
from pipeline.comparison.report import PairResult, Protocol, Report
from pipeline.comparison.sequential import Design
from pipeline.comparison.statistics import Summary
from pipeline.data.datasets import DATASETS

RUN_COLUMNS = 10  # if a group has more runs, the table shows their number, and no column for each
PAIR_COLUMNS = 3  # if there are more pairs, each gets a row in place of a column

COLLAPSED = "†"  # marks the accuracy of a run that has collapsed


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    header: list[str]
    rows: list[list[str]]


def group_table(report: Report, protocol: Protocol) -> Table:
    """A row for each group and a column for each run, as published, with mean and interval."""
    columns = max(len(group.runs) for group in protocol.groups)
    pose = _pose_column(protocol)
    if columns <= RUN_COLUMNS:
        runs = [f"run #{number}" for number in range(1, columns + 1)]
    else:
        runs = ["runs"]
    rows = []
    for group in protocol.groups:
        if columns <= RUN_COLUMNS:
            cells = [_accuracy(run) for run in group.runs]
            cells += [""] * (columns - len(cells))
        else:
            cells = [str(len(group.runs))]
        rows.append(
            [
                group.name,
                *cells,
                mean_and_deviation(group.accuracy),
                mean_and_deviation(group.f1),
                interval(group.accuracy.low, group.accuracy.high),
                f"{group.accuracy.best:.2f}",
                mean_and_deviation(group.last_accuracy) if group.last_accuracy else "–",
                *([_pose_of_group(protocol, group)] if pose else []),
            ]
        )
    summaries = ["accuracy [%]", "F1 [%]", "95 % CI", "best", "last epoch [%]", *pose]
    return Table([report.noun, *runs, *summaries], rows)


def run_header(report: Report, protocol: Protocol) -> list[str]:
    """The header above a run's name, group, seed and the cells of `run_rows`."""
    numbers = ["accuracy [%]", "F1 [%]", "best epoch", "last epoch [%]"]
    return ["run", report.noun, "seed", *numbers, *_pose_column(protocol)]


def run_rows(protocol: Protocol, group: Group) -> list[tuple[RunResult, list[str]]]:
    """Each run with its cells for accuracy, F1, best epoch, last epoch and pose deviation."""
    pose = _pose_column(protocol)
    return [
        (
            run,
            [
                _accuracy(run),
                percent(run.f1),
                str(run.best_epoch),
                "–" if run.last_accuracy is None else percent(run.last_accuracy),
                *([_pose_of_run(protocol, group, run)] if pose else []),
            ],
        )
        for run in group.runs
    ]


def _accuracy(run: RunResult) -> str:
    return f"{percent(run.accuracy)} {COLLAPSED}" if run.collapsed else percent(run.accuracy)


def _pose_unit(dataset: str) -> tuple[str, int]:
    """The unit of a data set's pose deviation and its decimals in tables."""
    entry = DATASETS.get(dataset)
    if entry is None or entry.pose is None:  # a run of another version, with another table
        return "unknown unit", 2
    return entry.pose.unit, entry.pose.decimals


def _pose_column(protocol: Protocol) -> list[str]:
    """The title of the column of the pose deviation; empty where no group has one."""
    if all(group.pose is None for group in protocol.groups):
        return []
    if "dataset" in protocol.params:
        unit, _ = _pose_unit(protocol.params["dataset"])
        return [f"pose deviation [{unit}]"]
    return ["pose deviation"]  # the unit differs from group to group and stands in the cell


def _pose_of_group(protocol: Protocol, group: Group) -> str:
    if group.pose is None:
        return "–"
    unit, decimals = _unit_in_cell(protocol, group)
    return f"{mean_and_deviation(group.pose, decimals)}{unit}"


def _pose_of_run(protocol: Protocol, group: Group, run: RunResult) -> str:
    if run.pose_deviation is None:
        return "–"
    unit, decimals = _unit_in_cell(protocol, group)
    return f"{run.pose_deviation:.{decimals}f}{unit}"


def _unit_in_cell(protocol: Protocol, group: Group) -> tuple[str, int]:
    """The unit after a group's numbers, empty if the title has it; the numbers' decimals."""
    unit, decimals = _pose_unit((protocol.params | group.params)["dataset"])
    return f" {unit}" if "dataset" in group.params else "", decimals


def has_pose_column(protocol: Protocol) -> bool:
    """Whether the tables of a protocol show the pose deviation."""
    return bool(_pose_column(protocol))


def pair_table(report: Report, protocol: Protocol) -> Table:
    """The statistics of each pair of groups: a column for each pair, or a row if there are many."""
    columns = [_pair_cells(result, report.design) for result in protocol.pairs]
    header = list(columns[0])
    rows = [list(column.values()) for column in columns]
    if len(rows) > PAIR_COLUMNS:
        return Table(header, rows)
    header, *rows = (list(cells) for cells in zip(header, *rows, strict=True))
    return Table(header, rows)


def _pair_cells(result: PairResult, design: Design | None) -> dict[str, str]:
    """The statistics of a pair by title; those of a design stand below those not adjusted."""
    pair = result.pair
    margin = margin_text(pair.margin)
    adjusted = _adjusted_cells(result, design) if design else {}
    return {
        "pair": f"{pair.second} − {pair.first}",
        "difference of means [pp]": signed(pair.difference),
        "95 % CI (Welch)": signed_interval(pair.low, pair.high),
        "Welch's t test, p": p_of_many(pair.welch_p, pair.welch_p_holm, pair.pairs),
        "Mann–Whitney test, p": p_value(pair.mann_whitney_p),
        "Hedges' g": signed(pair.hedges_g),
        "probability of improvement": f"{pair.improvement:.2f}",
        "95 % CI (Wilson)": interval(pair.improvement_low, pair.improvement_high),
        f"equivalence within ±{margin} pp (TOST), p": p_of_many(
            pair.equivalence_p, pair.equivalence_p_holm, pair.pairs
        ),
        "90 % CI (TOST)": signed_interval(pair.equivalence_low, pair.equivalence_high),
        **adjusted,
        "runs of each to detect the difference seen": count(pair.runs_needed_as_seen),
        f"runs of each to detect {margin} pp": count(pair.runs_needed),
        "runs of each to show equivalence": count(pair.runs_needed_equivalence),
    }


def _adjusted_cells(result: PairResult, design: Design) -> dict[str, str]:
    """What a design says of a pair, by title; dashes before its first look."""
    decision, pairs = result.decision, result.pair.pairs
    looks = f"adjusted for {len(design.looks)} looks"
    if decision is None:
        values = ["–"] * 6
    else:
        reached = "undecided" if decision.outcome == "undecided" else "verdict"
        values = [
            f"{decision.look} ({decision.runs} runs of each): {reached}",
            signed(decision.difference),
            signed_interval(decision.low_adjusted, decision.high_adjusted),
            p_of_many(decision.welch_p_adjusted, decision.welch_p_holm, pairs),
            p_of_many(decision.equivalence_p_adjusted, decision.equivalence_p_holm, pairs),
            signed_interval(decision.equivalence_low_adjusted, decision.equivalence_high_adjusted),
        ]
    titles = [
        f"look (of {len(design.looks)})",
        "difference of means at this look [pp]",
        f"95 % CI (Welch), {looks}",
        f"Welch's t test, p {looks}",
        f"equivalence, p {looks}",
        f"90 % CI (TOST), {looks}",
    ]
    return dict(zip(titles, values, strict=True))


def champion_table(protocol: Protocol) -> Table | None:
    """McNemar's test of each pair that has one; None if `champion_sentences` reports them."""
    tested = [result for result in protocol.pairs if result.mcnemar]
    if len(tested) <= PAIR_COLUMNS:
        return None
    seeds = {group.name: f"{group.name} (seed {group.champion.seed})" for group in protocol.groups}
    rows = [
        [
            f"{seeds[result.pair.first]} and {seeds[result.pair.second]}",
            f"{result.mcnemar.only_first:,}",
            f"{result.mcnemar.only_second:,}",
            p_value(result.mcnemar.p),
        ]
        for result in tested
        if result.mcnemar
    ]
    header = ["best runs", "only the former correct", "only the latter correct"]
    return Table([*header, "McNemar's exact p"], rows)


def mean_and_deviation(summary: Summary, digits: int = 2) -> str:
    """`99.05 (0.03)`; one run alone has no deviation, `99.05 (–)`."""
    spread = "–" if summary.deviation is None else f"{summary.deviation:.{digits}f}"
    return f"{summary.mean:.{digits}f} ({spread})"
