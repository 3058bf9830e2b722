"""On real SQLite stores, with runs logged as `training/run.py` logs them."""

import csv
import io
import json
import math
import os
import subprocess
import sys

import mlflow
import numpy as np
import pytest

from pipeline.comparison.command import compare_runs
from pipeline.data.datasets import DATASETS
from pipeline.errors import PipelineError
from pipeline.tracking.runs import open_run
from tests.conftest import PROJECT, poses_file

# the predecessor's ten runs, in percent
PUBLISHED = {
    "conv2d": [99.02, 99.05, 99.08, 99.02, 99.09],
    "coordconv2d": [99.18, 99.02, 98.97, 98.99, 99.13],
}


def artifact(comparison, name):
    return mlflow.artifacts.load_text(f"runs:/{comparison.run_id}/{name}")


def number_of_runs():
    return len(mlflow.search_runs(search_all_experiments=True))


@pytest.fixture
def published(log_run):
    for conv_layer, accuracies in PUBLISHED.items():
        for seed, accuracy in enumerate(accuracies):
            log_run(accuracy / 100, conv_layer=conv_layer, seed=seed)


@pytest.mark.usefixtures("published")
def test_the_published_runs_give_the_published_table_and_a_verdict():
    done = compare_runs(None)
    lines = done.markdown.splitlines()
    runs = "| layer | run #1 | run #2 | run #3 | run #4 | run #5 |"
    assert f"{runs} accuracy [%] | F1 [%] | 95 % CI | best | last epoch [%] |" in lines
    runs = "| 99.02 | 99.05 | 99.08 | 99.02 | 99.09 |"
    summary = "99.05 (0.03) | 98.95 (0.03) | 99.01 to 99.09 | 99.09 | – |"
    assert f"| conv2d {runs} {summary}" in lines
    runs = "| 99.18 | 99.02 | 98.97 | 98.99 | 99.13 |"
    summary = "99.06 (0.09) | 98.96 (0.09) | 98.94 to 99.17 | 99.18 | – |"
    assert f"| coordconv2d {runs} {summary}" in lines
    assert "selected on the test set, so the numbers are optimistic" in done.markdown
    assert "| difference of means [pp] | +0.01 |" in lines
    assert "| equivalence within ±0.10 pp (TOST), p | 0.042 |" in lines
    assert (
        "**Verdict: conv2d and coordconv2d are equivalent within ±0.10 pp "
        "(difference +0.01 pp, 90 % CI −0.08 to +0.09).**"
    ) in lines


@pytest.mark.usefixtures("published")
def test_the_comparison_is_a_run_that_holds_its_files_and_what_was_asked():
    done = compare_runs(None)
    stored = mlflow.get_run(done.run_id)
    assert stored.data.params == {"by": "conv_layer", "margin": "0.1"}
    assert done.markdown.rstrip() in stored.data.tags["mlflow.note.content"]
    assert artifact(done, "comparison.md") == done.markdown
    rows = list(csv.DictReader(io.StringIO(artifact(done, "comparison.csv"))))
    assert [float(row["accuracy"]) for row in rows[:5]] == pytest.approx(
        [a / 100 for a in PUBLISHED["conv2d"]]
    )
    (protocol,) = json.loads(artifact(done, "comparison.json"))["protocols"]
    assert [run["seed"] for run in protocol["groups"][0]["runs"]] == [0, 1, 2, 3, 4]
    assert protocol["pairs"][0]["pair"]["welch_p"] == pytest.approx(0.896, abs=1e-3)
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(done.run_id)}
    assert files == {f"comparison.{ending}" for ending in ("md", "csv", "json", "png", "html")}


@pytest.mark.usefixtures("published")
def test_a_smaller_margin_changes_the_verdict():
    markdown = compare_runs(None, margin=0.05).markdown
    assert "**Verdict: undecided between conv2d and coordconv2d" in markdown
    assert "equivalence within ±0.05 pp" in markdown


@pytest.mark.usefixtures("published")
def test_failed_and_unfinished_runs_are_left_out_and_counted(log_run):
    log_run(error=ValueError("no"), seed=7)
    log_run(error=KeyboardInterrupt(), seed=8)
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
        with open_run("odd", "", params=params, tags={"stn.protocol": "x"}):
            pass
    markdown = compare_runs(None).markdown
    assert "1 finished without results, 1 with unknown parameters" in markdown
    assert "99.05 (0.03)" in markdown


