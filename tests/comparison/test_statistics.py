"""Every statistic against an independent reference: enumeration, simulation or arithmetic."""

import json
import math
from dataclasses import asdict
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison import pairs as comparison_pairs
from pipeline.comparison.statistics import (
    equivalence_test,
    holm,
    improvement_interval,
    mann_whitney_test,
    mcnemar,
    summarize,
)
from pipeline.comparison.verdict import verdict

# with the margin of most tests
compare_all = partial(comparison_pairs.compare_all, margin=0.1)
compare_pair = partial(comparison_pairs.compare_pair, margin=0.1)

pytestmark = pytest.mark.filterwarnings("error")

# the predecessor's ten runs
CONV = [99.02, 99.05, 99.08, 99.02, 99.09]
COORD = [99.18, 99.02, 98.97, 98.99, 99.13]
# of different sizes and without ties
FIVE = [99.01, 99.05, 99.10, 99.13, 99.22]
FOUR = [99.08, 99.15, 99.26, 99.31]
SIMULATIONS = 20_000


def sample(mean, deviation, count):
    """Values of exactly this mean and sample standard deviation (but for rounding)."""
    values = np.linspace(-1, 1, count)
    return list(mean + deviation * values / values.std(ddof=1))


def double_loop(first, second):
    beats = sum((b > a) + 0.5 * (b == a) for a in first for b in second)
    return beats / (len(first) * len(second))


def simulated(count, deviations, difference, seed=1):
    rng = np.random.default_rng(seed)
    first = rng.normal(99, deviations[0], (SIMULATIONS, count))
    second = rng.normal(99 + difference, deviations[1], (SIMULATIONS, count))
    return first, second


def test_the_published_runs_have_the_published_means_and_deviations():
    conv, coord = summarize(CONV), summarize(COORD)
    assert f"{conv.mean:.2f} ({conv.deviation:.2f})" == "99.05 (0.03)"
    assert f"{coord.mean:.2f} ({coord.deviation:.2f})" == "99.06 (0.09)"
    assert (conv.count, conv.best, coord.best) == (5, 99.09, 99.18)


def test_the_interval_of_a_mean_is_the_textbook_one():
    conv = summarize(CONV)
    mean = math.fsum(CONV) / 5
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in CONV) / 4)
    half = 2.7764451 * deviation / math.sqrt(5)  # the table's t for 4 degrees of freedom, 97.5 %
    assert (conv.low, conv.high) == pytest.approx((mean - half, mean + half), abs=1e-7)


def test_the_interval_of_a_mean_goes_no_further_than_percentages_do():
    # of these three, 49.5 ± 61.7 by the textbook
    coord = summarize([74.86, 48.44, 25.26])
    assert (coord.low, coord.high) == (0.0, 100.0)
    assert summarize([150.0, 100.0, 50.0], math.inf).high > 200  # degrees


def test_one_run_has_no_deviation_and_equal_runs_have_none_to_judge_by():
    one = summarize([99.1])
    assert (one.mean, one.best, one.deviation, one.low, one.high) == (99.1, 99.1, None, None, None)
    equal = summarize([99.05] * 3)
    assert (equal.deviation, equal.low, equal.high) == (0.0, None, None)


@pytest.mark.parametrize("values", [[], [99.0, math.nan], [math.inf]])
def test_missing_values_are_refused(values):
    with pytest.raises(ValueError, match="at least one value and only finite ones"):
        summarize(values)
    with pytest.raises(ValueError, match="at least one value and only finite ones"):
        compare_pair(CONV, values)


def test_welch_by_its_formula():
    pair = compare_pair(FIVE, FOUR)
    difference = sum(FOUR) / 4 - sum(FIVE) / 5
    a, b = np.var(FIVE, ddof=1) / 5, np.var(FOUR, ddof=1) / 4
    error = math.sqrt(a + b)
    t = stats.t((a + b) ** 2 / (a**2 / 4 + b**2 / 3))
    assert pair.difference == pytest.approx(difference)
    assert pair.welch_p == pytest.approx(2 * t.sf(abs(difference) / error))
    assert (pair.low, pair.high) == pytest.approx(
        (difference - t.ppf(0.975) * error, difference + t.ppf(0.975) * error)
    )
    assert (pair.equivalence_low, pair.equivalence_high) == pytest.approx(
        (difference - t.ppf(0.95) * error, difference + t.ppf(0.95) * error)
    )
    # of the two one-sided tests, the one against the margin on the difference's own side decides
    assert pair.equivalence_p == pytest.approx(t.cdf((difference - 0.1) / error))


