"""Studies with several looks, on an executor that trains nothing."""

import json
import re
from dataclasses import asdict

import mlflow
import pytest

from pipeline.comparison import command
from pipeline.comparison.command import compare_runs
from pipeline.comparison.files import as_json, as_markdown
from pipeline.comparison.sequential import decide
from pipeline.errors import PipelineError
from pipeline.study import conclusion, study
from pipeline.study.plan import resolve_study
from pipeline.study.study import run_study
from pipeline.tracking.recorded import artifact_bytes, parent_of_study, training_runs
from tests.study.instant import Instant

PLAN = {"until": "decided", "runs": "6", "epochs": "1"}  # looks at 3, 4, 5 and 6 runs
NOISE = [0.0002, -0.0009, 0.0004, 0.0007, -0.0003, -0.0001]


@pytest.fixture(autouse=True)
def quick(store, monkeypatch):
    """Neither MNIST is read nor a figure drawn."""

    def texts(report):
        return {"comparison.md": as_markdown(report), "comparison.json": as_json(report)}

    monkeypatch.setattr(study.mnist, "load_mnist", lambda folder: None)
    for module in (conclusion, command):
        monkeypatch.setattr(module, "comparison_files", texts)


def apart(difference):
    """Accuracies of two layers with this difference of their means; the noise is the same."""

    def accuracy(params):
        noise = NOISE[params.seed % len(NOISE)]
        return 0.98 + (difference + noise if params.conv_layer == "coordconv2d" else -noise)

    return accuracy


def parent_of(plan):
    return parent_of_study("stn-mnist", plan.id)


def pairs_of(plan):
    """The decisions that the comparison of a study has stored."""
    text = artifact_bytes(parent_of(plan).run_id, "comparison.json")
    protocols = json.loads(text)["protocols"]
    return [pair["decision"] for protocol in protocols for pair in protocol["pairs"]]


def verdict_in(markdown):
    (verdict,) = re.findall(r"\*\*Verdict: (.*)\.\*\*", markdown)
    return verdict


def look_lines(output):
    return [line for line in output.splitlines() if line.startswith("look ")]


def test_a_study_whose_runs_all_fail_says_why_and_compares_nothing():
    with pytest.raises(PipelineError, match="conv2d seed=0 failed: out of memory; coord"):
        run_study(resolve_study({"runs": "1", "epochs": "1"}), Instant(fails=(0,)))
    runs = training_runs("stn-mnist")
    assert {run.status for run in runs} == {"FAILED"}
    parent = parent_of_study("stn-mnist", runs[0].study)
    assert artifact_bytes(parent.run_id, "comparison.md") is None


def test_a_study_stops_at_the_look_at_which_the_layers_differ(capsys):
    plan = resolve_study(PLAN)
    done = run_study(plan, Instant(apart(0.0024)))
    output = capsys.readouterr().out
    assert output.startswith(
        "plan: looks at 3, 4, 5 and 6 runs of each layer, until every pair has its verdict; levels "
    )
    assert look_lines(output) == [
        "look 1 of 4, with 3 runs of each layer: conv2d and coordconv2d are undecided",
        "look 2 of 4, with 4 runs of each layer: coordconv2d is better than conv2d by 0.26 pp",
    ]
    assert "runs: 6 to be started\n" in output
    assert "runs: 6 finished before, 2 to be started\n" in output
    assert done.stopped == (
        "stopped at look 2 of 4, with 4 runs of each layer: every pair has its verdict"
    )
    assert "decided at look 2, with 4 runs per layer" in verdict_in(done.markdown)
    assert len(training_runs("stn-mnist", plan.id)) == 8
    parent = parent_of(plan)
    assert json.loads(parent.tags["stn.design"]) == {
        "looks": [3, 4, 5, 6],
        "margin": 0.1,
        "alpha": 0.05,
        "planned": True,
    }
    assert parent.tags["stn.progress"].startswith("8/8 runs, ")
    assert parent.runs_finished == 8
    note = parent.tags["mlflow.note.content"]
    assert "Study of at most 12 runs" in note
    assert "The study stopped at look 2 of 4" in note
    assert "stn.looks" not in parent.tags


def test_a_study_stops_at_the_look_at_which_the_layers_are_equivalent(capsys):
    plan = resolve_study({**PLAN, "margin": "0.4"})
    done = run_study(plan, Instant(apart(0)))
    assert "are equivalent within ±0.40 pp" in look_lines(capsys.readouterr().out)[-1]
    assert "equivalent within ±0.40 pp" in verdict_in(done.markdown)
    assert done.stopped.endswith("every pair has its verdict")
    assert len(training_runs("stn-mnist", plan.id)) < 12


