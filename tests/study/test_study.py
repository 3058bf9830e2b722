"""The plan of a study, on real SQLite stores; the whole of it is in end_to_end/test_study.py."""

import socket
from pathlib import Path

import mlflow
import pytest

from pipeline.errors import PipelineError
from pipeline.study import conclusion, study
from pipeline.study.conclusion import _promote
from pipeline.study.executor import Task
from pipeline.study.plan import resolve_study
from pipeline.study.progress import ProgressReporter
from pipeline.study.resume import checkpoint_folder, locked, tasks_of
from pipeline.study.study import run_study
from pipeline.tracking.recorded import RecordedRun, parent_of_study, training_runs
from pipeline.tracking.registry import Candidate
from pipeline.tracking.runs import close_run, create_nested_run, open_run
from pipeline.training.checkpoint import Checkpoint, save_checkpoint
from pipeline.training.loop import BestEpoch, TrainingState
from tests.study.instant import Instant

STUDY = resolve_study({"runs": "2", "epochs": "3"})


@pytest.fixture
def parent(store):
    with open_run("study", "", tags={"stn.study": STUDY.id}) as run:
        yield run


def nested(parent, name, status="RUNNING", epochs=0, checkpoint=False):
    """A run of the study as a worker leaves it; its id."""
    tags = {"stn.study": STUDY.id, "stn.study_run": name, "stn.protocol": STUDY.label}
    tags["stn.checkpoints"] = str(Path.cwd())
    run_id = create_nested_run(parent, name, tags)
    client = mlflow.MlflowClient()
    for epoch in range(1, epochs + 1):
        client.log_metric(run_id, "train_loss", 1 / epoch, step=epoch)
        client.log_metric(run_id, "test_accuracy", 1 - 0.1 / epoch, step=epoch)
    if checkpoint:
        state = TrainingState({}, {}, {}, BestEpoch(1, 0.5, 1.0, {}), [], {})
        save_checkpoint(Path.cwd() / f"{run_id}.pt", Checkpoint(state, {}))
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def tasks_left(study, folder="."):
    recorded = training_runs("stn-mnist", study.id)
    folder = None if folder is None else Path(folder).absolute()
    return tasks_of(study, study.runs, recorded=recorded, experiment="stn-mnist", folder=folder)


def plan():
    tasks, kept = tasks_left(STUDY)
    return {task.name: task.run_id for task in tasks}, [run.run_id for run in kept]


def status(run_id):
    return mlflow.get_run(run_id).info.status


def test_a_new_study_trains_each_layer_with_each_seed_seed_by_seed(parent):
    tasks, kept = plan()
    assert list(tasks.items()) == [
        ("conv2d seed=0", None),
        ("coordconv2d seed=0", None),
        ("conv2d seed=1", None),
        ("coordconv2d seed=1", None),
    ]
    assert kept == []


def test_finished_runs_are_kept_interrupted_ones_continued_failed_ones_repeated(parent):
    finished = nested(parent, "conv2d seed=0", "FINISHED", 3)
    died = nested(parent, "coordconv2d seed=0", "RUNNING", 2, checkpoint=True)
    killed = nested(parent, "conv2d seed=1", "KILLED", 1, checkpoint=True)
    nested(parent, "coordconv2d seed=1", "FAILED", 1, checkpoint=True)
    tasks, kept = plan()
    assert kept == [finished]
    assert tasks == {
        "coordconv2d seed=0": died,
        "conv2d seed=1": killed,
        "coordconv2d seed=1": None,
    }


def test_more_runs_are_added_to_a_finished_study(parent):
    for params in STUDY.runs:
        nested(parent, STUDY.name_of(params), "FINISHED", 3)
    larger = resolve_study({"runs": "3", "epochs": "3"})
    tasks, kept = tasks_left(larger)
    assert [task.name for task in tasks] == ["conv2d seed=2", "coordconv2d seed=2"]
    assert len(kept) == 4