@pytest.mark.usefixtures("published")
def test_protocols_are_never_mixed(log_run):
    log_run(0.97, epochs=3)
    log_run(0.96, validation_size=10_000)
    markdown = compare_runs(None).markdown
    assert "99.05 (0.03)" in markdown
    assert "**replication epochs=3**" in markdown
    assert "| conv2d | 97.00 | 97.00 (–) | 96.90 (–) |" in markdown
    assert "there are runs of conv2d only, so there is nothing to compare" in markdown
    assert "selected on 10,000 validation images" in markdown


def test_a_comparison_by_the_size_of_the_validation_mixes_no_selections(log_run):
    for size in (0, 5_000, 10_000):
        log_run(0.96, validation_size=size)
    markdown = compare_runs(None, by="validation_size").markdown
    assert "selected on the test set" in markdown
    assert "selected on held-out validation images" in markdown
    assert "no verdict on validation_size=5000 and validation_size=10000" in markdown
    assert "and validation_size=0" not in markdown


def test_a_seed_spelled_or_run_twice_is_one_sample_and_the_newest_counts(log_run):
    log_run(0.90, seed=1, lr="0.01")
    log_run(0.92, seed=1, lr="1e-2")
    log_run(0.94, seed=2, threads=1)
    markdown = compare_runs(None).markdown
    assert "| conv2d | 92.00 | 94.00 | 93.00 (1.41) |" in markdown
    assert "1 repeated with the same seed" in markdown


def test_presets_that_changed_under_one_name_are_told_apart(log_run, tmp_path):
    preset = tmp_path / "mine.yaml"
    for epochs in (3, 4):
        preset.write_text(f"epochs: {epochs}")
        log_run(0.9, preset=preset)
    markdown = compare_runs(None).markdown
    assert "**mine**" in markdown
    assert "**mine (epochs=4, " in markdown


def test_another_parameter_and_three_groups_are_corrected_by_holm(log_run):
    for n, padding_mode in enumerate(("border", "zeros", "reflection")):
        for seed in range(3):
            log_run(0.98 + 0.002 * n + 0.0001 * seed, padding_mode=padding_mode, seed=seed)
    log_run(0.97, conv_layer="coordconv2d")
    markdown = compare_runs(None, by="padding_mode").markdown
    assert "**replication conv2d**" in markdown
    assert "**replication coordconv2d**" in markdown
    assert "| padding_mode=border | 98.00 | 98.01 | 98.02 |" in markdown
    better = "Verdict: padding_mode=reflection is better than padding_mode=border by 0.40 pp"
    assert better in markdown
    assert "Holm's correction for 3 pairs" in markdown
    welch = next(line for line in markdown.splitlines() if line.startswith("| Welch's t"))
    assert welch == "| Welch's t test, p | < 0.001 (< 0.001) | < 0.001 (< 0.001) |" + (
        " < 0.001 (< 0.001) |"
    )


def test_many_groups_of_several_parameters_get_a_row_for_each_pair(log_run):
    for padding_mode in ("border", "zeros"):
        for conv_layer in ("conv2d", "coordconv2d"):
            for seed in range(2):
                accuracy = 0.99 + 0.0001 * seed
                log_run(accuracy, padding_mode=padding_mode, conv_layer=conv_layer, seed=seed)
    markdown = compare_runs(None, by="conv_layer, padding_mode").markdown
    verdicts = markdown.split("**Verdicts:**\n\n")[1].split("\n\n")[0].splitlines()
    assert len(verdicts) == 6
    assert all(line.startswith("- ") for line in verdicts)
    assert "Verdict:" not in markdown
    pair = "conv2d padding_mode=zeros − conv2d padding_mode=border"
    assert f"\n| {pair} | +0.00 | " in markdown


