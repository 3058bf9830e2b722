"""The MLflow UI in a real browser: the addresses that the commands print lead to the runs."""

import re
import shutil
import sys
import time
import urllib.request

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

chromium = shutil.which("chromium")
pytestmark = pytest.mark.skipif(chromium is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1500,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_the_printed_addresses_show_the_runs(main_job, browser):
    checkout, done = main_job
    run_page = re.search(r"^run .* see (\S+)$", done.stdout, re.MULTILINE)[1]
    server = checkout.start(sys.executable, "-m", "pipeline", "ui")
    try:
        runs_page = re.search(r"the runs are at (\S+)", server.stdout.readline())[1]
        for _ in range(120):
            try:
                urllib.request.urlopen("http://127.0.0.1:5000", timeout=5)
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.5)

        def shows(page, *texts):
            browser.get("about:blank")
            browser.get(page)
            WebDriverWait(browser, 60).until(
                lambda b: all(t in b.find_element(By.TAG_NAME, "body").text for t in texts)
            )

        shows(runs_page, "coordconv2d seed=0")
        shows(run_page, "best_test_accuracy", "coordconv2d seed=0", "optimistic")
    finally:
        server.terminate()
        server.communicate(timeout=30)
