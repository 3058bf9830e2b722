"""A study and what comes after it, on a tracking server; the slow tests do the main job there."""

import re
import sys
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from tests.end_to_end.conftest import ONE_SCREEN, check_out_small, last_line, store_of
from tests.end_to_end.pages import show, wait_for, wait_for_links
from tests.end_to_end.studies import runs_of

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A checkout whose store is a server, and what a study by `mlflow run` printed there."""
    checkout = check_out_small(tmp_path_factory.mktemp("client"))
    options = ("-P", "runs=1", "-P", "iterations=5")
    with store_of(checkout, "server") as client:
        done = client.mlflow_run(
            "-e", "study", "--experiment-name", "stn-mnist", *options, **ONE_SCREEN
        )
        assert done.returncode == 0, done.stdout
        yield client, done.stdout


def test_a_study_needs_nothing_but_the_address_of_the_server(studied, tmp_path):
    client, screen = studied
    parent, nested = runs_of(client)
    assert nested.keys() == {"conv2d seed=0", "coordconv2d seed=0"}
    assert {run.info.status for run in (parent, *nested.values())} == {"FINISHED"}
    assert f"see {client.server}/#/experiments/" in last_line(screen)
    assert not list(client.folder.glob("mlflow.db*"))
    assert not (client.folder / "mlruns").exists()
    assert not list((client.folder / "checkpoints").glob("*.pt"))
    run = nested["conv2d seed=0"]
    names = {file.path for file in client.client().list_artifacts(run.info.run_id)}
    assert "confusion_matrix.png" in names

    picture = client.client().download_artifacts(run.info.run_id, "confusion_matrix.png", tmp_path)
    answer = client.run(sys.executable, "-m", "pipeline", "predict", picture, **ONE_SCREEN)
    assert re.search(r": \d \(\d+\.\d%\)$", answer.stdout), answer.stdout


def test_the_list_of_runs_on_the_server_shows_the_study_and_its_runs(studied, browser):
    client, screen = studied
    page = re.search(r"^all runs: (\S+)$", screen, re.MULTILINE)[1]
    assert urlsplit(page).netloc == urlsplit(client.server).netloc
    parent, nested = runs_of(client)
    show(browser, page, "best_test_accuracy", "best_test_f1")
    wait_for_links(browser, parent.info.run_name, *nested)


def test_the_server_shows_the_parent_run_its_charts_and_the_comparison(studied, browser):
    client, screen = studied
    parent, nested = runs_of(client)
    page = re.search(r"see (\S+)$", last_line(screen))[1]
    show(browser, page, parent.info.run_name, "runs_finished", "The best models:")
    wait_for_links(browser, *nested)
    address, query = page.split("?")
    show(browser, f"{address}/model-metrics?{query}", "runs_finished", "best_test_accuracy")
    browser.get("about:blank")
    browser.get(f"{address}/artifacts/comparison.html?{query}")
    frame = expected_conditions.frame_to_be_available_and_switch_to_it((By.TAG_NAME, "iframe"))
    WebDriverWait(browser, 90).until(frame)
    try:
        wait_for(browser, "runs compared by conv_layer", "Verdict:")
        accuracy = nested["conv2d seed=0"].data.metrics["best_test_accuracy"]
        row = browser.find_element(By.XPATH, "//tr[th='conv2d' or td='conv2d']")
        assert f"{accuracy:.2%}"[:-1] in row.text
    finally:
        browser.switch_to.default_content()


def test_the_server_shows_the_registered_model_with_its_aliases(studied, browser):
    client, _ = studied
    show(
        browser,
        f"{client.server}/#/models/stn-mnist",
        "Version 2",
        "@ champion",
        "@ best-conv2d",
        "@ best-coordconv2d",
    )