@pytest.mark.parametrize("margin", [0.05, 0.2, 0.22, 0.23, 0.3])
def test_equivalence_agrees_with_its_interval(margin):
    pair = compare_pair(FIVE, FOUR, margin=margin)
    inside = -margin < pair.equivalence_low and pair.equivalence_high < margin
    assert (pair.equivalence_p < 0.05) == inside
    assert inside == (margin > 0.225)  # both outcomes occur


@pytest.mark.parametrize("difference", [0.1, -0.1])
def test_a_difference_of_the_margin_passes_for_equivalent_in_5_percent(difference):
    first, second = simulated(20, (0.05, 0.1), difference)
    share = np.mean(equivalence_test(first, second, 0.1) < 0.05)
    assert share == pytest.approx(0.05, abs=0.006)  # four standard errors of the simulation


def test_mann_whitney_by_all_permutations():
    values = FIVE + FOUR

    def distance(places):
        chosen = [values[i] for i in places]
        others = [values[i] for i in range(9) if i not in places]
        return abs(double_loop(others, chosen) - 0.5)

    observed = distance(range(5, 9))
    distances = [distance(places) for places in combinations(range(9), 4)]
    expected = np.mean([d >= observed - 1e-12 for d in distances])
    assert compare_pair(FIVE, FOUR).mann_whitney_p == pytest.approx(expected)


def test_mann_whitney_with_ties_by_the_corrected_normal_approximation():
    u = 25 * double_loop(CONV, COORD)
    tied = 3**3 - 3  # 99.02, three times
    deviation = math.sqrt(25 / 12 * (11 - tied / (10 * 9)))
    z = (abs(u - 12.5) - 0.5) / deviation
    assert compare_pair(CONV, COORD).mann_whitney_p == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_hedges_g_by_hand():
    # means 2 and 4, variances 1 and 4, pooled (2 * 1 + 2 * 4) / 4 = 2.5; for 4 degrees of freedom
    # the correction is gamma(2) / (sqrt(2) gamma(1.5)) = sqrt(2 / pi)
    expected = 2 / math.sqrt(2.5) * math.sqrt(2 / math.pi)
    assert compare_pair([1, 2, 3], [2, 4, 6]).hedges_g == pytest.approx(expected)


@pytest.mark.parametrize(("first", "second"), [(FIVE, FOUR), (CONV, COORD), ([1, 1, 2], [1, 2])])
def test_improvement_by_double_loop(first, second):
    assert compare_pair(first, second).improvement == pytest.approx(double_loop(first, second))
    swapped, _ = mann_whitney_test(np.array(second), np.array(first))
    assert swapped == pytest.approx(1 - double_loop(first, second))


def test_the_interval_of_the_improvement_is_wilsons_of_the_smaller_group():
    for successes, trials, other in ((0, 3, 5), (2, 8, 8), (5, 5, 4 + 1), (9, 12, 20)):
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        for counts in ((trials, other), (other, trials)):
            assert improvement_interval(successes / trials, *counts) == pytest.approx(
                (expected.low, expected.high), abs=1e-12
            )
    assert improvement_interval(0.5, 2, 9) == (None, None)


def test_the_interval_of_the_improvement_does_not_collapse():
    pair = compare_pair([99.0, 99.1, 99.2], [99.3, 99.4, 99.5])
    assert (pair.improvement, pair.improvement_high) == (1.0, 1.0)
    assert pair.improvement_low < 0.5  # three runs a side show nothing yet
    pair = compare_pair([99.0, 99.1], [99.3, 99.4])
    assert (pair.improvement_low, pair.improvement_high) == (None, None)


