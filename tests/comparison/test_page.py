"""The page as a colleague gets it: text, links and pictures in one file, which loads nothing."""

import re
from functools import partial
from html import unescape

import numpy as np
import pytest

from pipeline.comparison import report as reports
from pipeline.comparison.page import as_html, comparison_files
from pipeline.tracking.recorded import training_runs
from tests.conftest import poses_file

comparison_of = partial(reports.comparison_of, by="conv_layer", margin=0.1)


@pytest.fixture
def runs(log_run):
    """Two runs of each layer with all that a page shows."""
    matrix = 90 * np.eye(10, dtype=int) + 1
    lines = [",".join(map(str, [digit, *row])) for digit, row in enumerate(matrix)]
    for conv_layer in ("conv2d", "coordconv2d"):
        for seed in range(2):
            log_run(
                0.99 + 0.0003 * seed,
                curves={"test_accuracy": [0.9, 0.98, 0.985], "train_loss": [1.0, 0.5, 0.4]},
                files={"confusion_matrix.csv": "\n".join(["true," + "," * 9, *lines, ""])},
                conv_layer=conv_layer,
                seed=seed,
            )
    return training_runs("stn-mnist")


def test_the_page_loads_nothing_and_runs_nothing(runs):
    page = as_html(comparison_of(runs, "stn-mnist"))
    assert page.startswith("<!DOCTYPE html>")
    assert "<script" not in page
    assert "<link" not in page
    assert "url(" not in page
    sources = re.findall(r'src="(.{22})', page)
    assert sources == ["data:image/png;base64,"] * 3
    for protocol, place in re.findall(r'(\w+="|)https?://([^"]*)', page):
        assert protocol == 'href="', place


def test_the_page_links_every_run_by_its_name(runs):
    page = as_html(comparison_of(runs, "stn-mnist"))
    links = dict(re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', page))
    assert {unescape(url): name for url, name in links.items()} == {
        run.url: run.name for run in runs
    }
    assert {run.name for run in runs} >= {"conv2d seed=0", "coordconv2d seed=1"}
    assert all(run.run_id in run.url for run in runs)


def test_a_run_that_has_collapsed_is_marked_and_counted(log_run):
    collapsed = {"stn.collapsed": "epoch 2: the transformer shows nothing of the image"}
    for seed in range(3):
        log_run(0.99, conv_layer="conv2d", seed=seed)
        log_run(0.9, conv_layer="coordconv2d", seed=seed, tags=collapsed if seed == 1 else {})
    files = comparison_files(comparison_of(training_runs("stn-mnist"), "stn-mnist"))
    page, markdown = files["comparison.html"], files["comparison.md"]
    sentence = "† Collapsed: 1 of 3 runs of coordconv2d (seed 1, epoch 2: the transformer shows"
    assert sentence in page
    assert sentence in markdown
    assert "| coordconv2d | 90.00 | 90.00 † | 90.00 |" in markdown
    assert page.count("<td>90.00 †</td>") == 2  # in the table of groups and in that of runs
    assert page.count("†") == 3
    assert "epoch 2: the transformer" in files["comparison.csv"]


def test_nothing_is_said_of_collapses_where_there_are_none(runs):
    assert "†" not in as_html(comparison_of(runs, "stn-mnist"))


def test_the_page_says_what_is_missing_and_text_is_no_markup(runs):
    report = comparison_of(runs, "<b>", missing=["coordconv2d seed=3 failed: <i>"])
    page, markdown = as_html(report), comparison_files(report)["comparison.md"]
    assert "Missing: coordconv2d seed=3 failed: &lt;i&gt;" in page
    assert "Missing: coordconv2d seed=3 failed: <i>" in markdown
    assert "<b>" not in page


def test_a_run_that_holds_numbers_only_still_has_its_page(log_run):
    log_run(0.99)
    page = as_html(comparison_of(training_runs("stn-mnist"), "stn-mnist"))
    assert "conv2d only, so there is nothing to compare" in page
    assert page.count("<img") == 1
    assert "Learning curves" not in page


def test_the_page_shows_the_gallery_of_each_protocol_that_has_poses(log_run):
    for architecture in ("cnn", "stn-c0", "stn-c1"):
        poses = {"poses.npz": poses_file(60, 30, warps_image=architecture != "stn-c1")}
        files = {} if architecture == "cnn" else poses
        log_run(0.99, files=files, architecture=architecture, dataset="translated")
        log_run(0.99, architecture=architecture)
    report = comparison_of(training_runs("stn-mnist"), "stn-mnist", by="architecture")
    files = comparison_files(report)
    page = files["comparison.html"]
    first, second = page.split("<section>")[1:]
    shown = 'alt="A digit in eight poses, before and after the transformer of each architecture"'
    assert (first.count(shown), second.count(shown)) == (1, 0)
    assert len(re.findall(r'src="data:image/png;base64,[^"]{1000}', first)) == 2
    words = [
        text.get_text() for text in files["gallery.png"].findobj(lambda a: hasattr(a, "get_text"))
    ]
    assert "cnn" not in words
    for label in ("stn-c0", "stn-c1", "after the transformer"):
        assert words.count(label) == 1
    # what the transformer of a feature map does is shown on the image
    assert words.count("the image, where its\nfeature map is sampled") == 1


def test_the_verdicts_of_many_pairs_are_a_list(log_run):
    for architecture in ("cnn", "stn-c0", "stn-c1", "stn-c2"):
        for seed in range(2):
            log_run(0.99 + 0.001 * seed, architecture=architecture, seed=seed)
    report = comparison_of(training_runs("stn-mnist"), "stn-mnist", by="architecture")
    page = as_html(report)
    assert page.count('class="verdict"') == 1
    assert page.count("<li>") == 6


@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_every_picture_and_needs_no_sideways_scrolling(
    runs, browser, tmp_path, width
):
    file = tmp_path / "comparison.html"
    file.write_text(as_html(comparison_of(runs, "stn-mnist")), encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(file.as_uri())
    images = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(images) == 3
    assert min(images) > 0
    content, window = browser.execute_script(
        "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
    )
    assert content <= window
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