def test_architectures_stand_in_the_familys_order_and_speak_for_themselves(log_run):
    for architecture in ("stn-sl1", "stn-c0", "cnn", "stn-dl1"):
        log_run(0.98, architecture=architecture)
        log_run(0.97, architecture=architecture, seed=1)
    log_run(0.96, architecture="stn-sl1", conv_layer="coordconv2d")
    markdown = compare_runs(None, by="architecture").markdown
    table, another = [part.split("\n\n")[1].splitlines() for part in markdown.split("**rep")[1:]]
    assert table[0].startswith("| architecture | run #1 |")
    names = [line.split(" | ")[0] for line in table[2:]]
    assert names == ["| cnn", "| stn-c0", "| stn-dl1", "| stn-sl1"]
    assert len(another) == 3  # the other layer is another protocol
    markdown = compare_runs(None, by="architecture,conv_layer").markdown
    assert "| stn-sl1 conv2d | 98.00 |" in markdown
    assert "| stn-sl1 coordconv2d | 96.00 |" in markdown
    assert markdown.startswith("**replication**")
    assert "| group | run #1 |" in markdown


def test_numbers_are_sorted_as_numbers(log_run):
    for epochs in (10, 9, 30):
        log_run(0.98, epochs=epochs)
    lines = compare_runs(None, by="epochs").markdown.splitlines()
    names = [line.split(" | ")[0] for line in lines if line.startswith("| epochs=")]
    assert names == ["| epochs=9", "| epochs=10", "| epochs=30"]


def test_many_pairs_of_single_runs_have_one_verdict_and_no_statistics(log_run):
    for architecture in ("cnn", "stn-c0", "stn-c1", "stn-c2", "stn-dl1"):
        log_run(0.98, architecture=architecture)
    markdown = compare_runs(None, by="architecture").markdown
    words = "Verdict: none is possible with fewer than two runs of each architecture."
    assert markdown.count("erdict") == 1
    assert f"**{words}**" in markdown
    assert "Welch" not in markdown
    # two of the five twice: a single pair has a verdict
    for architecture in ("cnn", "stn-c0"):
        log_run(0.981, architecture=architecture, seed=1)
    markdown = compare_runs(None, by="architecture").markdown
    assert "**Verdict: undecided between cnn and stn-c0 " in markdown
    assert (
        "**Verdict: no verdict on a pair with stn-c1 or stn-c2 or stn-dl1 is possible: "
        "fewer than two runs.**" in markdown
    )
    assert "Welch" in markdown


def test_the_tests_of_many_best_runs_are_a_table(log_run):
    for wrong, architecture in enumerate(("cnn", "stn-c0", "stn-c1", "stn-c2")):
        lines = [f"1,{2 if image < wrong else 1}" for image in range(50)]
        log_run(
            1 - wrong / 50,
            files={"predictions.csv": "\n".join(["label,predicted", *lines, ""])},
            architecture=architecture,
            seed=wrong,
        )
    done = compare_runs(None, by="architecture")
    lines = done.markdown.splitlines()
    assert "| cnn (seed 0) and stn-c2 (seed 3) | 3 | 0 | 0.25 |" in lines
    assert sum(" (seed " in line for line in lines) == 6
    assert any(line.startswith("McNemar's test is about these two models") for line in lines)
    # no confusion matrix was logged, which the page would show beside them
    assert "cnn (seed 0) and stn-c2 (seed 3)" in artifact(done, "comparison.html")


def test_best_runs_are_not_tested_on_images_of_different_data_sets(log_run):
    for dataset in ("rotated", "projective"):
        text = "label,predicted\n1,1\n2,3\n" + ("4,4\n" if dataset == "rotated" else "")
        log_run(0.9, files={"predictions.csv": text}, dataset=dataset)
    assert "McNemar" not in compare_runs(None, by="dataset").markdown


