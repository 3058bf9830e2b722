"""Trainings in worker processes of this machine, one torch thread each.

A worker is a loky executor of one process, driven by a thread: where a process dies, only its own
training is affected, and goes on from its checkpoint in a new process.
"""

import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loky import ProcessPoolExecutor, cpu_count
from loky.process_executor import BrokenProcessPool, ShutdownExecutorError
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.params import RunParams

ATTEMPTS = 3  # processes that may die in the same epoch of a training before it counts as failed


@dataclass
class Task:
    """One training, and how it went: what makes its run, and an error where it failed."""

    name: str
    params: RunParams
    protocol: str  # its label
    run_id: str | None = None  # of an interrupted run, which is continued
    checkpoint: Path | None = None
    state: str = "waiting"  # then running, finished or failed
    error: str = ""


class Workers:
    """Train tasks side by side in the background.

    Args:
        tasks: to be trained, in this order.
        count: of worker processes; 0 is one for each core that this process may use.
        prepare: called before a task starts; gives it its run_id and checkpoint.
        ended: called after it has finished or failed.
    """

    def __init__(
        self,
        tasks: list[Task],
        count: int,
        prepare: Callable[[Task], None],
        ended: Callable[[Task], None],
    ) -> None:
        self._waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            self._waiting.put(task)
        self._prepare, self._ended = prepare, ended
        self._executors: dict[int, ProcessPoolExecutor] = {}
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._drive, args=(number,), daemon=True)
            for number in range(min(count or cpu_count(), len(tasks)))
        ]
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        """Whether a task is waiting or running."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Kill the processes at once; what they trained is in their checkpoints."""
        self._stopped = True
        for executor in list(self._executors.values()):
            executor.shutdown(wait=True, kill_workers=True)
        for thread in self._threads:
            thread.join(timeout=10)

    def _drive(self, number: int) -> None:
        while not self._stopped:
            try:
                task = self._waiting.get_nowait()
            except queue.Empty:
                break
            try:
                self._prepare(task)
                task.state = "running"
                error = self._train(number, task)
            except Exception as problem:  # such as a store that cannot be reached any more
                error = " ".join(f"{type(problem).__name__}: {problem}".split())
            if not self._stopped:
                task.error = error
                task.state = "failed" if error else "finished"
                self._ended(task)
        executor = self._executors.pop(number, None)
        if executor is not None and not self._stopped:
            executor.shutdown(wait=True)

    def _train(self, number: int, task: Task) -> str:
        """Train until the end, in a new process if need be; the error, or an empty text."""
        deaths, at = 0, None
        while not self._stopped:
            executor = self._executors.get(number)
            if executor is None:
                executor = self._executors[number] = _executor()
                if self._stopped:  # meanwhile, by a thread that did not see this executor
                    break
            try:
                return executor.submit(
                    _train, task.params, task.run_id, task.checkpoint, task.protocol
                ).result()
            except (BrokenProcessPool, ShutdownExecutorError):
                executor.shutdown(wait=False, kill_workers=True)
                del self._executors[number]
            last, at = at, _modified(task.checkpoint)
            deaths = deaths + 1 if at == last else 1
            if deaths == ATTEMPTS:
                return f"its process died {ATTEMPTS} times in the same epoch (out of memory?)"
        return ""


def _modified(path: Path | None) -> int | None:
    return path.stat().st_mtime_ns if path and path.exists() else None


def _executor() -> ProcessPoolExecutor:
    # the environment is set before numpy and torch are loaded, which read it then
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return ProcessPoolExecutor(1, initializer=_start, initargs=(os.getpid(),), env=environment)


def _start(parent: int) -> None:
    """Prepare a worker process: interruptions are the parent's to handle; nobody outlives it."""
    # tqdm's own lock is a semaphore, which Python reports as leaked where a process is killed
    tqdm.set_lock(threading.RLock())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(params: RunParams, run_id: str, checkpoint: Path, protocol: str) -> str:
    """In the worker: train, and return the error, or an empty text."""
    from pipeline.tracking.recorded import recorded_run
    from pipeline.tracking.store import plain_errors
    from pipeline.training.run import StudyRun, run_training

    try:
        with plain_errors():
            if not recorded_run(run_id).is_finished:  # else the last worker died just after that
                run_training(params, StudyRun(run_id, checkpoint, protocol))
    except PipelineError as error:
        return str(error)
    except Exception as error:  # an error of torch may not survive the way to the parent
        traceback.print_exc()  # it is nothing that was foreseen
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""
