"""Compare the training runs of an experiment or a study, and log the comparison as a run."""

from dataclasses import dataclass

from pipeline.comparison.formats import margin_text
from pipeline.comparison.looks import design_of
from pipeline.comparison.page import comparison_files
from pipeline.comparison.protocols import varied_in
from pipeline.comparison.report import comparison_of, grouped_by
from pipeline.comparison.sequential import Design
from pipeline.errors import PipelineError
from pipeline.params import StudyParams
from pipeline.tracking.experiments import current_experiment
from pipeline.tracking.recorded import RecordedRun, parent_of_study, training_runs
from pipeline.tracking.runs import for_note, open_run
from pipeline.tracking.store import ensure_store
from pipeline.tracking.vocabulary import Artifact

# used unless the user gives another
MARGIN: float = StudyParams.model_fields["margin"].default


@dataclass(frozen=True)
class LoggedComparison:
    """The tables and verdicts as Markdown, the run that holds them, and where all runs are."""

    markdown: str
    run_id: str
    url: str
    all_runs_url: str


def compare_runs(
    experiment: str | None,
    by: str | None = None,
    margin: float = MARGIN,
    study: str | None = None,
) -> LoggedComparison:
    """Compare the finished training runs of an experiment, and log the comparison as a run.

    Args:
        experiment: see `open_run`.
        by: the parameters that tell the groups apart, a comma list; by default `conv_layer`, with
            `study` those that the study itself compares.
        margin: differences up to this one, in percentage points, are treated as negligible.
        study: the id of a study, or its first characters. Its runs are judged by the looks that
            its parent run records. None takes all runs, and judges them as those of a study of
            fixed size; if a study among them has several looks, the comparison says so.

    Raises:
        PipelineError: if there is no such experiment, study or parameter, the margin is out
            of range or is not that of the study's plan, or no training run has finished.
    """
    ensure_store()
    title = current_experiment(experiment)
    runs = training_runs(title)
    design, looks, missing = None, None, None
    if study:
        study, runs = _of_study(runs, study)
        by = grouped_by(varied_in(runs)) if by is None else by
        parent = parent_of_study(title, study)
        if parent:  # not deleted by somebody
            design, looks = _design_of(study, parent, runs, margin), parent.looks
        title = f"{title}, study {study}"
    else:
        by = grouped_by([]) if by is None else by
        missing = _looks_left_out(runs, title)
    report = comparison_of(
        runs, title, by=by, margin=margin, missing=missing, design=design, looks=looks
    )
    params = {"by": by, "margin": report.margin} | ({"study": study} if study else {})
    files = comparison_files(report)
    markdown = str(files[Artifact.COMPARISON])
    with open_run(
        name="compare",
        description=f"Training runs of *{title}*, {report.noun} against {report.noun}; "
        f"`comparison.html` is a page to send around.\n\n{for_note(markdown, Artifact.COMPARISON)}",
        experiment=experiment,
        params=params,
    ) as run:
        run.log_artifacts(files)
    return LoggedComparison(markdown, run.run_id, run.url, run.all_runs_url)


def _design_of(
    study: str, parent: RecordedRun, runs: list[RecordedRun], margin: float
) -> Design | None:
    """The design by which the runs of a study are judged.

    Raises:
        PipelineError: if another margin than the default is asked for, and the study's plan has
            fixed yet another one.
    """
    seeds = {run.seed for run in runs if run.is_finished and run.seed is not None}
    design = design_of(parent, seeds, margin)
    if design and margin not in (MARGIN, design.margin):
        raise PipelineError(
            f"margin: got {margin:g}: the plan of study {study}, which was made before its first "
            f"run, has a margin of {margin_text(design.margin)} pp; leave the margin out"
        )
    return design


def _looks_left_out(runs: list[RecordedRun], experiment: str) -> list[str]:
    """A line for each study among the runs that has several looks."""
    lines = []
    for study in sorted({run.study for run in runs if run.study}):
        parent = parent_of_study(experiment, study)
        try:
            has_looks = parent is not None and (parent.design or len(parent.looks) > 1)
        except PipelineError as problem:
            lines.append(f"the looks at study {study}: {problem}")
            continue
        if has_looks:
            lines.append(
                f"the looks at study {study}, which these verdicts do not allow for; `compare "
                f"--study {study}` judges its runs by them"
            )
    return lines


def _of_study(runs: list[RecordedRun], begin: str) -> tuple[str, list[RecordedRun]]:
    """The only study whose id starts with `begin`, and its runs."""
    studies = sorted({run.study for run in runs if run.study})
    found = [begin] if begin in studies else [s for s in studies if s.startswith(begin)]
    if len(found) != 1:
        problem = f"{len(found)} studies begin so" if found else "there is no such study"
        known = ", ".join(found or studies) or "none"
        raise PipelineError(f"study: got {begin!r}: {problem}; allowed: {known}")
    return found[0], [run for run in runs if run.study == found[0]]
