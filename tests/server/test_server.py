"""PostgreSQL, MLflow's tracking server and real clients."""

import base64
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from click.testing import CliRunner
from selenium.webdriver.common.utils import free_port

from pipeline.tracking.patience import patience
from pipeline.tracking.recorded import artifact_bytes, training_runs
from pipeline.tracking.runs import open_run
from server.__main__ import main, reached_at
from server.postgres import postgres
from tests.conftest import PROJECT
from tests.server.running import RunningServer


@pytest.fixture
def client(store, monkeypatch):
    """A function that has MLflow use another store; `store` undoes it."""
    return lambda uri: monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


def log_a_training() -> str:
    with open_run("coordconv2d seed=0", "", params={"seed": 0}, tags={"stn.protocol": "p"}) as run:
        run.log_metrics({"train_loss": 0.5}, step=1)
        run.log_artifacts({"notes.txt": "digits"})
    return run.run_id


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")],
)
def test_the_address_that_is_printed_reaches_the_server(host, address):
    assert reached_at(host) == address


@pytest.mark.parametrize("option", ["--port=70000", "--port=-1", "--port=0", "--workers=0"])
def test_a_number_that_is_out_of_range_is_refused(tmp_path, option):
    # the folder, in case that the server starts nevertheless, is a file
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, [option, "--folder", f"{tmp_path}/file/folder"])
    assert done.exit_code == 2
    assert "is not in the range" in done.output


def test_a_database_is_a_store_by_its_own_address(server_folder, client):
    with postgres(server_folder / "postgres", ["mlflow"]) as (address,):
        client(address)
        run_id = log_a_training()
        (run,) = training_runs("stn-mnist")
        assert (run.run_id, run.is_finished) == (run_id, True)
        assert artifact_bytes(run_id, "notes.txt") == b"digits"
    # PostgreSQL has stopped, and what was in it is still there
    assert not (server_folder / "postgres/postmaster.pid").exists()
    with postgres(server_folder / "postgres", ["mlflow"]) as (address,):
        client(address)
        assert [run.run_id for run in training_runs("stn-mnist")] == [run_id]


def test_a_database_that_is_killed_is_started_again(server_folder, client, capfd):
    with postgres(server_folder / "postgres", ["mlflow"]) as (address,):
        client(address)
        run_id = log_a_training()
        file = server_folder / "postgres/postmaster.pid"
        os.kill(int(file.read_text().split()[0]), signal.SIGKILL)
        with patience(minutes=1):
            assert [run.run_id for run in training_runs("stn-mnist")] == [run_id]
    assert "PostgreSQL has ended, and was started again" in capfd.readouterr().err
    assert not file.exists()


def answer(uri: str, user: str = "", password: str = "") -> int:
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/experiments/get?experiment_id=0")
    if user:
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_server_keeps_runs_and_artifacts_when_it_is_killed_and_starts_again_with_passwords(
    server_folder, client, monkeypatch
):
    server = RunningServer(server_folder, free_port())
    try:
        client(server.uri)
        run_id = log_a_training()
        files = list((server_folder / "artifacts").rglob("notes.txt"))
        assert [file.read_text() for file in files] == ["digits"]

        second = [sys.executable, "-m", "server", "--folder", str(server_folder)]
        done = subprocess.run(second, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr == f"Error: a server works in {server_folder} already\n"
    finally:
        server.stop(signal.SIGKILL)
    server.start("--auth")  # although PostgreSQL lives on
    try:
        password_file = server_folder / "admin-password"
        assert password_file.stat().st_mode & 0o077 == 0
        password = password_file.read_text()
        assert answer(server.uri) == 401
        assert answer(server.uri, "admin", "another") == 401
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        assert [run.run_id for run in training_runs("stn-mnist")] == [run_id]
        assert artifact_bytes(run_id, "notes.txt") == b"digits"
        assert password not in server.log.read_text()
    finally:
        assert server.stop() == 0
