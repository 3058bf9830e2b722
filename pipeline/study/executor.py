"""The trainings that a study has done for it, and what does them: an executor.

An executor decides where and when a training runs. It knows nothing of the study: it is told the
tasks, calls `on_start` before it trains one, `train_task` to train it, and `on_end` when that has
ended. `local_processes.py` is the executor of one machine.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.params import RunParams


@dataclass
class Task:
    """One training of a study.

    name: unique in the study.
    protocol_label: see `presets.protocol_label`.
    run_id, checkpoint_file: of its MLflow run; None until there is one.
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


# How an executor is created: with the tasks in their order; the number of trainings at the same
# time, 0 for as many as there are cores; `on_start(task)`, which gives the task a run, and may
# raise, which counts as an error of the task; and `on_end(task, error)`, where the error is one
# line, or empty if the task has finished. It may call both from any thread.
StartExecutor = Callable[
    [list[Task], int, Callable[[Task], None], Callable[[Task, str], None]], Executor
]


def train_task(task: Task) -> str:
    """Train a task, wherever the executor calls this, and return the error, or an empty text."""
    from pipeline.tracking.recorded import recorded_run
    from pipeline.tracking.store import plain_errors
    from pipeline.training.run import RunOfStudy, run_training

    assert task.run_id is not None
    assert task.checkpoint_file is not None
    try:
        with plain_errors():
            # a worker that was killed may have finished the run just before
            if not recorded_run(task.run_id).is_finished:
                run = RunOfStudy(task.run_id, task.checkpoint_file, task.protocol_label)
                run_training(task.params, run)
    except PipelineError as error:
        return str(error)
    except Exception as error:  # as text, because not every exception can be pickled
        traceback.print_exc()  # it is nothing that was foreseen
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""