@pytest.mark.parametrize("deviations", [(0.1, 0.1), (0.06, 0.13)])
@pytest.mark.parametrize(("count", "difference"), [(3, 0), (5, 0.1), (12, 0.05), (12, 0.2)])
def test_the_interval_of_the_improvement_holds_what_it_says(deviations, count, difference):
    first, second = simulated(count, deviations, difference)
    truth = stats.norm.cdf(difference / math.hypot(*deviations))
    possible = np.arange(count**2 + 1) / count**2
    bounds = np.array([improvement_interval(float(p), count, count) for p in possible])
    improvement, _ = mann_whitney_test(first, second)
    found = np.rint(improvement * count**2).astype(int)
    assert np.mean((bounds[found, 0] <= truth) & (truth <= bounds[found, 1])) > 0.95


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("deviations", [(0.1, 0.1), (0.03, 0.09)])
def test_the_planned_runs_and_no_fewer_succeed_in_four_of_five_cases(deviations, pairs):
    pair = compare_pair(*(sample(99, deviation, 5) for deviation in deviations), pairs=pairs)

    def found(count):
        first, second = simulated(count, deviations, 0.1)
        return np.mean(stats.ttest_ind(first, second, axis=1, equal_var=False)[1] < 0.05 / pairs)

    def shown(count):
        first, second = simulated(count, deviations, 0)
        return np.mean(equivalence_test(first, second, 0.1) < 0.05 / pairs)

    noise = 0.01  # more than three standard errors of the simulation
    assert found(pair.runs_needed) > 0.8 - noise
    assert found(pair.runs_needed - 1) < 0.8 + noise
    assert shown(pair.runs_needed_equivalence) > 0.8 - noise
    assert shown(pair.runs_needed_equivalence - 1) < 0.8 + noise


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("difference", [0.06, -0.2])
def test_the_runs_for_the_difference_seen_find_one_as_large_in_four_of_five_cases(
    difference, pairs
):
    pair = compare_pair(sample(99, 0.1, 4), sample(99 + difference, 0.2, 4), pairs=pairs)

    def found(count):
        first, second = simulated(count, (0.1, 0.2), difference)
        return np.mean(stats.ttest_ind(first, second, axis=1, equal_var=False)[1] < 0.05 / pairs)

    noise = 0.01  # more than three standard errors of the simulation
    assert found(pair.runs_needed_as_seen) > 0.8 - noise
    assert found(pair.runs_needed_as_seen - 1) < 0.8 + noise


def test_no_number_of_runs_finds_a_difference_that_is_not_there():
    assert compare_pair(sample(99, 0.1, 4), sample(99, 0.2, 4)).runs_needed_as_seen is None


def test_planning_copes_with_runs_that_scatter_hardly_or_hugely():
    hardly = compare_pair([99, 99 + 1e-8], [99, 99])
    assert (hardly.runs_needed, hardly.runs_needed_equivalence) == (2, 2)
    barely = compare_pair([99, 99 + 1e-9], [99, 99], margin=50)
    assert (barely.runs_needed, barely.runs_needed_equivalence) == (2, 2)
    hugely = compare_pair([0, 100], [100, 0])
    # for large groups the normal distribution holds: 2 (z + z')² (deviation / margin)²
    scale = 2 * (100 / math.sqrt(2) / 0.1) ** 2
    assert hugely.runs_needed == pytest.approx(scale * (1.959964 + 0.841621) ** 2, rel=1e-5)
    expected = scale * (1.644854 + 1.281552) ** 2
    assert hugely.runs_needed_equivalence == pytest.approx(expected, rel=1e-5)


def test_holm_by_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)
    many = holm([[0.01, 0.04], [0.3, 0.04]])
    assert many == pytest.approx(np.array([[0.02, 0.04], [0.3, 0.08]]))


def test_every_pair_in_order_with_holm_over_all():
    groups = {"a": FIVE, "alone": [99.0], "b": FOUR, "c": CONV}
    pairs = compare_all(groups)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    raw = [compare_pair(FIVE, FOUR), compare_pair(FIVE, CONV), compare_pair(FOUR, CONV)]
    assert [pair.welch_p for pair in pairs] == [pair.welch_p for pair in raw]
    assert [pair.welch_p_holm for pair in pairs] == list(holm([pair.welch_p for pair in raw]))
    expected = holm([pair.equivalence_p for pair in raw])
    assert [pair.equivalence_p_holm for pair in pairs] == list(expected)
    assert pairs[0].welch_p_holm > pairs[0].welch_p