@pytest.mark.parametrize(
    ("dataset", "unit", "deviations", "cell"),
    [
        ("rotated", "°", (3.14, 4.2), "3.7 (0.7)"),
        ("rts", "°", (3.14,), "3.1 (–)"),
        ("translated", "px", (1.234, 1.5), "1.37 (0.19)"),
        ("scaled", "log2 area", (0.1234, 0.15), "0.137 (0.019)"),
    ],
)
def test_the_pose_deviation_stands_in_the_data_sets_unit(log_run, dataset, unit, deviations, cell):
    log_run(0.9, dataset=dataset, architecture="cnn")
    for seed, deviation in enumerate(deviations):
        log_run(0.9, metrics={"pose_deviation": deviation}, dataset=dataset, seed=seed)
    done = compare_runs(None, by="architecture")
    lines = done.markdown.splitlines()
    (header,) = [line for line in lines if line.startswith("| architecture |")]
    assert header.endswith(f"| last epoch [%] | pose deviation [{unit}] |")
    assert [line.rsplit(" | ", 1)[1] for line in lines if line.startswith("| cnn |")] == ["– |"]
    (of_network,) = [line for line in lines if line.startswith("| stn-c0 |")]
    assert of_network.endswith(f"| – | {cell} |")
    assert "Pose deviation: how much" in done.markdown
    rows = list(csv.DictReader(io.StringIO(artifact(done, "comparison.csv"))))
    assert [row["pose_deviation"] for row in rows] == ["", *map(str, deviations)]
    (protocol,) = json.loads(artifact(done, "comparison.json"))["protocols"]
    without, with_pose = protocol["groups"]
    assert (without["params"], without["pose"]) == ({"architecture": "cnn"}, None)
    assert with_pose["pose"]["mean"] == pytest.approx(np.mean(deviations))
    page = artifact(done, "comparison.html")
    assert page.count(f"<th>pose deviation [{unit}]</th>") == 2  # of the groups, and of the runs


def test_pose_deviations_of_several_data_sets_stand_with_their_unit(log_run):
    log_run(0.9, metrics={"pose_deviation": 3.14}, dataset="rotated")
    log_run(0.9, metrics={"pose_deviation": 1.234}, dataset="translated")
    log_run(0.9)
    lines = compare_runs(None, by="dataset").markdown.splitlines()
    assert next(line for line in lines if "| group |" in line).endswith("| pose deviation |")
    last = [line.rsplit(" | ", 1)[1] for line in lines if line.startswith("| dataset=")]
    assert last == ["– |", "3.1 (–) ° |", "1.23 (–) px |"]


def test_a_data_set_that_the_table_no_longer_has_is_compared_all_the_same(log_run):
    log_run(0.9, metrics={"pose_deviation": 3.14}, dataset="rotated")
    entries = dict(DATASETS)
    del DATASETS["rotated"]
    try:
        markdown = compare_runs(None, by="conv_layer").markdown
    finally:  # in the old order, which other tests rely on
        DATASETS.clear()
        DATASETS.update(entries)
    assert "| pose deviation [unknown unit] |" in markdown
    assert "| 3.14 (–) |" in markdown


def test_a_group_has_a_pose_deviation_only_if_all_its_runs_have_one(log_run):
    log_run(0.9, metrics={"pose_deviation": 3.14}, dataset="rotated")
    log_run(0.9, dataset="rotated", seed=1)
    assert "ose deviation" not in compare_runs(None).markdown


def test_poses_make_a_gallery_and_stay_out_of_the_data(log_run):
    log_run(0.9, architecture="cnn", dataset="rotated")
    log_run(0.91, files={"poses.npz": poses_file()}, dataset="rotated")
    done = compare_runs(None, by="architecture")
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(done.run_id)}
    assert "gallery.png" in files
    (protocol,) = json.loads(artifact(done, "comparison.json"))["protocols"]
    assert all("poses" not in group for group in protocol["groups"])


def test_more_runs_than_columns_are_counted(log_run):
    for seed in range(11):
        log_run(0.99 + 0.0001 * seed, seed=seed)
    markdown = compare_runs(None).markdown
    assert "| layer | runs | accuracy [%] |" in markdown
    assert "| conv2d | 11 | 99.05 (0.03) |" in markdown