def test_a_run_that_died_in_its_first_epoch_is_begun_again_and_not_doubled(parent):
    run_id = nested(parent, "conv2d seed=0")
    assert plan()[0]["conv2d seed=0"] == run_id


def test_a_run_that_died_in_its_first_epoch_on_another_machine_is_trained_anew(parent):
    run_id = nested(parent, "conv2d seed=0")
    (task, *_), _ = tasks_left(STUDY, folder="of-this-machine")
    assert (task.name, task.run_id, task.checkpoint_file) == ("conv2d seed=0", None, None)
    assert status(run_id) == "KILLED"


def test_a_run_whose_checkpoint_is_lost_is_closed_and_trained_anew(parent):
    run_id = nested(parent, "conv2d seed=0", "RUNNING", 2)
    assert plan()[0]["conv2d seed=0"] is None
    assert status(run_id) == "KILLED"


def test_a_run_whose_checkpoint_is_damaged_is_trained_anew_and_the_file_is_kept(parent, capsys):
    run_id = nested(parent, "conv2d seed=0", "KILLED", 2, checkpoint=True)
    file = Path.cwd() / f"{run_id}.pt"
    content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    assert plan()[0]["conv2d seed=0"] is None
    said = capsys.readouterr().err
    assert f"the checkpoint {file} is damaged; it is kept as {run_id}.damaged" in said
    assert "weights_only" not in said
    assert not file.exists()
    assert file.with_suffix(".damaged").read_bytes() == content


def test_a_run_that_nobody_asks_for_any_more_does_not_stay_running(parent):
    run_id = nested(parent, "conv2d seed=7", "RUNNING", 1, checkpoint=True)
    plan()
    assert status(run_id) == "KILLED"


def test_the_parent_is_found_again_and_is_none_of_its_runs(parent):
    nested(parent, "conv2d seed=0")
    found = parent_of_study("stn-mnist", STUDY.id)
    assert (found.run_id, found.status) == (parent.run_id, "RUNNING")
    assert found.tags["stn.study"] == STUDY.id
    assert parent_of_study("stn-mnist", "another") is None
    assert parent_of_study("no experiment", STUDY.id) is None


def test_another_executor_continues_a_run_from_its_checkpoint(parent):
    run_id = nested(parent, "conv2d seed=0", "KILLED", 2, checkpoint=True)
    file = Path.cwd() / f"{run_id}.pt"
    content = file.read_bytes()
    task = tasks_left(STUDY, folder=None)[0][0]
    assert (task.run_id, task.checkpoint_file) == (run_id, None)
    assert not file.exists()
    task = tasks_left(STUDY, folder=None)[0][0]
    assert (task.run_id, task.checkpoint_file) == (run_id, None)
    task = tasks_left(STUDY)[0][0]
    assert (task.run_id, task.checkpoint_file) == (run_id, file)
    assert file.read_bytes() == content


def test_two_processes_do_not_work_on_one_study(store):
    folder = store / "checkpoints"
    with (
        locked(STUDY, folder),
        pytest.raises(PipelineError, match="is running already, in the process"),
    ):
        locked(STUDY, folder).__enter__()
    with locked(STUDY, folder):  # free again
        pass


def test_a_study_goes_on_where_it_was_started():
    here, host = Path.cwd() / "checkpoints", socket.gethostname()
    assert checkpoint_folder(STUDY, None) == here

    def parent_with(status, tags):
        return RecordedRun("id", "1", "study", status, {}, {}, tags)

    there = {"stn.host": host, "stn.checkpoints": "/elsewhere/checkpoints"}
    assert checkpoint_folder(STUDY, parent_with("RUNNING", there)) == Path("/elsewhere/checkpoints")
    other = {**there, "stn.host": "another-machine"}
    assert checkpoint_folder(STUDY, parent_with("KILLED", other)) == here
    with pytest.raises(
        PipelineError,
        match="on another-machine, with its checkpoints in /elsewhere/",
    ):
        checkpoint_folder(STUDY, parent_with("RUNNING", other))


