"""On real SQLite stores, with runs logged as `run.py` logs them."""

import csv
import io
import json

import mlflow
import pytest

from pipeline import tracking
from pipeline.compare import compare_runs
from pipeline.errors import PipelineError
from pipeline.params import protocol_label, resolve

# the predecessor's ten runs, in percent
PUBLISHED = {
    "conv2d": [99.02, 99.05, 99.08, 99.02, 99.09],
    "coordconv2d": [99.18, 99.02, 98.97, 98.99, 99.13],
}


def log_run(accuracy, error=None, **given):
    params = resolve({key: str(value) for key, value in given.items()})
    tags = {
        "stn.protocol": protocol_label(params),
        "stn.selection": params.selection,
        "stn.data_digest": "d",
    }
    try:
        with tracking.open_run(
            "run", "", params=params.model_dump(exclude_none=True), tags=tags
        ) as run:
            if error:
                raise error
            run.log_metrics(
                {
                    "best_test_accuracy": accuracy,
                    "best_test_f1": accuracy - 0.001,
                    "best_test_loss": 0.03,
                    "best_epoch": 2,
                }
            )
    except (ValueError, KeyboardInterrupt):
        pass


def artifact(comparison, name):
    return mlflow.artifacts.load_text(f"runs:/{comparison.run_id}/{name}")


@pytest.fixture
def published(store):
    for conv_layer, accuracies in PUBLISHED.items():
        for seed, accuracy in enumerate(accuracies):
            log_run(accuracy / 100, conv_layer=conv_layer, seed=seed)


@pytest.mark.usefixtures("published")
def test_the_published_runs_give_the_published_table():
    done = compare_runs(None)
    lines = done.markdown.splitlines()
    assert "| layer | run #1 | run #2 | run #3 | run #4 | run #5 | accuracy [%] | F1 [%] |" in lines
    runs = "| 99.02 | 99.05 | 99.08 | 99.02 | 99.09 |"
    assert f"| conv2d {runs} 99.05 (0.03) | 98.95 (0.03) |" in lines
    runs = "| 99.18 | 99.02 | 98.97 | 98.99 | 99.13 |"
    assert f"| coordconv2d {runs} 99.06 (0.09) | 98.96 (0.09) |" in lines
    assert "selected on the test set, so the numbers are optimistic" in done.markdown
    assert artifact(done, "comparison.md") == done.markdown
    rows = list(csv.DictReader(io.StringIO(artifact(done, "comparison.csv"))))
    assert [float(row["accuracy"]) for row in rows[:5]] == pytest.approx(
        [a / 100 for a in PUBLISHED["conv2d"]]
    )
    data = json.loads(artifact(done, "comparison.json"))
    assert [r["seed"] for r in data["protocols"][0]["layers"]["conv2d"]] == [0, 1, 2, 3, 4]
    assert "comparison.png" in {a.path for a in mlflow.MlflowClient().list_artifacts(done.run_id)}


@pytest.mark.usefixtures("published")
def test_failed_and_unfinished_runs_are_left_out_and_counted():
    log_run(0.5, error=ValueError("no"), seed=7)
    log_run(0.5, error=KeyboardInterrupt(), seed=8)
    mlflow.MlflowClient().create_run(
        mlflow.get_experiment_by_name("stn-mnist").experiment_id, tags={"stn.protocol": "x"}
    )
    done = compare_runs(None)
    assert "Left out of stn-mnist: 1 failed, 1 killed, 1 running." in done.markdown
    assert "99.05 (0.03)" in done.markdown
    mlflow.MlflowClient().set_terminated(
        mlflow.search_runs(filter_string="status = 'RUNNING'", search_all_experiments=True)[
            "run_id"
        ][0]
    )


@pytest.mark.usefixtures("published")
def test_a_finished_run_without_results_or_of_another_age_is_left_out_and_counted():
    for params in ({}, {"conv_layer": "conv9d"}):
        with tracking.open_run("odd", "", params=params, tags={"stn.protocol": "x"}):
            pass
    markdown = compare_runs(None).markdown
    assert "1 finished without results, 1 with unknown parameters" in markdown
    assert "99.05 (0.03)" in markdown


@pytest.mark.usefixtures("published")
def test_protocols_are_never_mixed():
    log_run(0.97, epochs=3)
    log_run(0.96, validation_size=10_000)
    markdown = compare_runs(None).markdown
    assert "99.05 (0.03)" in markdown
    assert "**replication epochs=3**" in markdown
    assert "| conv2d | 97.00 | 97.00 (–) | 96.90 (–) |" in markdown
    assert "selected on 10,000 validation images" in markdown


def test_a_seed_spelled_or_run_twice_is_one_sample_and_the_newest_counts(store):
    log_run(0.90, seed=1, lr="0.01")
    log_run(0.92, seed=1, lr="1e-2")
    log_run(0.94, seed=2, threads=1)
    markdown = compare_runs(None).markdown
    assert "| conv2d | 92.00 | 94.00 | 93.00 (1.41) |" in markdown
    assert "1 repeated with the same seed" in markdown


def test_presets_that_changed_under_one_name_are_told_apart(store, tmp_path):
    preset = tmp_path / "mine.yaml"
    for epochs in (3, 4):
        preset.write_text(f"epochs: {epochs}")
        log_run(0.9, preset=preset)
    markdown = compare_runs(None).markdown
    assert "**mine**" in markdown
    assert "**mine (epochs=4, " in markdown


@pytest.mark.parametrize("experiment", [None, "nowhere"])
def test_without_runs_one_line_says_so_and_no_run_is_opened(store, experiment):
    with pytest.raises(PipelineError, match="there is no experiment"):
        compare_runs(experiment)
    log_run(0.5, error=ValueError("no"))
    with pytest.raises(PipelineError, match=r"no finished training run.*\(1 failed\)"):
        compare_runs(None)
    assert len(mlflow.search_runs(search_all_experiments=True)) == 1
