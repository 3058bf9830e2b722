"""A real tracking server behind a proxy, which goes away or loses answers."""

import http.client
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import numpy as np
import pytest
import torch
from selenium.webdriver.common.utils import free_port
from sqlalchemy.exc import OperationalError

from pipeline.tracking import lease as lease_module
from pipeline.tracking import patience as patience_module
from pipeline.tracking.lease import lease
from pipeline.tracking.patience import StoreAway, patience, until_it_answers, without_waiting
from pipeline.tracking.recorded import parent_of_study, recorded_run
from pipeline.tracking.registry import REGISTERED_MODEL, Candidate, promote, register
from pipeline.tracking.runs import create_nested_run, open_run, reopen_run
from tests.end_to_end.conftest import answer_of


class Proxy:
    """Passes requests on to a server.

    Attributes:
        lost: how many answers to writing requests of each path get lost, after the server has
            done what was asked.
        cut: how many answers to requests of each path break off in the middle.
    """

    def __init__(self, port: int) -> None:
        self._behind, self._port = port, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.lost = self.cut = 0
        self._requests: Counter[str] = Counter()
        self.start()

    def start(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, content = proxy._answer(
                    self.command, self.path, body, self.headers
                )
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *args) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def away(self, seconds: float):
        """The server is away as the block begins, and comes back after some time."""
        self.stop()
        timer = threading.Timer(seconds, self.start)
        timer.start()
        yield
        timer.join()

    def _answer(self, method, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=60)
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        place = method, re.sub("m-[0-9a-f]{32}", "model", path)  # each attempt at one has its own
        self._requests[place] += 1
        if method != "GET" and self._requests[place] <= self.lost:
            return 503, [("Content-Length", "0")], b""
        if self._requests[place] <= self.cut:
            content = content[: len(content) // 2]
        kept = ("content-type", "content-length")
        return (
            response.status,
            [(name, value) for name, value in response.getheaders() if name.lower() in kept],
            content,
        )


@pytest.fixture(scope="module")
def behind(tmp_path_factory, empty_store):
    """The port of a tracking server on an SQLite store."""
    folder, port = tmp_path_factory.mktemp("behind"), free_port()
    shutil.copy(empty_store, folder)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answer_of(process, f"http://127.0.0.1:{port}/health")
    yield port
    process.terminate()
    process.wait(30)


@pytest.fixture
def server(store, monkeypatch, behind):
    proxy = Proxy(behind)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    monkeypatch.setattr(patience_module, "RETRY_SECONDS", 0.1)
    yield proxy
    proxy.stop()


class Digits(torch.nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10].float().softmax(dim=1)


def test_a_study_takes_its_lock_when_the_server_is_back(server, monkeypatch):
    monkeypatch.setattr(lease_module, "SETTLE_SECONDS", 0.05)
    with open_run("study", "", tags={"stn.study": "s"}, store_patience=10) as run:
        with server.away(0.5), lease(run.run_id):
            assert "stn.lease" in recorded_run(run.run_id).tags
        with server.away(0.5):
            assert parent_of_study("stn-mnist", "s").run_id == run.run_id


def test_a_lock_whose_answer_got_lost_is_not_taken_for_that_of_another_process(server, monkeypatch):
    monkeypatch.setattr(lease_module, "SETTLE_SECONDS", 0.05)
    with open_run("study", "", store_patience=10) as run:
        server.lost = 1
        with lease(run.run_id):
            server.lost = 0
    assert "stn.lease" not in recorded_run(run.run_id).tags


def test_what_has_arrived_is_not_double_when_all_answers_get_lost(server):
    client = mlflow.MlflowClient()
    with open_run("parent", "", params={"seed": 1}, store_patience=10) as parent:
        mlflow.end_run()  # a study trains in another process
        server.lost = 1
        run_id = create_nested_run(parent, "child", {"stn.protocol": "p"})
        images = np.zeros((4, 1, 28, 28), np.uint8)
        mlflow.end_run()  # a study trains in another process
        with reopen_run(run_id, "note", params={"lr": 0.1}, tags={}, store_patience=10) as run:
            run.log_metrics({"train_loss": 0.5, "test_accuracy": 0.9}, step=1)
            run.log_artifacts({"notes.txt": "digits"})
            run.log_dataset("same", "training", images, np.zeros(4))
            model_id = run.log_model(Digits().eval(), images, step=1)
            run.log_metrics({"best_epoch": 1.0}, step=1, model_id=model_id)
            candidate = Candidate("test", 0.9, 0.1)
            version = register(model_id, candidate)
        promote(version, candidate, ["champion"])
    server.lost = 0
    (child,) = client.search_runs([run.experiment_id], "attributes.run_name = 'child'")
    assert child.info.run_id == run_id
    assert child.info.status == "FINISHED"
    assert child.data.params == {"lr": "0.1"}
    for name in ("train_loss", "test_accuracy", "best_epoch"):
        assert len(client.get_metric_history(run_id, name)) == 1
    assert len(child.inputs.dataset_inputs) == 1
    (model,) = client.search_logged_models([run.experiment_id])
    assert model.model_id == model_id
    assert sum(server._requests.values()) > 20
    names = sorted(metric.key for metric in model.metrics)
    assert names == ["best_epoch", "test_accuracy", "train_loss"]
    (found,) = client.search_model_versions()
    assert found.source == f"models:/{model_id}"
    assert "champion" in client.get_registered_model(REGISTERED_MODEL).aliases


def test_a_training_waits_for_a_server_and_says_so_in_two_lines(server, capsys):
    with open_run("run", "", store_patience=10) as run:
        with server.away(seconds=1):
            run.log_metrics({"train_loss": 0.5}, step=1)
        assert capsys.readouterr().err.splitlines()[-2:] == [
            f"{server.uri} does not answer; waiting for it, up to 10 minutes",
            f"{server.uri} answers again",
        ]
    assert recorded_run(run.run_id).metrics == {"train_loss": 0.5}
    assert recorded_run(run.run_id).is_finished


def test_an_answer_that_breaks_off_is_asked_for_again(server):
    with open_run("run", "", store_patience=10) as run:
        server.cut = 1
        run.log_metrics({"train_loss": 0.5}, step=1)
    assert recorded_run(run.run_id).metrics == {"train_loss": 0.5}
    assert recorded_run(run.run_id).is_finished


def test_after_the_patience_the_error_names_what_failed_first(server, capsys):
    def train():
        with open_run("run", "", store_patience=0.01) as run:
            server.stop()
            run.log_metrics({"train_loss": 0.5}, step=1)

    with pytest.raises(StoreAway, match=r"for 0.01 minutes, .* while logging metrics: .*refused"):
        train()
    assert "could not be closed: MLflow" in capsys.readouterr().err
    assert mlflow.active_run() is None
    server.start()


def test_a_call_within_another_one_names_the_outage_once(store, monkeypatch):
    monkeypatch.setattr(patience_module, "RETRY_SECONDS", 0.1)

    def fail():
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))

    with (
        patience(0.005),
        pytest.raises(StoreAway, match=r"while reading files: .*is locked") as away,
    ):
        until_it_answers("moving a checkpoint", lambda: until_it_answers("reading files", fail))
    assert str(away.value).count("has been away") == 1


def test_what_may_be_left_out_does_not_wait(server, capsys):
    with open_run("run", "", store_patience=10) as run:
        server.stop()
        began = time.monotonic()
        for _ in range(2):
            with without_waiting():
                run.set_tags({"stn.progress": "1/2"})
        assert time.monotonic() - began < 30
        assert capsys.readouterr().err.count("does not answer") == 1
        server.start()


@pytest.mark.parametrize("problem", [KeyError("x"), mlflow.MlflowException("no such run")])
def test_an_error_that_is_no_outage_is_not_repeated(problem):
    calls = []

    def fail():
        calls.append(1)
        raise problem

    with patience(1), pytest.raises(type(problem)):
        until_it_answers("reading", fail)
    assert len(calls) == 1
