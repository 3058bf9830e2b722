"""What a study comes to: the comparison of its runs, the best models, and its description."""

from dataclasses import dataclass

from pipeline.comparison.looks import (
    design_of,
    is_decided,
    plan_sentence,
    stop_sentence,
    with_earlier_looks,
)
from pipeline.comparison.page import comparison_files
from pipeline.comparison.report import Report, comparison_of, noun_of
from pipeline.comparison.sentences import any_tested
from pipeline.errors import PipelineError
from pipeline.names import model_aliases
from pipeline.params import RunParams
from pipeline.study.plan import Study
from pipeline.tracking.looks import looks_as_text
from pipeline.tracking.recorded import RecordedRun, recorded_run, training_runs
from pipeline.tracking.registry import AliasNews, Candidate, promote, registered_version
from pipeline.tracking.runs import TrackedRun, for_note
from pipeline.tracking.vocabulary import Artifact, Tag


@dataclass(frozen=True)
class StudySummary:
    """The results of a study.

    run_id, url: of its parent run.
    all_runs_url: the address of the list of all runs.
    markdown: the comparison.
    stopped: at which look the study stopped and why; empty for a study of fixed size.
    alias_news: where the aliases are.
    """

    run_id: str
    url: str
    all_runs_url: str
    markdown: str
    stopped: str
    alias_news: list[AliasNews]


@dataclass(frozen=True)
class RoundResult:
    """What a round has come to: the runs to compare, and their comparison.

    runs: those that have finished.
    report: of these runs.
    failed: a line for each run that has failed.
    asked: how many runs should have finished.
    """

    runs: list[RecordedRun]
    report: Report
    failed: list[str]
    asked: int


def compare(
    study: Study, parent: TrackedRun, experiment: str, *, asked: list[RunParams], failed: list[str]
) -> RoundResult:
    """Compare the runs that have finished.

    Of a study of fixed size, this counts as a look if there is a pair that can be tested. Its seeds
    are those asked for, whether or not all runs have finished: the study is not yet complete then,
    and to complete it is no further look.

    Args:
        asked: the runs that should have finished.
        failed: a line for each that has failed.

    Raises:
        PipelineError: if no run has finished.
    """
    recorded = recorded_run(parent.run_id)
    seeds = with_earlier_looks({params.seed for params in asked}, recorded.looks)
    runs = [
        run for run in training_runs(experiment, study.id) if run.is_finished and run.seed in seeds
    ]
    if not runs:
        raise PipelineError("; ".join(failed))
    report = comparison_of(
        runs,
        title=f"Study {study.label}",
        by=study.compared_by,
        margin=study.params.margin,
        missing=failed,
        design=design_of(recorded, seeds, study.params.margin),
        looks=recorded.looks,
    )
    tested = any(map(any_tested, report.protocols))
    if not study.design and tested and seeds not in recorded.looks:
        parent.set_tags({Tag.LOOKS: looks_as_text([*recorded.looks, seeds])})
    return RoundResult(runs, report, failed, len(asked))


def conclude(study: Study, parent: TrackedRun, result: RoundResult) -> StudySummary:
    """Promote the best models, and log the comparison.

    Raises:
        PipelineError: if a run has failed.
    """
    news = _promote(result.runs)
    files = comparison_files(result.report)
    parent.log_artifacts(files)
    markdown = str(files[Artifact.COMPARISON])
    failed = result.failed
    stopped = "" if failed else _stopped(study, result.report)
    parent.set_description(description(study, news, stopped, markdown))
    if failed:
        raise PipelineError(
            f"{len(failed)} of {result.asked} runs failed; the comparison of the others is "
            f"at {parent.url}; the same command repeats them: {'; '.join(failed)}"
        )
    return StudySummary(parent.run_id, parent.url, parent.all_runs_url, markdown, stopped, news)


def _stopped(study: Study, report: Report) -> str:
    """At which look a study has stopped, and why; empty for a study of fixed size."""
    if study.design is None:
        return ""
    stopped = stop_sentence(report, study.design)
    if is_decided(report):
        return stopped
    unseen = study.runs[-1].seed + 1
    return f"{stopped}; to go on, plan a study with unseen seeds, such as first_seed={unseen}"


def noun_of_groups(study: Study) -> str:
    """What a group of the study is called."""
    return noun_of(tuple(study.compared_by.split(",")))


def description(
    study: Study, news: list[AliasNews] | None = None, stopped: str = "", comparison: str = ""
) -> str:
    """What the page of the parent run shows at the top."""
    kinds = ", ".join(f"{name}: {' / '.join(map(str, v))}" for name, v in study.varied.items())
    most = "at most " if study.design else ""
    lines = [
        f"Study of {most}{len(study.runs)} runs by the protocol *{study.label}*"
        + (f" ({kinds})." if kinds else "."),
        "Its runs are nested below. Started again with the same parameters, it continues.",
    ]
    if study.design:
        lines.append(f"Its plan: {plan_sentence(study.design, noun_of_groups(study))}.")
    if stopped:
        lines.append(f"The study {stopped}.")
    if news:
        lines.append(f"The best models: {'; '.join(item.markdown for item in news)}.")
    return "\n\n".join([*lines, for_note(comparison, Artifact.COMPARISON)])


def _promote(runs: list[RecordedRun]) -> list[AliasNews]:
    """Offer each layer's best model its alias, and the best of all `champion`."""
    best: dict[tuple[str, str], tuple[int, Candidate]] = {}
    for run in runs:
        registered = registered_version(run.run_id)
        if registered is None:  # somebody deleted it
            continue
        for alias in model_aliases(run.params["conv_layer"], run.params.get("dataset", "mnist")):
            place = alias, registered[1].selection_set  # those of different sets are not compared
            if place not in best or registered[1].beats(best[place][1]):
                best[place] = registered
    return [
        item
        for (alias, _), (version, candidate) in sorted(best.items(), key=lambda entry: entry[0])
        for item in promote(version, candidate, [alias])
    ]