def test_curves_matrices_and_predictions_of_the_runs_are_read_where_there_are_any(log_run):
    labels = np.arange(100) % 10
    for conv_layer, wrong in (("conv2d", 5), ("coordconv2d", 12)):
        for seed in range(2):
            predicted = labels.copy()
            predicted[seed : wrong + seed] = (predicted[seed : wrong + seed] + 1) % 10
            lines = [f"{pair[0]},{pair[1]}" for pair in zip(labels, predicted, strict=True)]
            log_run(
                1 - wrong / 100 - 0.001 * seed,
                curves={"test_accuracy": [0.8, 0.9, 0.85], "train_loss": [1.0, 0.5, 0.4]},
                files={"predictions.csv": "\n".join(["label,predicted", *lines, ""])},
                conv_layer=conv_layer,
                seed=seed,
            )
    done = compare_runs(None)
    assert "| 95.00 | 85.00 (0.00) |" in done.markdown  # the best, and the last epoch
    assert (
        "The best run of conv2d (seed 0) and that of coordconv2d (seed 0) on the same test "
        "images: 7 are classified correctly by the former only, 0 by the latter only; "
        "McNemar's exact p = 0.016." in done.markdown
    )
    assert "about these two models and not about their layers" in done.markdown
    assert "chosen as the best of its layer on these test images" in done.markdown
    page = artifact(done, "comparison.html")
    assert "Learning curves" in page
    assert "Confusion matrices" not in page  # these runs hold none


def test_poses_of_one_image_do_not_count_as_images_in_mcnemars_test(log_run):
    """The models differ on 7 of 10,000 images, in each of three poses."""
    labels = np.arange(10_000) % 10
    for conv_layer, wrong in (("conv2d", 0), ("coordconv2d", 7)):
        predicted = labels.copy()
        predicted[:wrong] = (predicted[:wrong] + 1) % 10
        lines = [f"{pair[0]},{pair[1]}" for pair in zip(labels, predicted, strict=True)]
        content = "\n".join(["label,predicted", *3 * lines, ""])
        log_run(0.99, files={"predictions.csv": content}, conv_layer=conv_layer, dataset="rotated")
    markdown = compare_runs(None).markdown
    assert "7 are classified correctly by the former only, 0 by the latter only" in markdown
    assert "one pose of each test image" in markdown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "conv_layers"}, "by: unknown parameter 'conv_layers'; did you mean conv_layer?"),
        ({"by": ""}, "by: unknown parameter ''; allowed: conv_layer, epochs"),
        ({"by": "seed"}, "differ in their seed only are one group"),
        ({"margin": 0}, "margin: got 0: .* allowed: a number > 0 and <= 100"),
        ({"margin": float("nan")}, "margin: got nan"),
        ({"margin": 101}, "margin: got 101: .* allowed: a number > 0 and <= 100"),
    ],
)
def test_an_impossible_question_is_one_line_and_opens_no_run(log_run, options, words):
    log_run()
    with pytest.raises(PipelineError, match=words.replace("?", r"\?")):
        compare_runs(None, **options)
    assert number_of_runs() == 1


def test_a_study_is_chosen_by_how_its_id_begins(log_run):
    log_run(0.91)
    log_run(0.92, study="ab1", seed=1)
    log_run(0.93, study="ab2", seed=2)
    log_run(0.94, study="ab", seed=3)
    log_run(0.95, study="c1", seed=4)
    assert "| conv2d | 92.00 | 92.00 (–)" in compare_runs(None, study="ab1").markdown
    assert "| conv2d | 94.00 | 94.00 (–)" in compare_runs(None, study="ab").markdown
    done = compare_runs(None, study="c")
    assert "| conv2d | 95.00 | 95.00 (–)" in done.markdown
    assert mlflow.get_run(done.run_id).data.params["study"] == "c1"
    with pytest.raises(PipelineError, match=r"study: got 'a': 3 studies.*allowed: ab, ab1, ab2"):
        compare_runs(None, study="a")
    with pytest.raises(PipelineError, match="there is no such study; allowed: ab, ab1, ab2, c1"):
        compare_runs(None, study="x")


@pytest.mark.parametrize("experiment", [None, "nowhere"])
def test_without_runs_one_line_says_so_and_no_run_is_opened(log_run, experiment):
    with pytest.raises(PipelineError, match="there is no experiment"):
        compare_runs(experiment)
    log_run(error=ValueError("no"))
    with pytest.raises(PipelineError, match=r"no finished training run.*\(1 failed\)"):
        compare_runs(None)
    assert number_of_runs() == 1


