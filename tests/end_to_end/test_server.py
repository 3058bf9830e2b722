"""A study and what comes after it, on a tracking server; the slow tests do the main job there."""

import re
import sys

import pytest
from selenium.webdriver.common.utils import free_port

from tests.end_to_end.conftest import ONE_SCREEN, with_server
from tests.end_to_end.studies import runs_of
from tests.server.running import RunningServer


@pytest.fixture
def client(small_checkout, server_folder):
    server = RunningServer(server_folder, free_port())
    yield with_server(small_checkout, server)
    server.stop()


def test_a_study_needs_nothing_but_the_address_of_the_server(client, tmp_path):
    given = ("runs=1", "iterations=5", "conv_layer=conv2d")
    options = [word for value in given for word in ("-P", value)]
    done = client.mlflow_run(
        "-e", "study", "--experiment-name", "stn-mnist", *options, **ONE_SCREEN
    )
    assert done.returncode == 0, done.stdout
    parent, nested = runs_of(client)
    (run,) = nested.values()
    assert parent.info.status == run.info.status == "FINISHED"
    assert f"see {client.server}/#/experiments/" in done.stdout
    assert not list(client.folder.glob("mlflow.db*"))
    assert not (client.folder / "mlruns").exists()
    assert not list((client.folder / "checkpoints").glob("*.pt"))
    names = {file.path for file in client.client().list_artifacts(run.info.run_id)}
    assert "confusion_matrix.png" in names

    picture = client.client().download_artifacts(run.info.run_id, "confusion_matrix.png", tmp_path)
    answer = client.run(sys.executable, "-m", "pipeline", "predict", picture, **ONE_SCREEN)
    assert re.search(r": \d \(\d+\.\d%\)$", answer.stdout), answer.stdout
