import gzip
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from selenium.webdriver.common.utils import free_port

from pipeline.data.mnist import CHECKSUMS
from tests.conftest import PROJECT, folder_for_a_server
from tests.server.running import RunningServer

PARTS = ["MLproject", "conda.yaml", "params", "pipeline"]


def heed_signals():
    """Undo what nohup and background jobs hand down: signals that are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass(frozen=True)
class Checkout:
    """A copy of the project with a tracking store of its own, and commands run in it."""

    folder: Path
    environment: dict[str, str]
    server: str = ""  # the address of a tracking server; else the store is in the folder

    @property
    def uri(self) -> str:
        return self.server or f"sqlite:///{self.folder}/mlflow.db"

    def start(self, *command: str, **settings) -> subprocess.Popen:
        usual = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "preexec_fn": heed_signals,
        }
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, **{**usual, **settings}
        )

    def run(self, *command: str, **settings) -> subprocess.CompletedProcess:
        process = self.start(*command, **settings)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def pipeline(self, *arguments: str, **settings) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "pipeline", *arguments, **settings)

    def mlflow_run(self, *arguments: str, **settings) -> subprocess.CompletedProcess:
        return self.run("mlflow", "run", ".", "--env-manager", "local", *arguments, **settings)

    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.uri)

    def statuses(self) -> list[str]:
        experiments = [e.experiment_id for e in self.client().search_experiments()]
        return [run.info.status for run in self.client().search_runs(experiments)]


ONE_SCREEN = {"stderr": subprocess.STDOUT}  # both streams in their order, as a terminal shows them


def last_line(screen: str) -> str:
    """The last line that a command leaves on the screen, but for what `mlflow run` says itself."""
    said = r".*mlflow\.\S+: === Run .* (succeeded|failed) ===|[🏃🧪] View .*"
    return next(line for line in reversed(screen.splitlines()) if not re.fullmatch(said, line))


def answer_of(server: subprocess.Popen, request: urllib.request.Request | str) -> bytes:
    """What a server that has just been started answers, once it does."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.read()
        except urllib.error.HTTPError:
            raise
        except OSError:  # it does not listen yet
            assert server.poll() is None, server.communicate()
            time.sleep(0.5)
    raise TimeoutError("the server does not answer")


def check_out(folder: Path) -> Checkout:
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    # 75 MB once they are unpacked, and nothing but the unpacking writes there
    (folder / "data").symlink_to(PROJECT / "data")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # nothing here is unpickled
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes that idle
    environment["OMP_NUM_THREADS"] = "1"  # another test runs beside this one
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return Checkout(folder, environment)


def reduce_mnist(checkout: Checkout, training: int = 4000, test: int = 500) -> None:
    """Give a copy of the project the first images of MNIST only, to save time.

    The copy verifies the reduced files, too: it gets their checksums.
    """
    (checkout.folder / "data").unlink()
    raw = checkout.folder / "data/MNIST/raw"
    raw.mkdir(parents=True)
    module = checkout.folder / "pipeline/data/mnist.py"
    text = module.read_text()
    for name, checksum in CHECKSUMS.items():
        count = training if name.startswith("train") else test
        # the first eight bytes are the kind of the file and the number of items; then, of images,
        # two sides of four bytes each
        header, size = (16, 28 * 28) if "images" in name else (8, 1)
        with gzip.open(PROJECT / f"data/MNIST/raw/{name}.gz") as file:
            content = file.read(header + count * size)
        content = content[:4] + count.to_bytes(4, "big") + content[8:]
        (raw / name).write_bytes(content)
        text = text.replace(checksum, hashlib.md5(content).hexdigest())
    module.write_text(text)


def check_out_small(folder: Path) -> Checkout:
    """A copy of the project that has the first images of MNIST only."""
    checkout = check_out(folder)
    reduce_mnist(checkout)
    return checkout


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return check_out(tmp_path)


@pytest.fixture
def small_checkout(tmp_path) -> Checkout:
    return check_out_small(tmp_path)


def with_server(checkout: Checkout, server: RunningServer) -> Checkout:
    """The same copy of the project, whose commands log to a server."""
    environment = {**checkout.environment, "MLFLOW_TRACKING_URI": server.uri}
    return Checkout(checkout.folder, environment, server.uri)


@contextmanager
def store_of(checkout: Checkout, kind: str) -> Iterator[Checkout]:
    """The same copy of the project, with a store of this kind.

    Args:
        kind: `sqlite`, the file in the copy; or `server`, a tracking server on PostgreSQL.
    """
    if kind == "sqlite":
        yield checkout
        return
    with folder_for_a_server() as folder:
        server = RunningServer(folder, free_port())
        try:
            yield with_server(checkout, server)
        finally:
            server.stop()


ON_SERVER = pytest.param("server", marks=[pytest.mark.slow, pytest.mark.postgres])


@pytest.fixture(scope="session", params=["sqlite", ON_SERVER])
def main_job(request, tmp_path_factory) -> Iterator[tuple[Checkout, subprocess.CompletedProcess]]:
    """The project's main job, done once: a training by a bare `mlflow run .`, one epoch long."""
    checkout = check_out(tmp_path_factory.mktemp("checkout"))
    with store_of(checkout, request.param) as checkout:
        command = ("-P", "conv_layer=coordconv2d", "-P", "epochs=1")
        yield checkout, checkout.mlflow_run(*command, **ONE_SCREEN)