def test_a_container_that_comes_back_under_another_name_continues(tmp_path):
    (tmp_path / f"{STUDY.id}.lock").touch()
    tags = {"stn.host": "another-name", "stn.checkpoints": str(tmp_path)}
    parent = RecordedRun("id", "1", "study", "RUNNING", {}, {}, tags)
    assert checkpoint_folder(STUDY, parent) == tmp_path


def test_an_alias_is_offered_to_the_best_of_each_selection(parent, monkeypatch):
    """A grid over validation_size has models whose accuracies mean different things."""
    made = {
        "a": (1, Candidate("test", 0.99, 0.1)),
        "b": (2, Candidate("validation 100", 0.98, 0.1)),
        "c": (3, Candidate("test", 0.97, 0.1)),
    }
    offered = []
    monkeypatch.setattr(conclusion, "registered_version", made.get)
    monkeypatch.setattr(
        conclusion, "promote", lambda version, _, aliases: offered.append((version, *aliases)) or []
    )
    runs = [
        RecordedRun(run_id, "1", "", "FINISHED", {"conv_layer": "conv2d"}, {}, {})
        for run_id in made
    ]
    _promote(runs)
    assert sorted(offered) == [
        (1, "best-conv2d"),
        (1, "champion"),
        (2, "best-conv2d"),
        (2, "champion"),
    ]


def test_a_name_says_what_varies(store):
    grid = resolve_study({"conv_layer": "conv2d", "lr": "0.01,0.1", "runs": "1"})
    assert [grid.name_of(params) for params in grid.runs] == [
        "conv2d lr=0.01 seed=0",
        "conv2d lr=0.1 seed=0",
    ]


def test_an_architecture_speaks_for_itself_in_a_name():
    study = resolve_study({"conv_layer": "conv2d", "architecture": "cnn,stn-c1", "runs": "1"})
    assert [study.name_of(params) for params in study.runs] == [
        "conv2d cnn seed=0",
        "conv2d stn-c1 seed=0",
    ]


@pytest.mark.parametrize(
    ("given", "by"),
    [
        ({}, "conv_layer"),
        ({"lr": "0.1,0.2"}, "conv_layer"),
        ({"conv_layer": "conv2d", "lr": "0.1,0.2", "momentum": "0,0.9"}, "lr,momentum"),
        ({"conv_layer": "conv2d", "architecture": "cnn,stn-c0"}, "architecture"),
        ({"architecture": "cnn,stn-c0"}, "architecture,conv_layer"),
        ({"conv_layer": "conv2d"}, "conv_layer"),
    ],
)
def test_architectures_and_layers_are_compared_where_they_vary(given, by):
    assert resolve_study(given).compared_by == by


def test_a_network_that_cannot_be_built_ends_a_study_before_it_begins(store):
    study = resolve_study({"architecture": "stn-c0,stn-sl2"})
    with pytest.raises(PipelineError, match=r"conv_layer: got 'coordconv2d'.*stn-sl2"):
        run_study(study)
    assert not mlflow.search_runs(search_all_experiments=True, output_format="list")


def test_each_data_set_has_aliases_of_its_own(parent, monkeypatch):
    offered = []
    made = (1, Candidate("rotated test", 0.99, 0.1))
    monkeypatch.setattr(conclusion, "registered_version", lambda run_id: made)
    monkeypatch.setattr(
        conclusion, "promote", lambda version, _, aliases: offered.extend(aliases) or []
    )
    params = {"conv_layer": "conv2d", "dataset": "rotated"}
    _promote([RecordedRun("a", "1", "", "FINISHED", params, {}, {})])
    assert sorted(offered) == ["best-conv2d-rotated", "champion-rotated"]


