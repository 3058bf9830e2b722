"""The study: many runs side by side, resumable, nested under one parent run, and then the verdict.

    python -m pipeline study --preset params/replication.yaml
    python -m pipeline study --runs 10                            the same study, with five more
    python -m pipeline study --conv_layer conv2d --lr 0.01,0.02   a small grid

A study is known by its parameters. Started again, it keeps the runs that have finished, continues
those that were interrupted from their checkpoints, and repeats those that failed.
"""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.comparison.files import for_note
from pipeline.comparison.page import comparison_files
from pipeline.comparison.report import comparison_of
from pipeline.data import mnist
from pipeline.errors import PipelineError
from pipeline.params import RunParams, Study, kind_of, model_aliases, protocol_label
from pipeline.study.progress import Progress
from pipeline.study.workers import Task, Workers
from pipeline.tracking.experiments import current_experiment
from pipeline.tracking.recorded import RecordedRun, parent_of_study, training_runs
from pipeline.tracking.registry import AliasNews, Candidate, promote, registered_version
from pipeline.tracking.runs import TrackedRun, close_run, create_nested_run, open_run
from pipeline.tracking.store import check_store, local_folder, plain_errors
from pipeline.tracking.vocabulary import Artifact, Tag
from pipeline.training.run import check_network

CHECKPOINTS = "checkpoints"  # of unfinished runs, by run id; a finished run needs none
LOOK_SECONDS = 2.0  # between two looks at the store for progress


@dataclass(frozen=True)
class StudySummary:
    """What a study came to: its parent run, the comparison, and where the aliases are."""

    run_id: str
    url: str
    markdown: str
    alias_news: list[AliasNews]


def run_study(study: Study) -> StudySummary:
    """Run what is missing of a study, compare its runs, and promote the best models.

    Raises:
        PipelineError: on unusable data or store, if the study is running already, or if runs
            failed; the other runs and their comparison are in the store then.
    """
    for params in study.runs:
        if params.seed == study.runs[0].seed:  # one of each kind
            check_network(params)
    check_store()
    first = study.runs[0]
    mnist.load_mnist(first.data_dir)  # unpacked once, before the workers read it
    experiment = current_experiment(first.experiment)
    started = parent_of_study(experiment, study.id)
    folder = _folder(study, started)
    with (
        _lock(_lock_file(study, folder)),
        open_run(
            name=f"study {study.label}",
            description=_description(study),
            experiment=experiment,
            params={name: ",".join(map(str, values)) for name, values in study.varied.items()},
            tags={
                Tag.STUDY: study.id,
                Tag.CHECKPOINTS: str(folder),
                Tag.HOST: socket.gethostname(),
            },
            run_id=started.run_id if started else None,
        ) as parent,
    ):
        tasks, kept = _plan(study, training_runs(experiment, study.id))
        _report_plan(tasks, kept)
        _train(study, parent, experiment, folder, tasks, kept)

        asked = {_name(study, params) for params in study.runs}
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
            by=_compared_by(study),
            margin=study.params.margin,
            missing=failed,
        )
        files = comparison_files(report)
        parent.log_artifacts(files)
        parent.set_description(_description(study, news, str(files[Artifact.COMPARISON])))
        if failed:
            raise PipelineError(
                f"{len(failed)} of {len(study.runs)} runs failed; the comparison of the others is "
                f"at {parent.url}; the same command repeats them: {'; '.join(failed)}"
            )
    return StudySummary(parent.run_id, parent.url, str(files[Artifact.COMPARISON]), news)


def _compared_by(study: Study) -> str:
    """Architecture and layer where they vary, else what does; runs of one kind by their layer."""
    names = [name for name in ("architecture", "conv_layer") if name in study.varied]
    return ",".join(names or study.varied or ["conv_layer"])


def _folder(study: Study, started: RecordedRun | None) -> Path:
    """Where the checkpoints of a study are: beside the store, or where it was started before.

    Raises:
        PipelineError: if it is running, or was killed, on another machine.
    """
    here = local_folder() / CHECKPOINTS
    if started is None:
        return here
    host = started.host
    folder = started.checkpoint_folder or here
    # a container has another name each time; its folder tells that it is the same
    if host == socket.gethostname() or _lock_file(study, folder).exists():
        return folder
    if started.status == "RUNNING":
        raise PipelineError(
            f"this study (run {started.run_id}) was started on {host}, with its checkpoints in "
            f"{folder}; continue it there, or stop it there first"
        )
    return here