def test_a_study_that_stays_undecided_ends_with_the_runs_that_were_planned(capsys):
    plan = resolve_study({**PLAN, "first_seed": "6"})
    done = run_study(plan, Instant(apart(0.0005)))
    assert [line.partition(":")[0] for line in look_lines(capsys.readouterr().out)] == [
        f"look {look} of 4, with {look + 2} runs of each layer" for look in (1, 2, 3, 4)
    ]
    assert done.stopped == (
        "stopped at look 4 of 4, with 6 runs of each layer: no more runs are planned, with 1 of 1 "
        "pairs undecided; to go on, plan a study with unseen seeds, such as first_seed=12"
    )
    assert "undecided between conv2d and coordconv2d after 4 of 4 looks" in done.markdown


@pytest.mark.parametrize("stops_after", [4, 6, 7])
def test_a_study_that_is_interrupted_goes_on_within_its_plan(capsys, stops_after):
    """Six runs are the first round, and the second one has two more."""
    plan = resolve_study(PLAN)
    interrupted = Instant(apart(0.0024), stops_after=stops_after)
    with pytest.raises(KeyboardInterrupt):
        run_study(plan, interrupted)
    parent = parent_of(plan)
    assert parent.status == "KILLED"
    assert len(look_lines(capsys.readouterr().out)) == (1 if stops_after >= 6 else 0)

    rest = Instant(apart(0.0024))
    done = run_study(plan, rest)
    assert done.run_id == parent.run_id
    assert [line.partition(",")[0] for line in look_lines(capsys.readouterr().out)] == [
        "look 1 of 4",
        "look 2 of 4",
    ]
    trained = interrupted.trained[:stops_after] + rest.trained
    assert sorted(trained) == sorted(plan.name_of(params) for params in plan.rounds[1])

    accuracies = {
        layer: [100 * apart(0.0024)(run) for run in plan.rounds[1] if run.conv_layer == layer]
        for layer in ("conv2d", "coordconv2d")
    }
    (undisturbed,) = decide(plan.design, accuracies)
    assert pairs_of(plan) == [pytest.approx(asdict(undisturbed))]
    assert undisturbed.outcome == "different"


def test_a_study_that_has_stopped_repeats_its_verdict_and_trains_nothing(capsys):
    plan = resolve_study(PLAN)
    before = run_study(plan, Instant(apart(0.0024)))
    decisions = pairs_of(plan)
    capsys.readouterr()
    idle = Instant(apart(0.0024))
    again = run_study(plan, idle)
    assert idle.trained == []
    assert len(look_lines(capsys.readouterr().out)) == 1
    assert (again.stopped, verdict_in(again.markdown)) == (
        before.stopped,
        verdict_in(before.markdown),
    )
    assert pairs_of(plan) == decisions


def test_a_look_is_taken_when_the_run_that_failed_has_been_repeated(capsys):
    plan = resolve_study(PLAN)
    with pytest.raises(PipelineError, match=r"^2 of 8 runs failed.*repeats them.*seed=3 failed"):
        run_study(plan, Instant(apart(0.0024), fails=(3,)))
    assert len(look_lines(capsys.readouterr().out)) == 1
    (decision,) = pairs_of(plan)
    assert (decision["look"], decision["outcome"]) == (1, "undecided")
    assert parent_of(plan).status == "FAILED"

    repeated = Instant(apart(0.0024))
    done = run_study(plan, repeated)
    assert repeated.trained == ["conv2d seed=3", "coordconv2d seed=3"]
    assert done.stopped.startswith("stopped at look 2 of 4")


def test_a_study_goes_on_until_every_pair_of_every_protocol_is_decided(capsys):
    def accuracy(params):
        return apart(0.01 if params.lr == 0.1 else 0.0024)(params)

    plan = resolve_study({**PLAN, "lr": "0.1,0.2"})
    run_study(plan, Instant(accuracy))
    first, second = look_lines(capsys.readouterr().out)
    better = "coordconv2d is better than conv2d by"
    label = "replication epochs=1 lr="
    assert first == (
        f"look 1 of 4, with 3 runs of each layer: {label}0.1: {better} 0.98 pp; {label}0.2: conv2d "
        "and coordconv2d are undecided"
    )
    assert second == (
        f"look 2 of 4, with 4 runs of each layer: {label}0.1: {better} 0.98 pp (look 1); "
        f"{label}0.2: {better} 0.26 pp"
    )


def test_the_command_compare_judges_a_study_by_its_plan():
    plan = resolve_study(PLAN)
    done = run_study(plan, Instant(apart(0.0024)))
    compared = compare_runs(None, study=plan.id[:6])
    assert verdict_in(compared.markdown) == verdict_in(done.markdown)
    assert "Looks were planned at 3, 4, 5 and 6 runs of each layer" in compared.markdown
    assert "Missing" not in compared.markdown
    everything = compare_runs(None).markdown
    assert f"Missing: the looks at study {plan.id}, which these verdicts" in everything
    with pytest.raises(PipelineError, match=r"^margin: got 0.2: the plan .* margin of 0.10 pp"):
        compare_runs(None, study=plan.id, margin=0.2)