def test_runs_of_two_versions_and_threads_are_told_apart_in_a_line_each(log_run):
    for seed in range(2):
        newer = {"stn.torch": "2.15.0", "stn.numpy": "2.4.6", "stn.threads": "1"}
        log_run(seed=seed, conv_layer="conv2d", tags={**newer, "stn.torch": "2.14.1"})
        log_run(seed=seed, conv_layer="coordconv2d", tags=newer | {"stn.threads": str(1 + seed)})
    done = compare_runs(None)
    sentences = [line for line in done.markdown.splitlines() if line.startswith("These runs")]
    part = (
        "The layers do not have the same shares of them, so part of the difference may come from "
        "this."
    )
    assert sentences == [
        "These runs come from different versions of torch: "
        f"2.14.1 (2 of conv2d), 2.15.0 (2 of coordconv2d). {part}",
        "These runs come from different numbers of threads: "
        f"1 (2 of conv2d, 1 of coordconv2d), 2 (1 of coordconv2d). {part}",
    ]
    page = artifact(done, "comparison.html")
    assert all(f'<p class="missing">{sentence}</p>' in page for sentence in sentences)


def test_cpus_with_the_same_share_of_every_group_do_not_count_as_part_of_the_difference(log_run):
    for conv_layer in ("conv2d", "coordconv2d"):
        for seed in range(4):
            tags = {"stn.cpu": f"CPU {seed % 2}"} if seed < 3 else {}
            log_run(seed=seed, conv_layer=conv_layer, tags=tags)
    markdown = compare_runs(None).markdown
    assert "different CPUs: CPU 0 (2 of conv2d, 2 of coordconv2d), CPU 1 (1 of conv2d" in markdown
    assert "part of the difference" not in markdown


def test_runs_that_recorded_no_commit_or_another_are_told_apart(log_run):
    commit = {"stn.commit": "abc", "stn.dirty": "false"}
    log_run(seed=0, tags=commit)
    log_run(seed=1, tags=commit | {"stn.dirty": "true"})
    log_run(seed=2)
    lines = compare_runs(None).markdown.splitlines()
    assert (
        "These runs come from different commits: abc (1 of conv2d), abc with uncommitted changes "
        "(1 of conv2d)."
    ) in lines
    assert "What 1 of these runs ran on is not recorded." in lines


def test_uncommitted_changes_of_all_runs_are_told(log_run):
    for seed in range(2):
        log_run(seed=seed, tags={"stn.commit": "abc", "stn.dirty": "true"})
    lines = compare_runs(None).markdown.splitlines()
    assert "These runs come from commit abc with uncommitted changes." in lines


def test_the_best_run_is_that_which_has_the_alias(log_run):
    """With validation images, the run that is best on those, though not on the test images."""
    for seed, (accuracy, validation) in enumerate(((0.99, 0.97), (0.98, 0.98), (0.97, 0.98))):
        curves = {"val_accuracy": [0.1, validation], "val_loss": [9.0, 0.5 - 0.1 * seed]}
        files = {"predictions.csv": f"label,predicted\n1,1\n2,{seed}\n"}
        for conv_layer in ("conv2d", "coordconv2d"):
            log_run(
                accuracy,
                curves=curves,
                files=files,
                conv_layer=conv_layer,
                seed=seed,
                validation_size=10_000,
            )
    markdown = compare_runs(None).markdown
    assert "The best run of conv2d (seed 2) and that of coordconv2d (seed 2)" in markdown
    assert "best of its layer on the validation images that selected its epoch." in markdown
    assert "| 99.00 | – |" in markdown  # the highest test accuracy all the same


def test_of_many_versions_the_number_is_told_and_threads_are_sorted_by_number(log_run):
    for seed, threads in enumerate((16, 2, 2, 4, 1)):
        log_run(seed=seed, tags={"stn.threads": str(threads), "stn.torch": f"2.{seed}"})
    assert [line for line in compare_runs(None).markdown.splitlines() if "These runs" in line] == [
        "These runs come from 5 different versions of torch.",
        "These runs come from different numbers of threads: 1 (1 of conv2d), 2 (2 of conv2d), "
        "4 (1 of conv2d), 16 (1 of conv2d).",
    ]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("command", ["compare", "store", "ui"])
