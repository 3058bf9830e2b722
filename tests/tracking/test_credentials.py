"""No user, password or token is shown, however an address spells it."""

import mlflow
import pytest

from pipeline.errors import PipelineError
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.links import ui_address
from pipeline.tracking.store import ensure_store, plain_errors


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://me:p@ssword:secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://me:a/secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://me:a?secret@127.0.0.1:9/at", "http://127.0.0.1:9/at"),
        ("http://me:a#secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://me:a secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://127.0.0.1:9?token=secret", "http://127.0.0.1:9"),
        ("http://[::1]:9", "http://[::1]:9"),
        ("http://[secret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("postgresql://me:secret@host:9/runs?password=secret", "postgresql://host:9/runs"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)
def test_credentials_are_not_shown(monkeypatch, uri, shown):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert without_credentials(uri) == shown
    with pytest.raises(PipelineError) as error, plain_errors():
        raise mlflow.MlflowException(f"request to {uri} failed: no answer")
    assert str(error.value) == f"MLflow ({shown}): request to {shown} failed: no answer"
    assert "secret" not in ui_address()


def test_credentials_of_other_addresses_are_not_shown_and_the_rest_of_a_text_is(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9?token=secret")
    page = "http://127.0.0.1:5000/#/experiments/1/runs/2?workflowType=machine_learning"
    for text, shown in [
        ("no proxy at https://me:secret@host:9, here", "no proxy at https://host:9, here"),
        ("retries exceeded with url: /api?token=secret", "retries exceeded with url: /api"),
        (f"models:/stn-mnist@champion is at {page}", f"models:/stn-mnist@champion is at {page}"),
    ]:
        assert without_credentials(text) == shown


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"])
@pytest.mark.parametrize("secret", ["secret\n", "sec\nret", "s'é\\cret"])
def test_a_password_of_the_environment_is_not_shown(monkeypatch, name, secret):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(name, secret)
    for shown in (secret, repr(secret), ascii(secret)):
        text = without_credentials(f"at http://127.0.0.1:9: invalid header: Bearer {shown}")
        assert text.startswith("at http://127.0.0.1:9: invalid header: Bearer ")
        for part in ("sec", "ret"):
            assert part not in text


def test_a_link_is_whole_although_the_password_is_a_word_of_the_address(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "mlflow")
    assert ui_address() == "http://mlflow:5000"


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:12/secret@127.0.0.1:9",
        "https://me:a?secret@127.0.0.1:9",
        "http://me:a#secret@127.0.0.1:9",
        "postgresql://me:p@secret@127.0.0.1:9/runs",
        "postgresql://me:p@ss:secret@127.0.0.1/runs",
        "postgresql+psycopg://me:p@s/secret@127.0.0.1/runs",
        "postgresql+psycopg://me:p@s?secret@127.0.0.1/runs",
    ],
)
def test_a_password_that_would_be_taken_for_the_host_is_refused(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(PipelineError, match="write @ as %40, / as %2F") as error:
        ensure_store()
    assert "secret" not in str(error.value)
    assert uri.rpartition("@")[2] in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:p%40ss%2Fword@127.0.0.1:9/path",
        "http://me:p@ss@127.0.0.1:9",  # which clients read as it is meant
        "postgresql://me@host:p%40ss@127.0.0.1:9/runs",
        "postgresql://me:pass/word?@127.0.0.1:9/runs",
        "postgresql:///runs?host=/tmp/a@b&password=a@b",
    ],
)
def test_an_address_whose_password_is_read_as_it_is_meant_is_allowed(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ensure_store()
