"""Boundaries against published values and multivariate normal integration; errors by simulation."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison.boundaries import nominal_levels
from pipeline.comparison.pairs import compare_all, compare_pair
from pipeline.comparison.sequential import (
    Design,
    decide,
    looks_taken,
    planned_looks,
    unplanned_design,
    verdicts,
)
from pipeline.comparison.verdict import short_verdict, verdict_by_design

LOOKS = (5, 8, 12, 16, 20)
DESIGN = Design(LOOKS, margin=0.1)
SIMULATIONS = 40_000


def test_the_boundaries_of_five_equal_steps_are_the_published_ones():
    """Two-sided 5 %, as by the program ld98 (Reboussin et al. 2000, Controlled Clinical Trials)."""
    levels = nominal_levels((4, 8, 12, 16, 20), 0.025)
    expected = [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]
    assert stats.norm.isf(levels) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("looks", [LOOKS, (3, 4, 5, 6), (18, 19, 20), (10, 20), (7,)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_boundaries_are_crossed_with_the_error_that_may_be_spent(looks, alpha):
    times = np.array(looks) / looks[-1]
    covariance = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    upper = stats.norm.isf(nominal_levels(looks, alpha))
    for count in range(1, len(looks) + 1):
        spent = 2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(times[count - 1]))
        below = stats.multivariate_normal.cdf(
            upper[:count],
            cov=covariance[:count, :count],
            maxpts=100_000,
            rng=np.random.default_rng(0),
        )
        assert 1 - below == pytest.approx(spent, abs=3e-5)


def test_planned_looks_spend_nine_tenths_of_alpha_and_leave_the_rest_for_the_approximation():
    for look, level in enumerate(nominal_levels(LOOKS, 0.045)):
        assert DESIGN.equivalence_level(look) == level
    for look, level in enumerate(nominal_levels(LOOKS, 0.0225)):
        assert DESIGN.level(look) == 2 * level
    assert Design((5,), margin=0.1).level(0) == pytest.approx(0.045)


def test_unplanned_looks_spend_half_of_what_is_left():
    design = Design((5, 10, 30), margin=0.1, planned=False)
    assert [design.level(look) for look in range(3)] == [0.025, 0.0125, 0.00625]
    assert [design.equivalence_level(look) for look in range(3)] == [0.025, 0.0125, 0.00625]
    assert design.adjusted(np.array([0.03, 0.01, 0.01])) == pytest.approx([0.06, 0.04, 0.04])


@pytest.mark.parametrize("planned", [True, False])
def test_an_adjusted_p_is_the_smallest_alpha_that_rejects(planned):
    design = replace(DESIGN, planned=planned)
    for alpha in (1e-4, 0.01, 0.05 / 3, 0.05, 0.3):
        other = replace(design, alpha=alpha)
        for look in range(5):
            p = np.ones(5)
            p[look] = other.level(look)
            assert design.adjusted(p)[look:] == pytest.approx(alpha, rel=1e-5)
            p[look] = other.equivalence_level(look)
            assert design.adjusted_one_sided(p)[look:] == pytest.approx(alpha, rel=1e-5)
            assert (design.adjusted_one_sided(p)[:look] == 1).all()


def test_adjusted_p_of_all_sizes_are_probabilities_in_the_order_of_the_raw_ones():
    p = np.concatenate([[0, 1e-300, 1e-30], np.linspace(1e-9, 1, 500)])
    for look in range(5):
        raw = np.ones((len(p), look + 1))
        raw[:, look] = p
        adjusted = DESIGN.adjusted(raw)[:, look]
        assert ((adjusted >= p) & (adjusted <= 1)).all()
        assert (np.diff(adjusted) >= 0).all()


def test_statistics_of_normal_runs_cross_as_often_as_may_be_spent():
    """With a known deviation, for which the levels are exact: both tests, over all looks."""
    rng = np.random.default_rng(0)
    sums = rng.normal(size=(SIMULATIONS, LOOKS[-1])).cumsum(axis=1)[:, np.array(LOOKS) - 1]
    z = sums / np.sqrt(LOOKS)
    two_sided = (DESIGN.adjusted(2 * stats.norm.sf(abs(z)))[:, -1] < 0.05).mean()
    one_sided = (DESIGN.adjusted_one_sided(stats.norm.sf(z))[:, -1] < 0.05).mean()
    assert [two_sided, one_sided] == pytest.approx([0.045, 0.045], abs=0.0042)  # 4 standard errors


def test_looks_are_given_for_every_size():
    assert planned_looks(20) == LOOKS
    assert planned_looks(30) == (8, 12, 18, 24, 30)
    for most in range(2, 200):
        looks = planned_looks(most)
        assert looks[-1] == most
        assert Design(looks, margin=0.1).looks == looks
        assert looks[0] >= min(3, most)
    with pytest.raises(ValueError, match="at least 2 runs of each group, got 1"):
        planned_looks(1)


def test_looks_at_a_study_of_fixed_size_count_each_once():
    assert unplanned_design([], 5, 0.1) is None
    assert unplanned_design([5], 5, 0.1) is None
    assert unplanned_design([5], 10, 0.2) == Design((5, 10), margin=0.2, planned=False)
    assert unplanned_design([5, 10], 8, 0.2).looks == (5, 8, 10)


@pytest.mark.parametrize("looks", [(), (1, 5), (5, 5), (8, 5)])
def test_looks_that_are_none_are_refused(looks):
    with pytest.raises(ValueError, match="increasing numbers of runs from 2 on"):
        Design(looks, margin=0.1)


@pytest.mark.parametrize(("name", "value"), [("margin", 0.0), ("alpha", 0.0), ("alpha", 0.6)])
def test_a_margin_or_an_error_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        Design((5, 10), **{"margin": 0.1, name: value})


@pytest.mark.parametrize("design", [DESIGN, Design((5, 10), margin=0.125, planned=False)])
def test_a_design_survives_as_text(design):
    assert Design.from_json(design.to_json()) == design
    assert "\n" not in design.to_json()
    json.loads(design.to_json())


@pytest.mark.parametrize("text", ["", "3", '"x"', "{}", '{"looks": [5]}', '{"looks": 5, "q": 1}'])
def test_a_text_that_is_no_design_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own message or ours
        Design.from_json(text)


def sample(mean, deviation, count):
    """Values in a fixed irregular order around a mean."""
    values = np.random.default_rng(3).permutation(np.linspace(-1, 1, count))
    return list(mean + deviation * values)


def test_a_large_difference_is_decided_early_and_no_later_look_changes_that():
    first, second = sample(99, 0.1, 20), sample(99.2, 0.1, 20)
    by_count = {
        count: decide(DESIGN, {"a": first[:count], "b": second[:count]}) for count in (4, 5, 8, 20)
    }
    assert by_count[4] == []
    (early,), (at_8,), (late,) = (by_count[count] for count in (5, 8, 20))
    assert (early.outcome, early.look, early.runs) == ("undecided", 1, 5)
    assert (at_8.outcome, at_8.look, at_8.runs) == ("different", 2, 8)
    assert late == at_8
    # runs that come after the verdict, and would contradict it
    assert decide(DESIGN, {"a": first, "b": second[:8] + [98.0] * 12}) == [at_8]


def test_the_numbers_of_a_decision_are_those_of_its_look():
    first, second = sample(99, 0.2, 20), sample(99.08, 0.2, 20)
    groups = {"a": first[:16], "b": second[:17]}
    assert looks_taken(DESIGN, groups) == 4
    (decision,) = decide(DESIGN, groups)
    assert (decision.outcome, decision.look, decision.runs) == ("undecided", 4, 16)
    pair = compare_pair(first[:16], second[:16], margin=DESIGN.margin)
    for name in ("difference", "low", "high", "welch_p", "equivalence_p", "equivalence_low"):
        assert getattr(decision, name) == pytest.approx(getattr(pair, name))
    result = stats.ttest_ind(second[:16], first[:16], equal_var=False)
    adjusted = result.confidence_interval(1 - DESIGN.level(3))
    assert (decision.low_adjusted, decision.high_adjusted) == pytest.approx(tuple(adjusted))
    adjusted = result.confidence_interval(1 - 2 * DESIGN.equivalence_level(3))
    assert decision.equivalence_low_adjusted == pytest.approx(adjusted.low)
    assert decision.welch_p < decision.welch_p_adjusted == decision.welch_p_holm
    assert json.loads(json.dumps(asdict(decision))) == asdict(decision)


def test_groups_can_be_equivalent_and_yet_different():
    # not random: which of the two is shown first would depend on the seed
    first, second = [98.995, 99.005] * 10, [99.045, 99.055] * 10
    (decision,) = decide(DESIGN, {"a": first, "b": second})
    assert decision.outcome == "both"
    (wide,) = decide(replace(DESIGN, margin=0.04), {"a": first, "b": second})
    assert wide.outcome == "different"


def test_groups_without_any_spread_stay_undecided():
    (decision,) = decide(DESIGN, {"a": [99.0] * 20, "b": [99.1] * 20})
    assert (decision.outcome, decision.look) == ("undecided", 5)
    assert (decision.low, decision.high_adjusted) == (None, None)
    one_spread = decide(DESIGN, {"a": [99.0] * 20, "b": sample(99.5, 0.1, 20)})
    assert one_spread[0].outcome == "different"


def test_several_pairs_are_corrected_by_holm():
    groups = {"a": sample(99, 0.1, 20), "b": sample(99.3, 0.1, 20), "c": sample(99.31, 0.1, 20)}
    decisions = {(d.first, d.second): d for d in decide(DESIGN, groups)}
    assert list(decisions) == [("a", "b"), ("a", "c"), ("b", "c")]
    (alone,) = decide(DESIGN, {"b": groups["b"], "c": groups["c"]})
    assert alone.equivalence_p_holm == pytest.approx(alone.equivalence_p_adjusted)
    last = decisions["b", "c"]
    # the pair has the smallest p of the three, which is multiplied by all of them
    assert last.equivalence_p_holm == pytest.approx(3 * last.equivalence_p_adjusted)


def test_verdicts_of_many_studies_are_those_of_each():
    rng = np.random.default_rng(5)
    welch, equivalence = rng.beta(0.3, 2, size=(2, 50, 3, 5))
    together = verdicts(DESIGN, welch, equivalence)
    assert set(together.look.flat) == {0, 1, 2, 3, 4} or together.look.max() <= 4
    for study in range(50):
        alone = verdicts(DESIGN, welch[study], equivalence[study])
        for one, many in zip(alone, together, strict=True):
            assert (one == many[study]).all()


def test_three_groups_without_a_difference_are_called_different_in_at_most_5_percent():
    rng = np.random.default_rng(2)
    runs = rng.normal(99, 0.1, (SIMULATIONS // 4, 3, LOOKS[-1]))
    welch = np.stack(
        [
            np.stack(
                [
                    stats.ttest_ind(runs[:, i, :n], runs[:, j, :n], axis=1, equal_var=False).pvalue
                    for n in LOOKS
                ],
                axis=-1,
            )
            for i, j in ((0, 1), (0, 2), (1, 2))
        ],
        axis=1,
    )
    reached = verdicts(DESIGN, welch, np.ones_like(welch))
    assert reached.different.any(axis=1).mean() < 0.05 + 0.009  # 4 standard errors


def sentence(design, first, second):
    groups = {"conv2d": first, "coordconv2d": second}
    (pair,) = compare_all(groups, margin=design.margin)
    decision = next(iter(decide(design, groups)), None)
    return verdict_by_design(pair, decision, design, noun="layer")


def test_a_verdict_names_its_look_and_the_adjusted_interval():
    first, second = sample(99, 0.1, 12), sample(99.2, 0.1, 12)
    result = stats.ttest_ind(first[:8], second[:8], equal_var=False)
    low, high = result.confidence_interval(1 - DESIGN.level(1))
    assert sentence(DESIGN, first, second) == (
        f"coordconv2d is better than conv2d by {np.mean(second[:8]) - np.mean(first[:8]):.2f} pp "
        f"(95 % CI {-high:.2f} to {-low:.2f}, adjusted for 5 looks; "
        "decided at look 2, with 8 runs per layer)"
    )


def test_a_verdict_in_a_few_words_names_the_better_layer_first():
    groups = {"conv2d": sample(99.2, 0.1, 12), "coordconv2d": sample(99, 0.1, 12)}
    (pair,) = compare_all(groups, margin=DESIGN.margin)
    (decision,) = decide(DESIGN, groups)
    words = f"conv2d is better than coordconv2d by {-decision.difference:.2f} pp"
    assert short_verdict(pair, decision, look=2) == words
    assert short_verdict(pair, decision, look=3) == f"{words} (look 2)"


def test_a_verdict_of_equivalence_names_its_look():
    words = sentence(DESIGN, sample(99, 0.05, 20), sample(99.001, 0.05, 20))
    assert words.startswith(
        "conv2d and coordconv2d are equivalent within ±0.10 pp (difference +0.00 pp, 90 % CI −0.0"
    )
    assert ", adjusted for 5 looks; decided at look " in words


def test_an_undecided_pair_waits_for_the_next_look_and_after_the_last_for_a_new_study():
    first, second = sample(99, 0.2, 20), sample(99.08, 0.2, 20)
    before = sentence(DESIGN, first[:3], second)
    assert before == (
        "no verdict on conv2d and coordconv2d yet: the first look is at 5 runs per layer"
    )
    waiting = sentence(DESIGN, first[:8], second[:8])
    assert waiting.startswith(
        "undecided between conv2d and coordconv2d after 2 of 5 looks, with 8 runs per layer (diff"
    )
    assert waiting.endswith(", adjusted for 5 looks): the next look is at 12 runs per layer")
    last = sentence(DESIGN, first, second)
    assert " after 5 of 5 looks, with 20 runs per layer (" in last
    assert "): in a new study, about " in last
    extended = Design((5, 10), margin=0.1, planned=False)
    last = sentence(extended, first[:10], second[:10])
    assert " after 2 of 2 looks, with 10 runs per layer (" in last
    assert "adjusted for 2 looks): in a new study, about " in last


def test_a_pair_without_spread_says_so():
    words = sentence(DESIGN, [99.0] * 5, [99.1] * 5)
    assert "all runs of a layer have the same accuracy" in words