def test_a_single_pair_needs_no_correction():
    (pair,) = compare_all({"a": FIVE, "b": FOUR}, margin=0.2)
    assert (pair.welch_p_holm, pair.equivalence_p_holm) == (pair.welch_p, pair.equivalence_p)
    assert pair == compare_pair(FIVE, FOUR, margin=0.2, names=("a", "b"))
    assert compare_all({"a": FIVE, "b": [99.0]}) == []


def test_pairs_that_cannot_be_tested_do_not_count_for_holm():
    pairs = compare_all({"a": [99.0] * 3, "b": [99.1] * 3, "c": FIVE})
    assert [pair.welch_p_holm for pair in pairs] == [
        None,
        *holm([pairs[1].welch_p, pairs[2].welch_p]),
    ]


def test_one_group_without_spread_is_judged_by_the_other():
    pair = compare_pair([99.05] * 4, CONV)
    expected = stats.ttest_1samp(CONV, 99.05)
    assert pair.welch_p == pytest.approx(expected.pvalue)
    assert (pair.low, pair.high) == pytest.approx(
        tuple(bound - 99.05 for bound in expected.confidence_interval())
    )


def test_no_spread_at_all_leaves_only_what_needs_none():
    pair = compare_pair([99.0] * 3, [99.1] * 4)
    assert (pair.difference, pair.improvement) == (pytest.approx(0.1), 1.0)
    assert 0 < pair.mann_whitney_p < 0.1
    assert {name for name, value in asdict(pair).items() if value is not None} == {
        *("first", "second", "first_count", "second_count", "pairs", "margin"),
        *("difference", "improvement", "improvement_low", "improvement_high", "mann_whitney_p"),
    }
    same = compare_pair([99.0] * 3, [99.0] * 3)
    assert (same.difference, same.improvement, same.mann_whitney_p) == (0.0, 0.5, 1.0)


def test_rounding_of_the_last_bit_breaks_no_tie():
    pair = compare_pair([100 * 0.58, 58.0], [58.0, 100 * 0.58])
    assert 100 * 0.58 != 58.0
    assert (pair.improvement, pair.welch_p) == (0.5, None)


@pytest.mark.parametrize("groups", [(CONV, COORD), ([99.0], [99.1, 99.2]), ([99, 99], [99, 99])])
def test_results_are_plain_data(groups):
    results = [
        asdict(compare_pair(*groups)),
        asdict(summarize(groups[0])),
        asdict(mcnemar(np.array([True, False]), np.array([False, False]))),
    ]
    kinds = {type(value) for result in results for value in result.values()}
    assert kinds <= {str, int, float, type(None)}
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def judged(first, second, margin=0.1, noun="layer"):
    (pair,) = compare_all({"conv2d": first, "coordconv2d": second}, margin=margin)
    return verdict(pair, noun=noun)


def test_the_verdict_on_the_published_runs():
    assert judged(CONV, COORD) == (
        "conv2d and coordconv2d are equivalent within ±0.10 pp "
        "(difference +0.01 pp, 90 % CI −0.08 to +0.09)"
    )


def test_the_verdict_equivalent_and_yet_different():
    # the error is 0.1 sqrt(2 / 40) = 0.02236, t for 78 degrees of freedom and 90 % is 1.6646
    assert judged(sample(99, 0.1, 40), sample(98.95, 0.1, 40)) == (
        "conv2d and coordconv2d are equivalent within ±0.10 pp "
        "(difference −0.05 pp, 90 % CI −0.09 to −0.01); "
        "the difference is real, but smaller than the margin"
    )


def test_the_verdict_names_the_better_one_first():
    # the error is 0.1 sqrt(2 / 10) = 0.04472, t for 18 degrees of freedom and 95 % is 2.1009
    low, high = sample(99, 0.1, 10), sample(99.15, 0.1, 10)
    says = "is better than {} by 0.15 pp (95 % CI 0.06 to 0.24)"
    assert judged(low, high) == f"coordconv2d {says.format('conv2d')}"
    assert judged(high, low) == f"conv2d {says.format('coordconv2d')}"


