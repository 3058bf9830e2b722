"""An executor that trains as tasks of Ray: on a cluster, or on a local Ray of its own.

Ray repeats a task whose process or node dies; the training then goes on from its checkpoint. A
local Ray listens on the loopback interface only, and ends with the executor.
"""

import importlib.util
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.study.executor import Interruption, Task, one_line, train_task
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.patience import StoreAway
from pipeline.tracking.store import environment_of_client, is_on_this_machine

RETRIES = 9  # of a training whose process or node dies, in all
INSTALL = "make setup RAY=1, or pip install -r requirements-ray.lock"

# Ray reads them when it is imported
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # its telemetry
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a run without a GPU sees none
}
# Ray's only way to stay on the loopback interface, whatever the system
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def check_installed() -> None:
    """Raises PipelineError unless Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        raise PipelineError(f"executor: got 'ray', which is not installed; install it: {INSTALL}")


class RayTasks:
    """Trains tasks side by side; see `executor.StartExecutor` for the other arguments.

    Args:
        workers: how many trainings at the same time; 0 for as many as the nodes have room for.
        address: of a cluster, as `ray.init` takes it; empty for a local Ray.
        cpus_per_run, gpus_per_run: what a training occupies of its node.

    Raises:
        PipelineError: if the cluster cannot be reached, has no node that is large enough, or has
            nodes that cannot reach the store.
    """

    def __init__(
        self,
        tasks: list[Task],
        *,
        workers: int,
        on_start: Callable[[Task], None],
        on_end: Callable[[Task, str], None],
        address: str = "",
        cpus_per_run: int = 1,
        gpus_per_run: float = 0.0,
    ) -> None:
        self._needs = {"CPU": cpus_per_run, "GPU": gpus_per_run}
        self._workers, self._waiting = workers, deque(tasks)
        self._on_start, self._on_end = on_start, on_end
        self._running: dict[Any, Task] = {}  # by Ray's reference to the result
        self._stopped = False
        self._ray = _connected(address, workers * cpus_per_run or None)
        try:
            self._check_nodes()
        except BaseException:
            self._ray.shutdown()
            raise
        self._train = self._ray.remote(
            num_cpus=cpus_per_run, num_gpus=gpus_per_run, max_retries=RETRIES
        )(_train_there)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def busy(self) -> bool:
        """Whether a task is waiting or running."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the trainings at once, and a local Ray; checkpoints are kept."""
        self._stopped = True
        self._thread.join(timeout=10)
        for result in self._running:
            self._ray.cancel(result, force=True)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=10)
        self._ray.shutdown()

    def _work(self) -> None:
        """Train the waiting tasks until none is left."""
        while (self._waiting or self._running) and not self._stopped:
            try:
                while self._waiting and len(self._running) < self._places() and not self._stopped:
                    self._submit(self._waiting.popleft())
                if self._running:
                    ended, _ = self._ray.wait(list(self._running), timeout=1)
                    for result in ended:
                        task = self._running.pop(result)
                        self._on_end(task, self._error_of(result))
            except Exception as problem:  # such as a cluster that cannot be reached any more
                error = one_line(problem)
                for task in [*self._running.values(), *self._waiting]:
                    self._on_end(task, error)
                return

    def _submit(self, task: Task) -> None:
        try:
            self._on_start(task)
        except StoreAway as problem:
            self._on_end(task, Interruption(problem))
            return
        except Exception as problem:
            self._on_end(task, one_line(problem))
            return
        result = self._train.remote(task, str(Path.cwd()), environment_of_client())
        self._running[result] = task

    def _error_of(self, result: Any) -> str:
        """The error of a task that has ended, or an empty text."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(result)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            return f"its process or its node died {RETRIES + 1} times (out of memory?)"
        except Exception as problem:  # such as a node that lacks the project
            return one_line(problem)

    def _places(self) -> int:
        """How many trainings may run now; a cluster may grow and shrink."""
        return self._workers or max(1, sum(map(self._room_on, self._nodes())))

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room_on(self, node: dict[str, Any]) -> int:
        """How many trainings a node has room for, if nothing else runs on it."""
        has = node["Resources"]
        return int(min(has.get(name, 0) / need for name, need in self._needs.items() if need))

    def _check_nodes(self) -> None:
        nodes = self._nodes()
        others = {node["NodeManagerHostname"] for node in nodes} - {socket.gethostname()}
        if others and is_on_this_machine():
            raise PipelineError(
                "MLFLOW_TRACKING_URI: the store is a file of this machine, which the other "
                f"machines of the cluster ({', '.join(sorted(others))}) cannot reach; use a server"
            )
        if any(map(self._room_on, nodes)):
            return
        needs = ", ".join(f"{need:g} {name}" for name, need in self._needs.items() if need)
        largest = {
            name: max(node["Resources"].get(name, 0) for node in nodes) for name in self._needs
        }
        raise PipelineError(
            f"a run needs {needs} (cpus_per_run, gpus_per_run), which no node of Ray has; the "
            f"largest have {', '.join(f'{most:g} {name}' for name, most in largest.items())}"
        )


def _connected(address: str, cpus: int | None) -> Any:
    """The module of Ray, connected to a cluster or to a new local Ray with so many CPUs."""
    check_installed()
    for name, value in (_ENVIRONMENT if address else {**_ENVIRONMENT, **_LOOPBACK}).items():
        os.environ.setdefault(name, value)
    import ray

    settings = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address or "local", log_to_driver=False, logging_level="error", **settings)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise PipelineError(
            f"ray_address: got {without_credentials(address)!r}: {one_line(error)}; allowed: "
            "nothing, for a local Ray; auto, on a machine of a running cluster; the address of its "
            "head, such as 10.0.0.1:6379"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process at once
    return ray


def _train_there(task: Task, folder: str, environment: dict[str, str]) -> str:
    """What a process of Ray does: `train_task` in the same folder and with the same store."""
    # Ray's own handler raises SystemExit, which would be taken for the end of the training
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.chdir(folder)
    except OSError as error:
        return f"on {socket.gethostname()}: {error}; each node needs the project in that folder"
    os.environ.update(environment)
    return train_task(task)