def test_a_command_without_a_network_does_without_torch_and_scikit_learn(store, command):
    if command == "store":
        (store / "mlflow.db").unlink()
    code = (
        "import os; os.execv = print\n"  # `ui` would become the server
        f"from pipeline.cli import main; main(['{command}'], standalone_mode=False)\n"
        "import sys; assert not {'torch', 'torchvision', 'sklearn'} & sys.modules.keys()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def odd_run(metrics, name="a colleague's run"):
    """A finished run with the tag of a training, and these metrics."""
    with open_run(name, "", tags={"stn.protocol": "replication"}) as run:
        run.log_metrics(metrics, step=1)
    return run.run_id


RESULTS = {"best_test_accuracy": 0.9, "best_test_f1": 0.9, "best_test_loss": 0.1, "best_epoch": 1}


def test_runs_whose_results_are_none_of_a_training_are_left_out_by_name(log_run):
    log_run(0.99)
    reasons = {
        odd_run({"best_test_accuracy": 0.9}): "it has no metric best_test_f1",
        odd_run({**RESULTS, "best_test_loss": math.nan}): "its metric best_test_loss is nan",
        odd_run({**RESULTS, "best_test_accuracy": 98.7}): "its metric best_test_accuracy is 98.7",
        odd_run({**RESULTS, "best_epoch": 1.5}): "its metric best_epoch is 1.5",
        odd_run({**RESULTS, "test_accuracy": -1}): "its metric test_accuracy is -1",
    }
    markdown = compare_runs(None).markdown
    for run_id, reason in reasons.items():
        assert f"Missing: run a colleague's run ({run_id}), left out because {reason}\n" in markdown
    assert "| conv2d | 99.00 |" in markdown


def test_if_every_run_is_odd_the_error_says_why(store):
    run_id = odd_run({"best_test_accuracy": 0.9})
    with pytest.raises(PipelineError, match=rf"holds what a training logs; .*{run_id}.*f1"):
        compare_runs(None)


def test_damaged_files_of_a_run_are_left_out_by_name(log_run):
    intact = {"predictions.csv": "label,predicted\n1,1\n", "poses.npz": poses_file()}
    log_run(0.99, files=intact)
    damaged = dict.fromkeys((*intact, "confusion_matrix.csv"), b"\xff garbage")
    run_id = log_run(0.98, files=damaged, conv_layer="coordconv2d")
    markdown = compare_runs(None).markdown
    run = f"of run coordconv2d seed=0 ({run_id}), left out because it is"
    assert f"Missing: predictions.csv {run} not UTF-8 text" in markdown
    assert f"Missing: confusion_matrix.csv {run} not UTF-8 text" in markdown
    assert f"Missing: poses.npz {run} no archive of poses" in markdown
    assert "| coordconv2d | 98.00 |" in markdown


def test_predictions_of_fewer_images_are_not_compared_image_by_image(log_run):
    log_run(0.99, files={"predictions.csv": "label,predicted\n1,1\n2,2\n"})
    log_run(0.98, files={"predictions.csv": "label,predicted\n1,1\n"}, conv_layer="coordconv2d")
    assert "McNemar" not in compare_runs(None).markdown


@pytest.mark.parametrize(
    "tags",
    [
        {"stn.study": "x' or '", "stn.looks": "["},
        {"stn.study": "abc", "stn.looks": '{"a": 1}'},
        {"stn.study": "abc", "stn.design": '{"looks": [2, 3], "margin": "wide"}'},
    ],
)
def test_a_damaged_record_of_a_study_does_not_stop_a_comparison(log_run, tags):
    log_run(0.99)
    log_run(0.98, seed=1, tags=tags, study=tags["stn.study"])
    assert "98.50" in compare_runs(None).markdown
    if "abc" in tags.values():
        with pytest.raises(PipelineError, match=r"the tag stn\.\w+ of run .* is no"):
            compare_runs(None, study="abc")


def test_two_protocols_that_differ_in_their_data_only_are_both_shown(log_run):
    for digest in ("d", "e", "f"):
        log_run(0.99, tags={"stn.data_digest": digest})
    markdown = compare_runs(None).markdown
    assert markdown.count("| conv2d | 99.00 |") == 3
