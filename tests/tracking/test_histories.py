"""On real stores: a SQLite file, and an MLflow server on it."""

import sys

import mlflow
import pytest
import requests
from selenium.webdriver.common.utils import free_port

from pipeline.tracking import histories
from pipeline.tracking.histories import last_epoch, metric_histories, metric_history
from pipeline.tracking.recorded import parent_of_study, training_runs
from pipeline.tracking.runs import create_nested_run, open_run
from tests.end_to_end.conftest import Checkout, answer_of, check_out

RUNS = 12


@pytest.fixture
def run_ids(store) -> list[str]:
    """A study of runs with an epoch or two; the last run has none."""
    with open_run("study", "", tags={"stn.study": "s"}) as parent:
        tags = {"stn.study": "s", "stn.protocol": "x"}
        ids = [create_nested_run(parent, f"run {n}", tags) for n in range(RUNS)]
    for number, run_id in enumerate(ids[:-1]):
        for step, accuracy in ((2, 0.6), (1, 0.5), (2, 0.7))[: 1 + number % 3]:  # 2 was repeated
            mlflow.log_metrics({"test_accuracy": accuracy}, step=step, run_id=run_id)
    return ids


def expected(run_ids):
    """By the number of values: which steps there are, and which value counts."""
    known = ({2: 0.6}, {1: 0.5, 2: 0.6}, {1: 0.5, 2: 0.7})
    return {id: known[n % 3] if id != run_ids[-1] else {} for n, id in enumerate(run_ids)}


def test_the_histories_of_many_runs_are_those_of_each(run_ids, monkeypatch):
    monkeypatch.setattr(histories, "RUNS_AT_ONCE", 5)
    found = metric_histories(run_ids, "test_accuracy")
    assert found == expected(run_ids)
    assert found == {run_id: metric_history(run_id, "test_accuracy") for run_id in run_ids}
    assert list(found[run_ids[1]]) == [1, 2]
    assert last_epoch(run_ids[2]) == (2, 0.7)
    assert last_epoch(run_ids[-1]) == (0, 0.0)
    assert metric_histories([], "test_accuracy") == {}


def test_runs_are_read_page_by_page_oldest_first(run_ids, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.recorded.PAGE_SIZE", 5)
    assert [run.name for run in training_runs("stn-mnist")] == [f"run {n}" for n in range(RUNS)]
    assert parent_of_study("stn-mnist", "s").name == "study"


def test_a_server_is_asked_for_many_runs_at_once(run_ids, store, tmp_path_factory, monkeypatch):
    environment = check_out(tmp_path_factory.mktemp("project")).environment
    port = free_port()
    server = Checkout(store, environment).start(
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)),
        *("--backend-store-uri", mlflow.get_tracking_uri()),
    )
    try:
        answer_of(server, f"http://127.0.0.1:{port}/health")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        asked = []
        send = requests.Session.send

        def counted(session, request, **settings):
            asked.append(request.url)
            return send(session, request, **settings)

        monkeypatch.setattr(requests.Session, "send", counted)
        assert metric_histories(run_ids, "test_accuracy") == expected(run_ids)
        assert len(asked) == 1
        asked.clear()
        assert len(training_runs("stn-mnist")) == RUNS
        assert len(asked) == 2  # the experiment, and one page of runs
        monkeypatch.setattr(histories, "MOST_VALUES", 5)  # more would have been cut off
        assert metric_histories(run_ids, "test_accuracy") == expected(run_ids)
    finally:
        server.terminate()
        server.communicate(timeout=30)