def test_names_do_not_depend_on_the_order_of_the_options():
    def names(**given):
        study = resolve_study({"runs": "1", **given})
        return {study.name_of(params) for params in study.runs}

    assert names(lr="0.01,0.1", momentum="0,0.9") == names(momentum="0.9,0", lr="0.1,0.01")


def test_the_progress_counts_names_the_best_and_foretells_the_end(parent):
    close_run(nested(parent, "conv2d seed=0", epochs=3), "FINISHED")
    kept = training_runs("stn-mnist", STUDY.id)
    mlflow.log_metric("best_test_accuracy", 0.97, run_id=kept[0].run_id)
    kept = training_runs("stn-mnist", STUDY.id)
    running = Task("coordconv2d seed=0", STUDY.runs[1], STUDY.label, state="running")
    waiting = Task("conv2d seed=1", STUDY.runs[2], STUDY.label)
    progress = ProgressReporter(parent, [running, waiting], kept)
    assert progress.text() == (
        "1/3 runs, best 97.00% (conv2d seed=0); coordconv2d seed=0 0/3 0.00%"
    )
    running.run_id = nested(parent, running.name, epochs=2)
    progress._started -= 120  # two epochs in two minutes leave four epochs, and four minutes
    progress.update()
    assert progress.text() == (
        "1/3 runs, best 97.00% (conv2d seed=0), 4 min left; coordconv2d seed=0 2/3 95.00%"
    )
    running.state = "failed"
    running.error = "out of disk"
    progress.update()
    progress.close()
    stored = mlflow.get_run(parent.run_id).data
    assert stored.tags["stn.progress"].startswith("1/3 runs")
    assert stored.metrics == {"runs_finished": 1, "best_test_accuracy": 0.97}


def test_the_progress_tells_of_a_collapse_and_counts_it(parent, capsys):
    task = Task("conv2d seed=0", STUDY.runs[0], STUDY.label, state="running")
    task.run_id = nested(parent, task.name, epochs=2)
    progress = ProgressReporter(parent, [task], [])
    mlflow.MlflowClient().set_tag(task.run_id, "stn.collapsed", "epoch 2: at chance")
    progress.update()
    progress.update()
    told = [line for line in capsys.readouterr().out.splitlines() if "collapse" in line]
    assert told == ["conv2d seed=0 has collapsed, epoch 2: at chance"]
    assert progress.text().startswith("0/1 runs, 1 collapsed; ")
    mlflow.MlflowClient().delete_tag(task.run_id, "stn.collapsed")
    progress.update()
    assert "conv2d seed=0 has recovered from its collapse" in capsys.readouterr().out
    assert progress.text().startswith("0/1 runs; ")


def test_a_study_runs_on_any_executor_and_repeats_what_failed(store, monkeypatch, capsys):
    monkeypatch.setattr(study.mnist, "load_mnist", lambda folder: None)
    with pytest.raises(PipelineError, match=r"^2 of 4 runs failed.*out of memory"):
        run_study(STUDY, Instant(fails=(1,)))
    printed = capsys.readouterr().out
    assert "runs: 4 to be started" in printed
    assert "conv2d seed=0: 90.00% in epoch 1" in printed
    assert "coordconv2d seed=1 failed: out of memory" in printed
    started = parent_of_study("stn-mnist", STUDY.id)
    assert started.status == "FAILED"
    statuses = {run.study_run: run.status for run in training_runs("stn-mnist", STUDY.id)}
    assert statuses == {
        "conv2d seed=0": "FINISHED",
        "coordconv2d seed=0": "FINISHED",
        "conv2d seed=1": "FAILED",
        "coordconv2d seed=1": "FAILED",
    }

    again = resolve_study({"seed": "0,2", "epochs": "3"})
    done = run_study(again, Instant())
    assert "runs: 2 finished before, 2 to be started" in capsys.readouterr().out
    assert done.run_id == started.run_id
    assert parent_of_study("stn-mnist", STUDY.id).status == "FINISHED"
    assert "| conv2d | 90.00 | 90.00 |" in done.markdown
