"""The MLflow UI in a real browser: the addresses that the commands print lead to the runs."""

import re
import sys

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.end_to_end.conftest import answer_of


def test_the_printed_addresses_show_the_runs(main_job, browser):
    checkout, done = main_job
    run_page = re.search(r"^run .* see (\S+)$", done.stdout, re.MULTILINE)[1]
    server = checkout.start(sys.executable, "-m", "pipeline", "ui")
    try:
        runs_page = re.search(r"the runs are at (\S+)", server.stdout.readline())[1]
        answer_of(server, "http://127.0.0.1:5000")

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