def _lock_file(study: Study, folder: Path) -> Path:
    return folder / f"{study.id}.lock"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time work on a study; the lock goes with the process, however it ends.

    Raises:
        PipelineError: if another one does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineError(
                f"this study is running already, in the process {path.read_text()}; "
                "wait for it, or stop it and start again to continue"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _name(study: Study, params: RunParams) -> str:
    """What a run is called, in its study unique: `coordconv2d seed=3`."""
    values = {name: getattr(params, name) for name in ("conv_layer", *study.varied)}
    return f"{kind_of(values)} seed={params.seed}"


def _plan(study: Study, recorded: list[RecordedRun]) -> tuple[list[Task], list[RecordedRun]]:
    """What is left to train, and the runs that have finished; runs left behind are closed."""
    tasks, kept = [], []
    for params in study.runs:
        name = _name(study, params)
        own = [run for run in recorded if run.study_run == name]
        finished = [run for run in own if run.is_finished]
        if finished:
            kept.append(finished[-1])
            _checkpoint(finished[-1]).unlink(missing_ok=True)  # left by a kill just before that
            continue
        task = Task(name, params, protocol_label(params))
        if own and _can_continue(own[-1]):
            task.run_id = own[-1].run_id
            task.checkpoint = _checkpoint(own[-1])
        tasks.append(task)
    continued = {task.run_id for task in tasks}
    for run in recorded:
        if run.run_id not in continued:
            close_run(run.run_id, "KILLED")
    return tasks, kept


def _can_continue(run: RecordedRun) -> bool:
    """Whether a run was interrupted, and nothing of it is lost but an epoch begun."""
    if run.status == "FAILED":
        return False
    return _checkpoint(run).exists() or not run.has_epochs


def _checkpoint(run: RecordedRun) -> Path:
    return Path(run.tags[Tag.CHECKPOINTS]) / f"{run.run_id}.pt"


def _report_plan(tasks: list[Task], kept: list[RecordedRun]) -> None:
    continued = [task for task in tasks if task.run_id]
    counts = {
        "finished before": len(kept),
        "to be continued": len(continued),
        "to be started": len(tasks) - len(continued),
    }
    print("runs: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))


def _train(
    study: Study,
    parent: TrackedRun,
    experiment: str,
    folder: Path,
    tasks: list[Task],
    kept: list[RecordedRun],
) -> None:
    """Train the tasks to their end; on an interruption, stop them and close their runs."""

    def prepare(task: Task) -> None:
        threads = task.params.threads or 1
        task.params = task.params.model_copy(update={"threads": threads, "experiment": experiment})
        if task.run_id is None:
            tags = {
                Tag.STUDY: study.id,
                Tag.STUDY_RUN: task.name,
                Tag.PROTOCOL: task.protocol,
                Tag.CHECKPOINTS: str(folder),
            }
            task.run_id = create_nested_run(parent, task.name, tags)
            task.checkpoint = folder / f"{task.run_id}.pt"

    def ended(task: Task) -> None:
        if task.state == "failed":  # its process may not even have opened the run
            with _said(f"the run of {task.name} could not be closed"):
                _close(task)

    progress = Progress(parent, tasks, kept)
    workers = Workers(tasks, study.params.workers, prepare, ended)
    try:
        while workers.busy():
            time.sleep(LOOK_SECONDS)
            with _said("the progress could not be read"):
                progress.look()
    finally:
        workers.stop()
        for task in tasks:
            with _said(f"the run of {task.name} could not be closed"):
                _close(task)
        with _said("the progress could not be kept"):
            progress.close()


def _close(task: Task) -> None:
    """Leave nothing of a task that did not come to its end."""
    if task.run_id:
        close_run(task.run_id, "FAILED" if task.state == "failed" else "KILLED", task.error)
    if task.state == "failed" and task.checkpoint:
        task.checkpoint.unlink(missing_ok=True)  # it is repeated from its start


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Say what went wrong with the store and go on: the trainings are worth more than the news."""
    try:
        with plain_errors():
            yield
    except PipelineError as problem:
        print(f"{what}: {problem}", file=sys.stderr)


def _description(study: Study, news: list[AliasNews] | None = None, comparison: str = "") -> str:
    """What the page of the parent run shows on top."""
    kinds = ", ".join(f"{name}: {' / '.join(map(str, v))}" for name, v in study.varied.items())
    lines = [
        f"Study of {len(study.runs)} runs by the protocol *{study.label}*"
        + (f" ({kinds})." if kinds else "."),
        "Its runs are nested below. Started again with the same parameters, it continues.",
    ]
    if news:
        lines.append(f"The best models: {'; '.join(item.markdown for item in news)}.")
    return "\n\n".join([*lines, for_note(comparison)])


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
        line
        for (alias, _), (version, candidate) in sorted(best.items(), key=lambda item: item[0])
        for line in promote(version, candidate, [alias])
    ]