def test_the_margin_of_a_plan_goes_before_the_default_of_compare():
    plan = resolve_study({**PLAN, "margin": "0.4"})
    done = run_study(plan, Instant(apart(0)))
    compared = compare_runs(None, study=plan.id)
    assert verdict_in(compared.markdown) == verdict_in(done.markdown)
    assert mlflow.get_run(compared.run_id).data.params["margin"] == "0.4"


FIXED = {"epochs": "1"}


def fixed(**given):
    """A study of fixed size, as it ends, and its looks."""
    plan = resolve_study({**FIXED, **given})
    done = run_study(plan, Instant(apart(0.0015)))
    return done, parent_of(plan).looks


def test_a_study_of_fixed_size_that_is_extended_counts_as_two_looks():
    first, looks = fixed(runs="3")
    assert looks == [{0, 1, 2}]
    assert (first.stopped, "look" in first.markdown) == ("", False)

    again, looks = fixed(runs="3")
    assert looks == [{0, 1, 2}]
    assert verdict_in(again.markdown) == verdict_in(first.markdown)

    extended, looks = fixed(runs="5")
    assert looks == [{0, 1, 2}, {0, 1, 2, 3, 4}]
    assert extended.run_id == first.run_id
    assert "adjusted for 2 looks" in verdict_in(extended.markdown)
    assert "its looks at 3 and 5 runs of each layer share the error of 5 %" in extended.markdown

    compared = compare_runs(None, study=resolve_study(FIXED).id)
    assert verdict_in(compared.markdown) == verdict_in(extended.markdown)


def test_the_first_look_of_an_extended_study_keeps_its_runs():
    """The seeds 3 to 5 show nothing at the first look; 0 to 2, which are added, would at once."""

    def accuracy(params):
        better = 0.01 if params.conv_layer == "coordconv2d" and params.seed < 3 else 0
        return 0.9 + 0.002 * (params.seed % 3) + better

    plan = resolve_study({**FIXED, "runs": "3", "first_seed": "3"})
    assert "undecided" in verdict_in(run_study(plan, Instant(accuracy)).markdown)
    extended = run_study(resolve_study({**FIXED, "runs": "6"}), Instant(accuracy))
    (decision,) = pairs_of(plan)
    assert decision["look"] == 2
    compared = compare_runs(None, study=plan.id)
    assert verdict_in(compared.markdown) == verdict_in(extended.markdown)


def test_a_study_is_compared_by_what_varies_in_it():
    for given in ({"architecture": "cnn,stn-c0"}, {"lr": "0.1,0.2"}):
        plan = resolve_study({**FIXED, "runs": "3", "conv_layer": "conv2d", **given})
        done = run_study(plan, Instant(lambda params: 0.9 + 0.001 * params.seed + params.lr / 10))
        compared = compare_runs(None, study=plan.id)
        assert verdict_in(compared.markdown) == verdict_in(done.markdown)
        assert mlflow.get_run(compared.run_id).data.params["by"] == next(iter(given))


def test_fewer_runs_than_at_the_last_look_repeat_its_comparison():
    fixed(runs="3")
    extended, before = fixed(runs="5")
    for fewer in ("3", "4"):
        done, looks = fixed(runs=fewer)
        assert looks == before
        assert done.markdown == extended.markdown


def test_runs_with_other_seeds_are_no_extension():
    fixed(runs="3")
    fresh, looks = fixed(runs="4", first_seed="100")
    assert looks == [{0, 1, 2}, {100, 101, 102, 103}]
    assert "look" not in fresh.markdown
    overlapping, looks = fixed(runs="4", first_seed="2")
    assert looks[2] == {0, 1, 2, 3, 4, 5}
    assert "adjusted for 2 looks" in verdict_in(overlapping.markdown)


def test_one_run_of_each_layer_is_no_look():
    _, looks = fixed(runs="1")
    assert looks == []
    done, looks = fixed(runs="3")
    assert looks == [{0, 1, 2}]
    assert "look" not in done.markdown


def test_runs_that_failed_and_are_repeated_are_no_further_look():
    plan = resolve_study({**FIXED, "runs": "4"})
    with pytest.raises(PipelineError, match="2 of 8 runs failed"):
        run_study(plan, Instant(apart(0.0015), fails=(3,)))
    assert parent_of(plan).looks == [{0, 1, 2, 3}]
    done, looks = fixed(runs="4")
    assert looks == [{0, 1, 2, 3}]
    assert "look" not in done.markdown
