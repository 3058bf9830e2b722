"""The study: many runs side by side, resumable, nested under one parent run, and their comparison.

    python -m pipeline study --preset params/replication.yaml
    python -m pipeline study --runs 10                            the same study, with five more
    python -m pipeline study --conv_layer conv2d --lr 0.01,0.02   a small grid

A study is known by its parameters. Started again, it keeps the runs that have finished, continues
those that were interrupted from their checkpoints, and repeats those that failed.
"""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.comparison.page import comparison_files
from pipeline.comparison.report import comparison_of
from pipeline.data import mnist
from pipeline.errors import PipelineError
from pipeline.params import model_aliases
from pipeline.study.executor import StartExecutor, Task
from pipeline.study.local_processes import LocalProcesses
from pipeline.study.plan import Study
from pipeline.study.progress import ProgressReporter
from pipeline.study.resume import checkpoint_folder, locked, tasks_of
from pipeline.tracking.experiments import current_experiment
from pipeline.tracking.recorded import RecordedRun, parent_of_study, training_runs
from pipeline.tracking.registry import AliasNews, Candidate, promote, registered_version
from pipeline.tracking.runs import (
    TrackedRun,
    close_run,
    create_nested_run,
    for_note,
    open_run,
    reopen_run,
)
from pipeline.tracking.store import ensure_store, plain_errors
from pipeline.tracking.vocabulary import Artifact, Tag
from pipeline.training.checkpoint import checkpoint_path
from pipeline.training.network import check_network

UPDATE_SECONDS = 2.0  # between two readings of the store for the progress


@dataclass(frozen=True)
class StudySummary:
    """The results of a study: its parent run, the comparison, and where the aliases are."""

    run_id: str
    url: str
    markdown: str
    alias_news: list[AliasNews]


def run_study(study: Study, start_executor: StartExecutor = LocalProcesses) -> StudySummary:
    """Train what is left of a study, compare its runs, and promote the best models.

    Raises:
        PipelineError: on unusable data or store, if the study is running already, or if runs
            failed; the other runs and their comparison are in the store then.
    """
    for params in study.runs:
        if params.seed == study.runs[0].seed:  # one of each kind
            check_network(params)
    ensure_store()
    first = study.runs[0]
    mnist.load_mnist(first.data_dir)  # unpacked once, before the workers read it
    experiment = current_experiment(first.experiment)
    started = parent_of_study(experiment, study.id)
    folder = checkpoint_folder(study, started)
    description = _description(study)
    varied = {name: ",".join(map(str, values)) for name, values in study.varied.items()}
    tags = {
        Tag.STUDY: study.id,
        Tag.CHECKPOINTS: str(folder),
        Tag.HOST: socket.gethostname(),
    }
    opened = (
        reopen_run(started.run_id, description, params=varied, tags=tags)
        if started
        else open_run(
            f"study {study.label}", description, experiment=experiment, params=varied, tags=tags
        )
    )
    with locked(study, folder), opened as parent:
        tasks, finished_runs = tasks_of(study, training_runs(experiment, study.id), experiment)
        _print_counts(tasks, finished_runs)
        _train(
            study,
            parent,
            tasks,
            finished_runs=finished_runs,
            folder=folder,
            start_executor=start_executor,
        )
        return _conclude(study, parent, experiment, tasks)


def _print_counts(tasks: list[Task], finished_runs: list[RecordedRun]) -> None:
    continued = [task for task in tasks if task.run_id]
    counts = {
        "finished before": len(finished_runs),
        "to be continued": len(continued),
        "to be started": len(tasks) - len(continued),
    }
    print("runs: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))


def _train(
    study: Study,
    parent: TrackedRun,
    tasks: list[Task],
    *,
    finished_runs: list[RecordedRun],
    folder: Path,
    start_executor: StartExecutor,
) -> None:
    """Train the tasks to their end; on an interruption, stop them and close their runs."""

    def on_start(task: Task) -> None:
        if task.run_id is None:
            tags = {
                Tag.STUDY: study.id,
                Tag.STUDY_RUN: task.name,
                Tag.PROTOCOL: task.protocol_label,
                Tag.CHECKPOINTS: str(folder),
            }
            task.run_id = create_nested_run(parent, task.name, tags)
            task.checkpoint_file = checkpoint_path(folder, task.run_id)
        task.state = "running"

    def on_end(task: Task, error: str) -> None:
        task.error = error
        task.state = "failed" if error else "finished"
        if error:  # its process may not even have opened the run
            _close(task)

    progress = ProgressReporter(parent, tasks, finished_runs)
    executor = start_executor(tasks, workers=study.params.workers, on_start=on_start, on_end=on_end)
    try:
        while executor.busy():
            time.sleep(UPDATE_SECONDS)
            with _store_errors_printed("the progress could not be read"):
                progress.update()
    finally:
        executor.stop()
        for task in tasks:
            _close(task)
        with _store_errors_printed("the progress could not be stored"):
            progress.close()


def _close(task: Task) -> None:
    """Close the run of a task that has not finished, and remove the checkpoint of one that failed.

    A task that failed is repeated from its beginning.
    """
    with _store_errors_printed(f"the run of {task.name} could not be closed"):
        if task.run_id:
            status = "FAILED" if task.state == "failed" else "KILLED"
            close_run(task.run_id, status, task.error)
        if task.state == "failed" and task.checkpoint_file:
            task.checkpoint_file.unlink(missing_ok=True)


@contextmanager
def _store_errors_printed(what: str) -> Iterator[None]:
    """Print an error of the store instead of raising it: it must not stop the trainings."""
    try:
        with plain_errors():
            yield
    except PipelineError as problem:
        print(f"{what}: {problem}", file=sys.stderr)


def _conclude(study: Study, parent: TrackedRun, experiment: str, tasks: list[Task]) -> StudySummary:
    """Promote the best models, and log the comparison of the runs that have finished.

    Raises:
        PipelineError: if a task has failed.
    """
    asked = {study.name_of(params) for params in study.runs}
    runs = [
        run
        for run in training_runs(experiment, study.id)
        if run.is_finished and run.study_run in asked
    ]
    failed = [f"{task.name} failed: {task.error}" for task in tasks if task.error]
    if not runs:
        raise PipelineError("; ".join(failed))
    news = _promote(runs)
    report = comparison_of(
        runs,
        title=f"Study {study.label}",
        by=study.compared_by,
        margin=study.params.margin,
        missing=failed,
    )
    files = comparison_files(report)
    parent.log_artifacts(files)
    markdown = str(files[Artifact.COMPARISON])
    parent.set_description(_description(study, news, markdown))
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(study.runs)} runs failed; the comparison of the others is "
            f"at {parent.url}; the same command repeats them: {'; '.join(failed)}"
        )
    return StudySummary(parent.run_id, parent.url, markdown, news)


def _description(study: Study, news: list[AliasNews] | None = None, comparison: str = "") -> str:
    """What the page of the parent run shows at the top."""
    kinds = ", ".join(f"{name}: {' / '.join(map(str, v))}" for name, v in study.varied.items())
    lines = [
        f"Study of {len(study.runs)} runs by the protocol *{study.label}*"
        + (f" ({kinds})." if kinds else "."),
        "Its runs are nested below. Started again with the same parameters, it continues.",
    ]
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
