"""On real SQLite stores, and on addresses where no store answers."""

import os
import sqlite3

import mlflow
import pytest
import sqlalchemy.exc

from pipeline.errors import PipelineError
from pipeline.tracking.runs import open_run
from pipeline.tracking.store import (
    ensure_store,
    errors_printed,
    local_folder,
    plain_errors,
)


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("sqlite:////some/where/mlflow.db", "/some/where"),
        ("sqlite:///mlflow.db", "."),
        ("sqlite:////some/a%2541b/mlflow.db", "/some/a%41b"),
        ("sqlite:////some/a b%3Fc@d/mlflow.db?timeout=5", "/some/a b?c@d"),
        ("sqlite+pysqlite:////some/where/mlflow.db", "/some/where"),
        ("file:///some/where/mlruns", "/some/where"),
        ("file:/some/where/mlruns", "/some/where"),
        ("/some/where/mlruns", "/some/where"),
        ("./mlruns", "."),
        ("http://127.0.0.1:5000", "."),
        ("postgresql://host/database", "."),
    ],
)
def test_files_lie_beside_a_local_store(tmp_path, monkeypatch, uri, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert local_folder() == tmp_path / folder


def test_artifacts_lie_beside_the_store_wherever_the_command_was_started(tmp_path, monkeypatch):
    (tmp_path / "a%41b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/a%2541b/mlflow.db")
    ensure_store()
    for experiment in ("Default", "stn-mnist"):
        with open_run("name", "", experiment=experiment) as run:
            run.log_artifacts({"notes.txt": "x"})
        place = tmp_path / "a%41b" / "mlruns" / run.experiment_id / run.run_id
        assert (place / "artifacts/notes.txt").read_text() == "x"
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("uri", ["sqlite:///{}/q.db?timeout=5", "sqlite+pysqlite:///{}/q.db"])
def test_a_store_is_the_file_that_mlflow_uses(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path))
    ensure_store()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["q.db", "q.db.lock"]
    before = (tmp_path / "q.db").read_bytes()
    with open_run("name", ""):
        pass
    assert (tmp_path / "q.db").read_bytes() != before


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite:///", "sqlite://", "sqlite:///?a=b"])
def test_a_store_in_memory_is_refused(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(PipelineError, match=r"it names no file.* such as sqlite:////home/me"):
        ensure_store()
    assert [file.name for file in store.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("path", "words"),
    [("", "is no file"), ("/requirements.txt/mlflow.db", "no folder that you may write to")],
)
def test_an_unwritable_store_is_found_before_anything_is_written(store, monkeypatch, path, words):
    (store / "requirements.txt").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}{path}")
    with pytest.raises(PipelineError, match=words):
        ensure_store()


@pytest.mark.parametrize("linked", [False, True])
def test_a_store_in_a_folder_that_may_not_be_written_is_refused(store, monkeypatch, linked):
    uri = f"sqlite:///{store}/mlflow.db"
    if linked:
        (store / "links").mkdir()
        (store / "links/here.db").symlink_to(store / "mlflow.db")
        uri = f"sqlite:///{store}/links/here.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ensure_store()
    # for root, who may run the tests, every folder is writable
    monkeypatch.setattr(os, "access", lambda path, mode: path != store)
    with pytest.raises(PipelineError, match=f"changed: {store} is no folder that you may write"):
        ensure_store()


def test_an_error_of_a_flush_is_told_by_the_database(store):
    problem = sqlite3.OperationalError("attempt to write a readonly database")
    error = sqlalchemy.exc.OperationalError("INSERT", {}, problem)
    error.add_detail(
        "raised as a result of Query-invoked autoflush; consider using a session.no_autoflush "
        "block if this flush is occurring prematurely"
    )
    for raised in (error, mlflow.MlflowException(str(error))):
        with pytest.raises(PipelineError, match="write a readonly") as told, plain_errors():
            raise raised
        assert "autoflush" not in str(told.value)


def test_a_token_that_no_header_may_hold_is_one_line_without_it(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret\n")
    with pytest.raises(PipelineError, match="header value") as error, plain_errors():
        mlflow.get_experiment_by_name("stn-mnist")
    assert "secret" not in str(error.value)


def test_a_server_that_does_not_answer_is_one_line_without_its_credentials(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:p@ss:secret@127.0.0.1:9?token=secret")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ensure_store()
    with (
        pytest.raises(PipelineError, match=r"MLflow \(http://127.0.0.1:9\): ") as error,
        plain_errors(),
    ):
        mlflow.get_experiment_by_name("stn-mnist")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mysql+nodriver://me:secret@host/runs", "sqlalchemy.dialects:mysql.nodriver"),
        ("mssql+pymssql://me:secret@host/runs", "needs a driver that is missing .*pymssql"),
        ("http://[secret@", "is no valid address"),
    ],
)
def test_a_store_that_cannot_be_reached_by_its_address_is_one_line(store, monkeypatch, uri, words):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(PipelineError, match=words) as error, plain_errors():
        ensure_store()
    assert "secret" not in str(error.value)


def test_an_error_is_one_line_whatever_the_user_typed():
    assert str(PipelineError("got 'a\nb\u2028\x1b[2J\udc80 é×'")) == (
        r"got 'a\nb\u2028\x1b[2J\udc80 é×'"
    )


def test_an_error_that_must_not_hide_another_one_is_printed(capsys):
    with errors_printed("the run could not be closed"):
        raise OSError("no route")
    assert capsys.readouterr().err == "the run could not be closed: no route\n"
