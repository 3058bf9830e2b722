import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from tests.conftest import PROJECT

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

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

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

    def run(self, *command: str) -> subprocess.CompletedProcess:
        process = self.start(*command)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def pipeline(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "pipeline", *arguments)

    def mlflow_run(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.run("mlflow", "run", ".", "--env-manager", "local", *arguments)

    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.uri)

    def statuses(self) -> list[str]:
        experiments = [e.experiment_id for e in self.client().search_experiments()]
        return [run.info.status for run in self.client().search_runs(experiments)]


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
    environment["OMP_NUM_THREADS"] = "1"  # another test runs beside this one
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return Checkout(folder, environment)


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return check_out(tmp_path)


@pytest.fixture(scope="session")
def main_job(tmp_path_factory) -> tuple[Checkout, subprocess.CompletedProcess]:
    """The project's main job, done once: a training by a bare `mlflow run .`, one epoch long."""
    checkout = check_out(tmp_path_factory.mktemp("checkout"))
    return checkout, checkout.mlflow_run("-P", "conv_layer=coordconv2d", "-P", "epochs=1")
