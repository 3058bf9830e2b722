"""How a study is continued: one process at a time, its checkpoints, and what is left to train."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.names import protocol_label
from pipeline.params import RunParams
from pipeline.study.executor import Task
from pipeline.study.plan import Study
from pipeline.tracking.recorded import RecordedRun
from pipeline.tracking.runs import close_run
from pipeline.tracking.shared_checkpoints import (
    has_shared,
    move_into_artifacts,
    move_out_of_artifacts,
)
from pipeline.tracking.store import local_folder
from pipeline.tracking.vocabulary import Tag
from pipeline.training.checkpoint import CHECKPOINTS, checkpoint_path, set_aside_if_damaged


def checkpoint_folder(study: Study, started: RecordedRun | None, leased: bool = False) -> Path:
    """The folder of a study's checkpoints: beside the store, or where the study was started.

    Args:
        started: the study's parent run, if the study was started before.
        leased: whether this process holds the lease of that run, so that nobody works on it.

    Raises:
        PipelineError: if the study is running, or was killed, on another machine.
    """
    here = local_folder() / CHECKPOINTS
    if started is None or started.checkpoint_folder is None:
        return here
    folder = started.checkpoint_folder
    # a container has another name each time; its folder tells that it is the same
    if started.host == socket.gethostname() or _lock_file(study, folder).exists():
        return folder
    if started.status == "RUNNING" and not leased:
        raise PipelineError(
            f"this study (run {started.run_id}) was started on {started.host}, with its "
            f"checkpoints in {folder}; continue it there, or stop it there first"
        )
    return here


@contextmanager
def locked(study: Study, folder: Path) -> Iterator[None]:
    """Let one process at a time work on a study; the lock ends with the process, however it ends.

    Raises:
        PipelineError: if another process works on the study.
    """
    path = _lock_file(study, folder)
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


def _lock_file(study: Study, folder: Path) -> Path:
    return folder / f"{study.id}.lock"


def tasks_of(
    study: Study,
    runs: list[RunParams],
    *,
    recorded: list[RecordedRun],
    experiment: str,
    folder: Path | None,
) -> tuple[list[Task], list[RecordedRun]]:
    """What is left to train of these runs of a study, and those of them that have finished.

    Runs that are neither continued nor finished are closed as KILLED, and the checkpoints of
    finished runs are removed. A damaged checkpoint is set aside, and its run is trained anew.

    Args:
        runs: all runs of the study, or those of the present round.
        recorded: the study's runs in the store, oldest first.
        experiment: the name of the experiment that they are in.
        folder: where the executor keeps checkpoints; None for the runs' artifacts. A checkpoint is
            moved from the artifacts to the folder, or the other way round. A run whose checkpoint
            is in a folder of another machine is trained anew.
    """
    tasks, finished_runs = [], []
    # A run that was logged by hand may carry copies of the study's other tags.
    own = [run for run in recorded if Tag.CHECKPOINTS in run.tags]
    for params in runs:
        name = study.name_of(params)
        attempts = [run for run in own if run.study_run == name]
        finished = [run for run in attempts if run.is_finished]
        if finished:
            finished_runs.append(finished[-1])
            # its process was perhaps killed before it could remove the checkpoint
            file = _checkpoint_file(finished[-1])
            if file is not None:
                file.unlink(missing_ok=True)
            continue
        threads = params.threads or study.params.cpus_per_run
        settings = {"threads": threads, "experiment": experiment}
        task = Task(name, params.model_copy(update=settings), protocol_label(params))
        if attempts and _can_continue(attempts[-1], folder):
            task.run_id = attempts[-1].run_id
            task.checkpoint_file = _move_checkpoint(attempts[-1], folder)
        tasks.append(task)
    continued = {task.run_id for task in tasks}
    for run in recorded:
        if run.is_open and run.run_id not in continued:
            close_run(run.run_id, "KILLED")
    return tasks, finished_runs


def _can_continue(run: RecordedRun, folder: Path | None) -> bool:
    """Whether a run was interrupted and lost at most the epoch in progress."""
    if run.status == "FAILED":
        return False
    file = _checkpoint_file(run)
    if file is None:
        return not run.has_epochs or has_shared(run.run_id)
    set_aside_if_damaged(file, run.study_run)
    # the folder of a run of another machine may not exist here
    return file.exists() or (not run.has_epochs and folder in (None, file.parent))


def _checkpoint_file(run: RecordedRun) -> Path | None:
    """The file of a run's checkpoint; None if that is among the artifacts."""
    folder = run.checkpoint_folder
    return None if folder is None else checkpoint_path(folder, run.run_id)


def _move_checkpoint(run: RecordedRun, folder: Path | None) -> Path | None:
    """Bring a run's checkpoint to where the executor keeps them; its file, if it has one there."""
    file = _checkpoint_file(run)
    if folder is None and file is not None:
        move_into_artifacts(run.run_id, file)
        return None
    if folder is not None and file is None:
        file = checkpoint_path(folder, run.run_id)
        move_out_of_artifacts(run.run_id, file)
    return file
