"""A study with several looks in its report: tables, JSON and page."""

import json

import pytest

from pipeline.comparison.page import comparison_files
from pipeline.comparison.report import comparison_of
from pipeline.comparison.sequential import Design
from pipeline.tracking.recorded import training_runs


@pytest.fixture
def runs(log_run):
    """Five runs of each layer, far apart, and the last of them the other way round."""
    for seed, accuracies in enumerate(
        [(0.98, 0.99), (0.981, 0.9912), (0.9805, 0.9908), (0.9809, 0.9904), (0.999, 0.95)]
    ):
        for conv_layer, accuracy in zip(("conv2d", "coordconv2d"), accuracies, strict=True):
            log_run(accuracy, conv_layer=conv_layer, seed=seed)
    return training_runs("stn-mnist")


def row(markdown, title):
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {title} |")]
    return line.removeprefix(f"| {title} | ").removesuffix(" |")


def test_a_report_shows_the_looks_and_the_adjusted_values_beside_the_unadjusted_ones(runs):
    design = Design((2, 4, 5), margin=0.25)
    files = comparison_files(
        comparison_of(runs, "stn-mnist", by="conv_layer", margin=0.1, design=design)
    )
    markdown, page = files["comparison.md"], files["comparison.html"]
    assert row(markdown, "look (of 3)") == "2 (4 runs of each): verdict"
    assert row(markdown, "difference of means [pp]") == "−0.18"  # of all runs
    assert row(markdown, "difference of means at this look [pp]") == "+1.00"
    low, _, high = row(markdown, "95 % CI (Welch), adjusted for 3 looks").partition(" to ")
    assert 0 < float(low) < 1 < float(high)
    assert "equivalence within ±0.25 pp (TOST), p" in markdown
    assert "**Verdict: coordconv2d is better than conv2d by 1.00 pp (95 % CI " in markdown
    assert "decided at look 2, with 4 runs per layer).**" in markdown
    plan = "Looks were planned at 2, 4 and 5 runs of each layer; 3 of 3 have been taken."
    for text in (plan, "Welch's t test, p adjusted for 3 looks", "decided at look 2"):
        assert text in markdown
        assert text.replace("'", "&#39;") in page
    content = json.loads(json.dumps(files["comparison.json"]))
    assert content["design"] == {"looks": [2, 4, 5], "margin": 0.25, "alpha": 0.05, "planned": True}
    decision = content["protocols"][0]["pairs"][0]["decision"]
    assert (decision["outcome"], decision["look"], decision["runs"]) == ("different", 2, 4)
    assert decision["welch_p"] < decision["welch_p_adjusted"] < 0.05


def test_other_designs_of_the_same_runs(runs):
    def markdown(design):
        return comparison_files(
            comparison_of(runs, "stn-mnist", by="conv_layer", margin=0.1, design=design)
        )["comparison.md"]

    extended = markdown(Design((3, 5), margin=0.25, planned=False))
    assert (
        "This study was extended after a look at its result, so its looks at 3 and 5 runs of each "
        "layer share the error of 5 %: their levels are 2.5, 1.25 %."
    ) in extended
    assert row(extended, "look (of 2)") == "1 (3 runs of each): verdict"

    early = markdown(Design((6, 8), margin=0.25))
    assert row(early, "look (of 2)") == "–"
    assert "0 of 2 have been taken" in early
    assert "Verdict: no verdict on conv2d and coordconv2d yet: the first look is at 6" in early

    without = markdown(None)
    assert "look" not in without
    assert "adjusted" not in without
