"""`mlflow run` of a project in another folder, which is gone afterwards, as MLflow's clone of a Git
address is: everything that was logged lies beside the caller's store."""

import shutil
import sys

import pytest
from selenium.webdriver.common.utils import free_port

from tests.end_to_end.conftest import Checkout, answer_of, check_out_small

QUICK = ["-P", "iterations=5", "--env-manager", "local"]


@pytest.fixture(scope="module")
def caller(tmp_path_factory) -> Checkout:
    """A folder with a store, after a study of one run, of a project that has been deleted."""
    project = check_out_small(tmp_path_factory.mktemp("project"))
    caller = Checkout(tmp_path_factory.mktemp("caller"), project.environment)
    study = ["-e", "study", "-P", "runs=1", "-P", "conv_layer=conv2d"]
    done = caller.run("mlflow", "run", str(project.folder), *study, *QUICK)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in project.folder.iterdir()} == {
        *("MLproject", "conda.yaml", "params", "pipeline", "data")
    }
    shutil.rmtree(project.folder)
    return caller


def test_everything_lies_beside_the_store(caller):
    names = {path.name for path in caller.folder.iterdir()} - {
        "mlflow.db.lock",
        "mlflow.db.reserve",
    }
    assert names == {"mlflow.db", "mlruns", "checkpoints"}
    assert caller.statuses() == ["FINISHED"] * 3  # MLflow's, which points to the study, and its run


def test_evaluate_and_compare_go_on_elsewhere(caller, small_checkout):
    small_checkout.environment["MLFLOW_TRACKING_URI"] = caller.uri
    for command in ("evaluate", "compare"):
        done = small_checkout.pipeline(command)
        assert done.returncode == 0, done.stderr
    assert not (small_checkout.folder / "mlruns").exists()


def test_the_ui_shows_the_artifacts(caller, tmp_path):
    (run,) = caller.client().search_runs(["1"], "tags.`stn.protocol` != ''")
    port = free_port()
    server = Checkout(tmp_path, caller.environment).start(
        *(sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", caller.uri),
        *("--port", str(port), "--workers", "1"),
    )
    try:
        artifact = f"get-artifact?path=params.yaml&run_uuid={run.info.run_id}"
        content = answer_of(server, f"http://127.0.0.1:{port}/{artifact}")
        assert b"conv_layer: conv2d" in content
    finally:
        server.terminate()
        server.communicate(timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("has_a_store", [True, False])
def test_a_relative_store_is_refused_where_mlflow_run_does_not_find_its_run(
    empty_store, checkout, tmp_path, has_a_store
):
    if has_a_store:  # of trainings in the project's own folder
        shutil.copy(empty_store, checkout.folder)
    relative = {**checkout.environment, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    (tmp_path / "caller").mkdir()
    caller = Checkout(tmp_path / "caller", relative)
    done = caller.run("mlflow", "run", str(checkout.folder), *QUICK)
    assert done.returncode != 0
    assert "Error: MLFLOW_TRACKING_URI: got sqlite:///mlflow.db, which lacks the run" in done.stderr
    assert caller.statuses() == ["FAILED"]
    assert (checkout.folder / "mlflow.db").exists() == has_a_store
