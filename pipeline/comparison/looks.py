"""The looks at a study: by which design it is judged, and what a look has shown, in sentences.

The parent run of a study records its plan, or the looks that were taken at a study of fixed size.
The command `study` and a later `compare --study` both ask `design_of`, so the same runs always get
the same verdict.
"""

from pipeline.comparison.formats import enumeration, margin_text
from pipeline.comparison.plausible import described
from pipeline.comparison.report import PairResult, Report
from pipeline.comparison.sequential import Design, looks_taken, unplanned_design
from pipeline.comparison.verdict import short_verdict
from pipeline.errors import PipelineError
from pipeline.params import shortened
from pipeline.tracking.recorded import RecordedRun
from pipeline.tracking.vocabulary import Tag


def with_earlier_looks(seeds: set[int], looks: list[set[int]]) -> set[int]:
    """These seeds, and those of all earlier looks that share a seed with them.

    A comparison takes the runs of earlier looks along. So a study that is started again with fewer
    runs repeats its last comparison, which is no new look.

    >>> with_earlier_looks({0, 1}, [{0, 1, 2}, {100, 101}])
    {0, 1, 2}
    """
    return seeds.union(*(look for look in looks if look & seeds))


def design_of(parent: RecordedRun, seeds: set[int], margin: float) -> Design | None:
    """The design by which the runs of a study are judged.

    Args:
        parent: the study's parent run.
        seeds: of the runs that are compared.
        margin: of a study of fixed size; a plan has its own.

    Returns:
        The plan, if the study was planned with looks. Of a study of fixed size, a design with the
        earlier looks at runs of these seeds and with the present one; None if this is the only one.

    Raises:
        PipelineError: if the parent run's record of the plan or of the looks is damaged.
    """
    try:
        if parent.design:
            return Design.from_json(parent.design)
        seeds = with_earlier_looks(seeds, parent.looks)
        earlier = [len(look) for look in parent.looks if look <= seeds]
        return unplanned_design(earlier, len(seeds), margin)
    except ValueError as error:
        tag = Tag.DESIGN if parent.design else Tag.LOOKS
        raise PipelineError(
            f"the tag {tag} of {described(parent.name, parent.run_id)} is no record of a study: "
            f"{shortened(str(error))}"
        ) from None


def is_decided(report: Report) -> bool:
    """Whether every pair has its verdict by the report's design."""
    return not any(_is_undecided(result) for result in _pairs(report))


def plan_sentence(design: Design, noun: str) -> str:
    """The looks of a design, their levels and the margin.

    Args:
        noun: what a group is called.
    """
    looks = range(len(design.looks))
    difference = enumeration([f"{100 * design.level(look):.2g}" for look in looks])
    equivalence = enumeration([f"{100 * design.equivalence_level(look):.2g}" for look in looks])
    return (
        f"looks at {enumeration(design.looks)} runs of each {noun}, until every pair has its "
        f"verdict; levels {difference} % for a difference, {equivalence} % for equivalence within "
        f"±{margin_text(design.margin)} pp"
    )


def look_sentence(report: Report, design: Design) -> str:
    """Which look has been taken, and the verdict on every pair so far."""
    protocols = []
    for protocol in report.protocols:
        label = f"{protocol.label}: " if len(report.protocols) > 1 else ""
        verdicts = [
            short_verdict(result.pair, result.decision, _taken(report, design))
            for result in protocol.pairs
        ]
        protocols.append(label + "; ".join(verdicts))
    return f"{_look(report, design)}: {'; '.join(protocols)}"


def stop_sentence(report: Report, design: Design) -> str:
    """At which look a study stopped, and why."""
    pairs = _pairs(report)
    undecided = sum(map(_is_undecided, pairs))
    if not undecided:
        reason = "every pair has its verdict"
    else:
        reason = f"no more runs are planned, with {undecided} of {len(pairs)} pairs undecided"
    return f"stopped at {_look(report, design)}: {reason}"


def _look(report: Report, design: Design) -> str:
    taken = _taken(report, design)
    runs = max(design.looks[:taken], default=0)
    return f"look {taken} of {len(design.looks)}, with {runs} runs of each {report.noun}"


def _taken(report: Report, design: Design) -> int:
    groups = {
        f"{protocol.label} {group.name}": group.runs
        for protocol in report.protocols
        for group in protocol.groups
    }
    return looks_taken(design, groups)


def _pairs(report: Report) -> list[PairResult]:
    return [result for protocol in report.protocols for result in protocol.pairs]


def _is_undecided(result: PairResult) -> bool:
    return result.decision is None or result.decision.outcome == "undecided"
