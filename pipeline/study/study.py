"""The study: many runs side by side, resumable, nested under one parent run, and their comparison.

    python -m pipeline study --preset params/replication.yaml
    python -m pipeline study --runs 10                            the same study, with five more
    python -m pipeline study --conv_layer conv2d --lr 0.01,0.02   a small grid
    python -m pipeline study --until decided                      until each pair has its verdict

A study is known by its parameters. Started again, it keeps the runs that have finished, continues
those that were interrupted from their checkpoints, and repeats those that failed.

A study of fixed size trains all its runs and compares them. A study with a design trains in rounds,
up to the runs of the next look, and stops at the look at which each pair has its verdict.
"""

import socket
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from pipeline.comparison.looks import is_decided, look_sentence, plan_sentence
from pipeline.data import mnist
from pipeline.errors import PipelineError
from pipeline.params import RunParams, StudyParams
from pipeline.study.conclusion import (
    RoundResult,
    StudySummary,
    compare,
    conclude,
    description,
    noun_of_groups,
)
from pipeline.study.executor import Interruption, StartExecutor, Task
from pipeline.study.local_processes import LocalProcesses
from pipeline.study.plan import Study
from pipeline.study.progress import ProgressReporter
from pipeline.study.ray_tasks import RayTasks, check_installed
from pipeline.study.resume import checkpoint_folder, locked, tasks_of
from pipeline.tracking.experiments import current_experiment
from pipeline.tracking.lease import lease
from pipeline.tracking.patience import StoreAway, without_waiting
from pipeline.tracking.recorded import RecordedRun, parent_of_study, training_runs
from pipeline.tracking.runs import (
    TrackedRun,
    close_run,
    create_nested_run,
    open_run,
    reopen_run,
)
from pipeline.tracking.shared_checkpoints import remove_shared
from pipeline.tracking.store import ensure_store, errors_printed, is_on_this_machine
from pipeline.tracking.vocabulary import IN_ARTIFACTS, Tag
from pipeline.training.checkpoint import checkpoint_path
from pipeline.training.network import check_network

UPDATE_SECONDS = 2.0  # between two readings of the store for the progress


def run_study(study: Study, start_executor: StartExecutor | None = None) -> StudySummary:
    """Train what is left of a study, compare its runs, and promote the best models.

    Args:
        start_executor: None for the one that the study's parameters name.

    Raises:
        PipelineError: on unusable data or store, if the study is running already, or if runs
            failed; the other runs and their comparison are in the store then.
    """
    start_executor = start_executor or _executor_of(study.params)
    for params in study.runs:
        if params.seed == study.runs[0].seed:  # one of each kind
            check_network(params)
    ensure_store()
    first = study.runs[0]
    mnist.load_mnist(first.data_dir)  # unpacked once, before the workers read it
    experiment = current_experiment(first.experiment)
    with ExitStack() as stack:
        started = parent_of_study(experiment, study.id)
        leased = started is not None and not is_on_this_machine()
        if started is not None and leased:
            stack.enter_context(lease(started.run_id))
        folder = checkpoint_folder(study, started, leased)
        stack.enter_context(locked(study, folder))
        on_this_machine = study.params.executor == "local"
        checkpoints = folder if on_this_machine else None
        parent = stack.enter_context(_opened(study, started, experiment, checkpoints))
        if not leased and not is_on_this_machine():
            stack.enter_context(lease(parent.run_id))
            _check_alone(study, parent, experiment)
        if study.design:
            print(f"plan: {plan_sentence(study.design, noun_of_groups(study))}")
        result = _train_in_rounds(
            study, parent, experiment=experiment, folder=checkpoints, start_executor=start_executor
        )
        return conclude(study, parent, result)


def _opened(
    study: Study, started: RecordedRun | None, experiment: str, checkpoints: Path | None
) -> AbstractContextManager[TrackedRun]:
    """The parent run, open: a new one, or the one of an earlier start."""
    note, store_patience = description(study), study.runs[0].store_patience
    varied = {name: ",".join(map(str, values)) for name, values in study.varied.items()}
    tags = {
        Tag.STUDY: study.id,
        Tag.CHECKPOINTS: str(checkpoints or IN_ARTIFACTS),
        Tag.HOST: socket.gethostname(),
    }
    if study.design:
        tags[Tag.DESIGN] = study.design.to_json()
    if started:
        return reopen_run(
            started.run_id, note, params=varied, tags=tags, store_patience=store_patience
        )
    return open_run(
        f"study {study.label}",
        note,
        experiment=experiment,
        params=varied,
        tags=tags,
        store_patience=store_patience,
    )