def test_the_verdict_undecided_says_both_numbers_of_runs_and_the_smaller_one_first():
    first, second = sample(99, 0.1, 5), sample(98.999, 0.1, 6)
    pair = compare_pair(first, second)
    more = pair.runs_needed_equivalence - 5
    assert more > 0
    # the error is 0.1 sqrt(1 / 5 + 1 / 6) = 0.06055, t for 8.7 degrees of freedom and 95 % is 2.27
    assert judged(first, second, noun="group") == (
        "undecided between conv2d and coordconv2d "
        "(difference +0.00 pp, 95 % CI −0.14 to +0.14): "
        f"about {more} more runs per group would show equivalence within ±0.10 pp if there is no "
        "difference, over 10,000 more would show a difference as large as the one seen "
        "(each with power 0.8)"
    )


def test_the_verdict_undecided_with_a_large_noisy_difference_leads_with_few_runs():
    first, second = sample(95, 2, 3), sample(97.2, 2, 3)
    pair = compare_pair(first, second)
    assert 3 < pair.runs_needed_as_seen < 20 < 5000 < pair.runs_needed_equivalence
    words = judged(first, second).split("): ")[1]
    assert words == (
        f"about {pair.runs_needed_as_seen - 3} more runs per layer would show a difference as "
        f"large as the one seen, about {pair.runs_needed_equivalence - 3:,} more would show "
        "equivalence within ±0.10 pp if there is no difference (each with power 0.8)"
    )


def test_the_verdict_undecided_by_one_run():
    first, second = sample(99, 0.1, 17), sample(99.055, 0.1, 17)
    assert compare_pair(first, second).runs_needed_equivalence == 18
    assert "about 1 more run per layer would show equivalence" in judged(first, second)


def test_the_verdict_undecided_with_enough_runs_for_equivalence_names_the_other_number_only():
    first, second = sample(99, 0.1, 20), sample(98.944, 0.1, 20)
    pair = compare_pair(first, second)
    assert pair.runs_needed_equivalence <= 20
    assert judged(first, second) == (
        "undecided between conv2d and coordconv2d "
        "(difference −0.06 pp, 95 % CI −0.12 to +0.01): "
        f"about {pair.runs_needed_as_seen - 20} more runs per layer would show a difference as "
        "large as the one seen (with power 0.8)"
    )


def test_the_verdict_says_when_only_holm_forbids_it():
    groups = {"a": sample(99, 0.1, 10), "b": sample(99.1, 0.1, 10), "c": sample(99.05, 0.1, 10)}
    pair = compare_all(groups)[0]
    assert pair.welch_p < 0.05 < pair.welch_p_holm
    assert verdict(pair, noun="layer").startswith(
        "undecided between a and b after Holm's correction for 3 pairs (difference +0.10 pp"
    )


def test_the_verdict_repeats_the_margin_exactly():
    assert "equivalent within ±0.125 pp" in judged(CONV, COORD, margin=0.125)


def test_no_verdict_without_runs_or_spread():
    single = compare_pair([99.0], CONV, names=("conv2d", "coordconv2d"))
    assert verdict(single, noun="layer") == (
        "no verdict on conv2d and coordconv2d is possible: fewer than two runs of conv2d"
    )
    assert judged([99.0] * 3, [99.1] * 3) == (
        "no verdict on conv2d and coordconv2d is possible: all runs of a layer have the same "
        "accuracy, so the variation between runs is unknown"
    )


def test_mcnemar_by_summed_binomials():
    first = np.array([True] * 90 + [True] * 7 + [False] * 2 + [False])
    second = np.array([True] * 90 + [False] * 7 + [True] * 2 + [False])
    result = mcnemar(first, second)
    expected = 2 * sum(math.comb(9, k) for k in range(3)) / 2**9
    assert (result.only_first, result.only_second) == (7, 2)
    assert result.p == pytest.approx(expected)
    assert mcnemar(second, first).p == pytest.approx(expected)


def test_mcnemar_of_models_that_never_disagree():
    correct = np.array([True, False, True])
    assert asdict(mcnemar(correct, correct)) == {"only_first": 0, "only_second": 0, "p": 1.0}


def test_mcnemar_refuses_different_images():
    with pytest.raises(ValueError, match=r"the same images, got \(2,\) and \(1,\)"):
        mcnemar(np.array([True, False]), np.array([True]))
