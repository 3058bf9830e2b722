"""The trainings of a study as tasks, and the interface of an executor, which trains them.

An executor decides where and when a task is trained, and knows nothing of the study. It calls
`on_start` before it trains a task, `train_task` to train it, possibly in another process, and
`on_end` when the task has ended. A study with several looks starts an executor for each round.
`local_processes.py` is the executor for one machine, `ray_tasks.py` that for a cluster.
"""

import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.params import RunParams


class Interruption(str):
    """An error from outside the task, such as a store that is away.

    The task can go on from its checkpoint.
    """


@dataclass
class Task:
    """One training of a study.

    name: unique in the study.
    protocol_label: see `names.protocol_label`.
    run_id, checkpoint_file: of its MLflow run; None until there is one. A run without such a file
        has its checkpoint among its artifacts.
    state: `waiting`, `running`, `finished` or `failed`. The study sets it.
    error: one line, if it has failed.
    """

    name: str
    params: RunParams
    protocol_label: str
    run_id: str | None = None
    checkpoint_file: Path | None = None
    state: str = "waiting"
    error: str = ""


class Executor(Protocol):
    """Trains tasks in the background from the moment it is created."""

    def busy(self) -> bool:
        """Whether a task is waiting or running."""

    def stop(self) -> None:
        """End all trainings at once, without calling `on_end`; checkpoints are kept."""


class StartExecutor(Protocol):
    """Creates an executor, such as the class `LocalProcesses` does."""

    def __call__(
        self,
        tasks: list[Task],
        *,
        workers: int,
        on_start: Callable[[Task], None],
        on_end: Callable[[Task, str], None],
    ) -> Executor:
        """Start to train.

        Args:
            tasks: what to train, in this order.
            workers: how many trainings at the same time; 0 for one on each core.
            on_start: called before a task is trained; it gives the task a run. What it raises is
                an error of the task.
            on_end: called when a task has ended, with the error in one line, or an empty text if
                the task has finished.

        `on_start` and `on_end` may be called from any thread of this process.
        """


def one_line(error: Exception) -> str:
    """An unexpected error as the error of a task: its kind and text, without passwords."""
    from pipeline.tracking.credentials import without_credentials

    return without_credentials(" ".join(f"{type(error).__name__}: {error}".split()))


def train_task(task: Task) -> str:
    """Train a task, wherever the executor calls this, and return the error, or an empty text."""
    from pipeline.tracking.patience import StoreAway, patience
    from pipeline.tracking.recorded import recorded_run
    from pipeline.tracking.shared_checkpoints import remove_shared
    from pipeline.tracking.store import plain_errors

    assert task.run_id is not None
    try:
        with plain_errors(), patience(task.params.store_patience, quiet=True):
            # a worker that was killed may have finished the run just before
            if not recorded_run(task.run_id).is_finished:
                _train(task, task.run_id)
            if task.checkpoint_file is None:
                remove_shared(task.run_id)
    except StoreAway as error:
        return Interruption(error)
    except PipelineError as error:
        return str(error)
    except Exception as error:  # as text, because not every exception can be pickled
        traceback.print_exc()  # an unexpected error
        return one_line(error)
    return ""


def _train(task: Task, run_id: str) -> None:
    from pipeline.tracking.shared_checkpoints import fetch_shared, save_shared
    from pipeline.training.checkpoint import checkpoint_path
    from pipeline.training.run import RunOfStudy, run_training

    if task.checkpoint_file is not None:
        run_training(task.params, RunOfStudy(run_id, task.checkpoint_file, task.protocol_label))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = checkpoint_path(Path(folder), run_id)
        fetch_shared(run_id, file)
        share = partial(save_shared, run_id)
        run_training(task.params, RunOfStudy(run_id, file, task.protocol_label, share))
