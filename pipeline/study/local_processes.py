"""An executor that trains in worker processes of this machine.

Each training has as many torch threads as its parameter `threads` says, by default one. Each worker
is a loky executor of one process, driven by a thread. If a process dies, only its own training is
affected; a new process continues it from its checkpoint.
"""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from loky import ProcessPoolExecutor, cpu_count
from loky.process_executor import BrokenProcessPool, ShutdownExecutorError
from tqdm import tqdm

from pipeline.study.executor import Interruption, Task, one_line, train_task
from pipeline.tracking.patience import StoreAway

ATTEMPTS = 3  # processes that may die in the same epoch of a training before the training fails


class LocalProcesses:
    """Trains tasks side by side; see `executor.StartExecutor` for the arguments."""

    def __init__(
        self,
        tasks: list[Task],
        *,
        workers: int,
        on_start: Callable[[Task], None],
        on_end: Callable[[Task, str], None],
    ) -> None:
        self._waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            self._waiting.put(task)
        self._on_start, self._on_end = on_start, on_end
        self._pools: dict[int, ProcessPoolExecutor] = {}  # by worker
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), daemon=True)
            for worker in range(min(workers or cpu_count(), len(tasks)))
        ]
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        """Whether a task is waiting or running."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Kill the processes at once; checkpoints are kept."""
        self._stopped = True
        for pool in list(self._pools.values()):
            pool.shutdown(wait=True, kill_workers=True)
        for thread in self._threads:
            thread.join(timeout=10)

    def _work(self, worker: int) -> None:
        """Train one waiting task after the other until none is left."""
        while not self._stopped:
            try:
                task = self._waiting.get_nowait()
            except queue.Empty:
                break
            try:
                self._on_start(task)
                error = self._train(worker, task)
            except StoreAway as problem:
                error = Interruption(problem)
            except Exception as problem:
                error = one_line(problem)
            if not self._stopped:
                self._on_end(task, error)
        pool = self._pools.pop(worker, None)
        if pool is not None and not self._stopped:
            pool.shutdown(wait=True)

    def _train(self, worker: int, task: Task) -> str:
        """Train a task to its end, in new processes if needed; the error, or an empty text."""
        deaths_without_progress, checkpoint_time = 0, None
        while not self._stopped:
            pool = self._pools.get(worker)
            if pool is None:
                pool = self._pools[worker] = _pool()
                if self._stopped:  # `stop` was called meanwhile and has not seen this pool
                    break
            try:
                return pool.submit(train_task, task).result()
            except (BrokenProcessPool, ShutdownExecutorError):
                pool.shutdown(wait=False, kill_workers=True)
                del self._pools[worker]
            before, checkpoint_time = checkpoint_time, _modified(task.checkpoint_file)
            same_epoch = checkpoint_time == before
            deaths_without_progress = deaths_without_progress + 1 if same_epoch else 1
            if deaths_without_progress == ATTEMPTS:
                return f"its process died {ATTEMPTS} times in the same epoch (out of memory?)"
        return ""


def _modified(path: Path | None) -> int | None:
    """When a file was changed, in nanoseconds; None if there is none."""
    return path.stat().st_mtime_ns if path and path.exists() else None


def _pool() -> ProcessPoolExecutor:
    """A pool of one process."""
    # the environment is set before numpy and torch are loaded, which read it then
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return ProcessPoolExecutor(1, initializer=_start, initargs=(os.getpid(),), env=environment)


def _start(parent: int) -> None:
    """Prepare a worker process: it ignores interruptions, and ends when its parent has ended."""
    # tqdm's own lock is a semaphore, which Python reports as leaked where a process is killed
    tqdm.set_lock(threading.RLock())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent handles them

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