def _check_alone(study: Study, parent: TrackedRun, experiment: str) -> None:
    """Raises PipelineError if another machine has started the same new study a moment before."""
    oldest = parent_of_study(experiment, study.id)
    if oldest is not None and oldest.run_id != parent.run_id:
        raise PipelineError(f"this study was started elsewhere at the same moment: {oldest.url}")


def _executor_of(params: StudyParams) -> StartExecutor:
    """What starts the executor that the parameters name.

    Raises:
        PipelineError: if it is not installed.
    """
    if params.executor == "local":
        return LocalProcesses
    check_installed()
    return partial(
        RayTasks,
        address=params.ray_address or "",
        cpus_per_run=params.cpus_per_run,
        gpus_per_run=params.gpus_per_run,
    )


def _train_in_rounds(
    study: Study,
    parent: TrackedRun,
    *,
    experiment: str,
    folder: Path | None,
    start_executor: StartExecutor,
) -> RoundResult:
    """Train to the next look until each pair has its verdict, a run has failed, or all are trained.

    A study of fixed size has one round. If a run has failed, the look is not taken: the study ends,
    and takes the look when it is started again and has repeated the run.
    """
    for runs in _rounds_left(study, training_runs(experiment, study.id)):
        recorded = training_runs(experiment, study.id)
        tasks, finished = tasks_of(
            study, runs, recorded=recorded, experiment=experiment, folder=folder
        )
        _print_counts(tasks, finished)
        _train(
            study,
            parent,
            tasks,
            finished_runs=finished,
            folder=folder,
            start_executor=start_executor,
        )
        failed = [f"{task.name} failed: {task.error}" for task in tasks if task.error]
        result = compare(study, parent, experiment, asked=runs, failed=failed)
        if study.design and not failed:
            print(look_sentence(result.report, study.design))
        if failed or is_decided(result.report):
            break
    return result


def _rounds_left(study: Study, recorded: list[RecordedRun]) -> list[list[RunParams]]:
    """The rounds without those before the last one that is complete.

    Of the complete rounds, the last one is enough, because a look repeats all earlier verdicts.
    """
    finished = {run.study_run for run in recorded if run.is_finished}
    complete = sum(
        all(study.name_of(params) in finished for params in runs) for runs in study.rounds
    )
    return study.rounds[max(complete - 1, 0) :]


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
    folder: Path | None,
    start_executor: StartExecutor,
) -> None:
    """Train the tasks to their end; on an interruption, stop them and close their runs."""

    def on_start(task: Task) -> None:
        if task.run_id is None:
            tags = {
                Tag.STUDY: study.id,
                Tag.STUDY_RUN: task.name,
                Tag.PROTOCOL: task.protocol_label,
                Tag.CHECKPOINTS: str(folder or IN_ARTIFACTS),
            }
            task.run_id = create_nested_run(parent, task.name, tags)
            task.checkpoint_file = checkpoint_path(folder, task.run_id) if folder else None
        task.state = "running"

    def on_end(task: Task, error: str) -> None:
        task.error = error
        task.state = "failed" if error else "finished"
        if error:  # its process may not even have opened the run
            _close(task)

    progress = ProgressReporter(parent, tasks, finished_runs)
    executor = start_executor(tasks, workers=study.params.workers, on_start=on_start, on_end=on_end)
    try:
        while executor.busy() and not any(map(_is_interrupted, tasks)):
            time.sleep(UPDATE_SECONDS)
            with errors_printed("the progress could not be read"), without_waiting():
                progress.update()
    finally:
        executor.stop()
        for task in tasks:
            if task.state in ("running", "failed"):
                _close(task)
        with errors_printed("the progress could not be stored"), without_waiting():
            progress.close()
    for task in filter(_is_interrupted, tasks):
        raise StoreAway(f"{task.error}; the same command goes on from the checkpoints")


def _is_interrupted(task: Task) -> bool:
    return isinstance(task.error, Interruption)


def _close(task: Task) -> None:
    """Close the run of a task that has not finished, and remove the checkpoint of one that failed.

    A task that failed is repeated from its beginning.
    """
    failed = task.state == "failed" and not _is_interrupted(task)
    with errors_printed(f"the run of {task.name} could not be closed"):
        if task.run_id:
            close_run(task.run_id, "FAILED" if failed else "KILLED", task.error)
        if failed and task.checkpoint_file:
            task.checkpoint_file.unlink(missing_ok=True)
        elif failed and task.run_id:
            remove_shared(task.run_id)
