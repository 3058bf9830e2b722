"""A report as Markdown, as CSV and as JSON."""

import csv
import io
from dataclasses import asdict, fields
from typing import Any

from pipeline.comparison.groups import RunResult
from pipeline.comparison.report import Report
from pipeline.comparison.sentences import (
    any_tested,
    champion_sentences,
    collapse_sentences,
    design_sentences,
    group_note,
    machine_sentences,
    pair_note,
    shortfalls,
    verdict_sentences,
)
from pipeline.comparison.tables import (
    PAIR_COLUMNS,
    Table,
    champion_table,
    group_table,
    pair_table,
)


def as_markdown(report: Report) -> str:
    """The tables, statistics and verdicts of each protocol."""
    blocks = []
    for protocol in report.protocols:
        blocks += [f"**{protocol.label}**, {protocol.caption}"]
        blocks += [markdown_table(group_table(report, protocol))]
        blocks += collapse_sentences(protocol)
        if any_tested(protocol):
            blocks += [markdown_table(pair_table(report, protocol)), pair_note(report, protocol)]
            blocks += design_sentences(report, protocol)
        sentences = verdict_sentences(report, protocol)
        if len(sentences) > PAIR_COLUMNS:
            blocks += ["**Verdicts:**", "\n".join(f"- {sentence}" for sentence in sentences)]
        else:
            blocks += [f"**Verdict: {sentence}.**" for sentence in sentences]
        champions = champion_table(protocol)
        blocks += [markdown_table(champions)] if champions else []
        blocks += champion_sentences(report, protocol)
        blocks += machine_sentences(report, protocol)
    blocks += [group_note(report.protocols)]
    blocks += shortfalls(report)
    return "\n\n".join(blocks) + "\n"


def as_csv(report: Report) -> str:
    """A line for each run; accuracies and F1 as fractions."""
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
    """The whole report without learning curves and arrays, which are stored with the runs.

    The accuracies of a run are fractions; summaries are in percent, pairs in percentage points.
    """
    content = asdict(report)
    for protocol in content["protocols"]:
        for group in protocol["groups"]:
            del group["confusion"], group["poses"], group["correct"]
            del group["missing"]  # the report has them all
            for run in [*group["runs"], group["champion"]]:
                del run["curves"]
    return content


def markdown_table(table: Table) -> str:
    """A table as Markdown."""
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
