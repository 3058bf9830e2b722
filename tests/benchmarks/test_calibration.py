"""What counts as a wrong verdict, on studies with known p values; and the report of a small run."""

from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.calibration import LookStatistics, Rule, judge
from benchmarks.calibration_report import report


@pytest.fixture
def few_studies(monkeypatch):
    monkeypatch.setattr(calibration, "STUDIES", 200)


def known(welch, equivalence, difference):
    """LookStatistics of as many studies as there are values, with errors of 0.01 pp."""
    ones = np.ones(len(welch))
    arrays = map(np.array, (welch, equivalence, difference))
    return LookStatistics(*arrays, 0.01 * ones, 10 * ones)


def test_a_verdict_is_wrong_by_the_true_difference(monkeypatch):
    monkeypatch.setattr(calibration, "STUDIES", 4)
    # called better, worse, equivalent, undecided
    after = {5: known([0.01, 0.01, 0.2, 0.2], [0.9, 0.9, 0.01, 0.2], [0.1, -0.1, 0.0, 0.05])}
    rule = Rule((5,), (0.05,))
    for difference, wrong in ((0.0, 2), (0.05, 1), (0.1, 2), (0.2, 2)):
        outcome = judge(after, rule, difference)
        assert outcome.wrong == wrong / 4
        assert (outcome.better, outcome.equivalent, outcome.runs) == (0.25, 0.25, 5)


def test_the_first_verdict_counts_and_ends_the_study(monkeypatch):
    monkeypatch.setattr(calibration, "STUDIES", 2)
    after = {
        5: known([0.01, 0.2], [0.9, 0.9], [0.1, 0.1]),
        10: known([0.2, 0.2], [0.01, 0.01], [0.0, 0.0]),
    }
    outcome = judge(after, Rule((5, 10), (0.05, 0.05)), 0.1)
    assert (outcome.better, outcome.equivalent, outcome.wrong) == (0.5, 0.5, 0.5)
    assert outcome.runs == 7.5
    assert judge(after, Rule((5, 10), planned=False), 0.1).runs == 7.5  # 2.5 % and 1.25 %


def test_real_runs_are_resampled_around_zero():
    for layer, studies in calibration.ACCURACIES.items():
        deviations = calibration.real_deviations(layer)
        assert deviations.mean() == pytest.approx(0, abs=1e-12)
        within = sum((len(runs) * np.var(runs, ddof=1)) for runs in studies)
        assert (deviations**2).sum() == pytest.approx(within)


@pytest.mark.usefixtures("few_studies")
def test_the_report_has_a_table_of_each_population():
    population = next(iter(calibration.POPULATIONS))
    three = calibration.THREE[0]
    text = report(
        started=datetime.now(UTC),
        studies=200,
        margin=0.1,
        pocock=calibration.pocock_level((5, 10)),
        two={population: calibration.two_layers(population)},
        three={three: calibration.three_layers(three)},
        improvement={population: calibration.improvement_coverage(population)},
    )
    assert f"## Two layers: {population}" in text
    assert "| **at most 20** |" in text
    assert "nan" not in text


def test_pococks_level_of_two_looks_is_the_published_one():
    # 2.178, table 2.1 of Jennison and Turnbull (2000)
    assert calibration.pocock_level((1, 2)) == pytest.approx(0.0294, abs=1e-4)
