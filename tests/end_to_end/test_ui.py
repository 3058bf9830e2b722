"""The MLflow UI in a real browser: the addresses that the commands print lead to the results."""

import re
import sys

import pytest
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from selenium.webdriver.common.by import By

from tests.end_to_end.conftest import ONE_SCREEN, answer_of, check_out_small
from tests.end_to_end.pages import show


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A short training, with the UI that `python -m pipeline ui` serves.

    The checkout, what the training printed, and the address that the UI prints.
    """
    checkout = check_out_small(tmp_path_factory.mktemp("ui"))
    done = checkout.pipeline("train", "--conv_layer", "coordconv2d", "--epochs", "1", **ONE_SCREEN)
    assert done.returncode == 0, done.stdout
    server = checkout.start(sys.executable, "-m", "pipeline", "ui")
    try:
        runs_page = re.search(r"the runs are at (\S+)", server.stdout.readline())[1]
        answer_of(server, "http://127.0.0.1:5000")
        assert server.poll() is None, "another server answers on port 5000"
        yield checkout, done.stdout, runs_page
    finally:
        server.terminate()
        server.communicate(timeout=120)


def test_the_page_of_the_run_shows_its_metrics(served, browser):
    _, output, _ = served
    page = re.search(r"^run .* see (\S+)$", output, re.MULTILINE)[1]
    show(browser, page, "best_test_accuracy", "coordconv2d seed=0", "optimistic")


def test_the_list_of_runs_opens_on_layer_seed_accuracy_and_f1(served, browser):
    checkout, output, runs_page = served
    assert re.search(r"^all runs: (\S+)$", output, re.MULTILINE)[1] == runs_page
    show(browser, runs_page, "coordconv2d seed=0", "best_test_f1")
    run_id = re.search(r"^run (\w+):", output, re.MULTILINE)[1]
    metrics = checkout.client().get_run(run_id).data.metrics
    cells = browser.find_elements(By.CSS_SELECTOR, f".ag-row[row-id='{run_id}'] [col-id]")
    assert all(cell.is_displayed() for cell in cells)  # the table renders no other columns
    shown = {cell.get_attribute("col-id"): cell.text for cell in cells}
    assert shown["params.`conv_layer`"] == "coordconv2d"
    assert shown["params.`seed`"] == "0"
    for name in ("best_test_accuracy", "best_test_f1"):
        assert float(shown[f"metrics.`{name}`"]) == pytest.approx(metrics[name], abs=1e-4)


def test_the_list_of_runs_shows_the_runs_of_a_study(served, browser):
    checkout, output, runs_page = served
    client = checkout.client()
    run_id = re.search(r"^run (\w+):", output, re.MULTILINE)[1]
    experiment_id = client.get_run(run_id).info.experiment_id
    study = client.create_run(experiment_id, run_name="a study").info.run_id
    tags = {MLFLOW_PARENT_RUN_ID: study}
    run = client.create_run(experiment_id, run_name="a run of it", tags=tags).info.run_id
    try:
        show(browser, runs_page, "a study", "a run of it", "coordconv2d seed=0")
        names = browser.find_elements(By.CSS_SELECTOR, "[col-id='attributes.`Run Name`'] a")
        names.sort(key=lambda name: name.location["y"])
        assert [name.text for name in names][:2] == ["a run of it", "a study"]  # the newest runs
    finally:
        for created in (run, study):
            client.delete_run(created)


def test_the_description_of_the_experiment_leads_to_charts(served, browser):
    _, _, runs_page = served
    show(browser, runs_page, "does CoordConv inside the localization network help?")
    charts = browser.find_element(By.LINK_TEXT, "charts").get_attribute("href")
    show(browser, charts, "test_accuracy", "test_loss", "train_loss", "Parallel Coordinates")
