"""A store that is away in the middle of a training or a study, as real commands meet it."""

import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress

import mlflow
import pytest
from selenium.webdriver.common.utils import free_port

from tests.end_to_end.conftest import ONE_SCREEN, last_line, with_server
from tests.end_to_end.studies import SMALL, arguments, study_command, wait_for_an_epoch
from tests.server.running import RunningServer

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path_factory):
    """A folder with room for 8 MB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def server(server_folder):
    server = RunningServer(server_folder, free_port())
    yield server
    server.stop()


@pytest.fixture
def client(small_checkout, server):
    """A checkout whose store is the server."""
    return with_server(small_checkout, server)


EPOCHS = 20
LONG = {"epochs": EPOCHS, "conv_layer": "conv2d", "workers": 1}


def check_complete(uri):
    """Each run has finished, and each epoch was logged once."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("stn-mnist")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (nested,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    for name in ("train_loss", "test_accuracy"):
        history = client.get_metric_history(nested.info.run_id, name)
        assert sorted(metric.step for metric in history) == list(range(1, EPOCHS + 1))
    assert len(client.search_model_versions("name = 'stn-mnist'")) == 1


def test_a_study_waits_for_its_server(client, server):
    process = client.start(*study_command(**LONG), **ONE_SCREEN)
    wait_for_an_epoch(client, process)
    server.stop(signal.SIGKILL)
    time.sleep(40)
    server.start()
    screen, _ = process.communicate(timeout=300)
    assert process.returncode == 0, screen
    assert screen.count("does not answer") == 1, screen
    assert screen.count("answers again") == 1
    assert "Traceback" not in screen
    check_complete(server.uri)


def test_a_study_whose_patience_is_over_goes_on_from_its_checkpoint(client, server):
    command = study_command(**LONG, store_patience=0.1)
    process = client.start(*command, **ONE_SCREEN)
    wait_for_an_epoch(client, process)
    server.stop(signal.SIGKILL)
    screen, _ = process.communicate(timeout=300)
    server.start()
    assert process.returncode == 1
    assert re.search(
        r"Error: \S+ has been away for 0.1 minutes, which began while", last_line(screen)
    )
    assert last_line(screen).endswith("the same command goes on from the checkpoints")
    assert "Traceback" not in screen
    assert list((client.folder / "checkpoints").glob("*.pt"))
    done = client.run(*command, **ONE_SCREEN)
    assert done.returncode == 0, done.stdout
    assert "1 to be continued" in done.stdout
    check_complete(server.uri)


def test_a_training_whose_patience_is_over_goes_on_from_its_checkpoint(client, server):
    options = arguments(("--{0}", "{1}"), **{**SMALL, "epochs": EPOCHS, "store_patience": 0.05})
    command = [sys.executable, "-m", "pipeline", "train", *options]
    process = client.start(*command, **ONE_SCREEN)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    server.stop(signal.SIGKILL)
    screen, _ = process.communicate(timeout=300)
    server.start()
    assert process.returncode == 1
    assert "Traceback" not in screen
    assert last_line(screen).endswith("the same command goes on from the checkpoint")
    assert client.statuses() == ["RUNNING"]  # it could not be closed
    done = client.run(*command, **ONE_SCREEN)
    assert done.returncode == 0, done.stdout
    assert client.statuses() == ["FINISHED"]
    assert "was interrupted after epoch" in done.stdout
    assert not list((client.folder / "checkpoints").glob("*.training"))


def test_a_training_waits_for_a_sqlite_file_that_is_locked(small_checkout):
    options = arguments(("--{0}", "{1}"), **{**SMALL, "epochs": EPOCHS, "threads": 1})
    command = [sys.executable, "-m", "pipeline", "train", *options]
    process = small_checkout.start(*command, **ONE_SCREEN)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    connection = sqlite3.connect(
        small_checkout.folder / "mlflow.db", timeout=30, isolation_level=None
    )
    connection.execute("BEGIN EXCLUSIVE")
    time.sleep(60)
    connection.execute("COMMIT")
    screen, _ = process.communicate(timeout=300)
    assert process.returncode == 0, screen
    assert "Traceback" not in screen
    assert screen.count("does not answer") == 1
    assert small_checkout.statuses() == ["FINISHED"]


@pytest.mark.parametrize("command", ["train", "study"])
def test_a_full_disk_is_named_and_no_run_stays_open(small_checkout, small_disk, command):
    store = small_disk / "mlflow.db"
    small_checkout.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}"
    options = arguments(("--{0}", "{1}"), **{**SMALL, "epochs": 500, "conv_layer": "conv2d"})
    options += ["--runs", "2", "--workers", "1"] if command == "study" else []
    process = small_checkout.start(
        sys.executable, "-m", "pipeline", command, *options, **ONE_SCREEN
    )
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}")
    while process.poll() is None and not (store.exists() and has_an_epoch(client)):
        time.sleep(0.5)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
    screen, _ = process.communicate(timeout=300)
    assert process.returncode == 1, screen
    assert "Traceback" not in screen
    assert f"the disk is full: {small_disk}" in last_line(screen)
    filler.unlink()
    experiment = client.get_experiment_by_name("stn-mnist")
    statuses = {run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert statuses <= {"FAILED", "KILLED"}


def has_an_epoch(client):
    """Whether a run has logged an epoch."""
    experiment = client.get_experiment_by_name("stn-mnist")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return any("train_loss" in run.data.metrics for run in runs)
