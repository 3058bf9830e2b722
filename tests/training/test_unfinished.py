"""Single trainings that were interrupted, on a real store; an ended process is a closed note."""

from contextlib import suppress

import mlflow
import pytest

from pipeline.errors import PipelineError
from pipeline.params import RunParams
from pipeline.tracking.runs import open_run
from pipeline.training.unfinished import single_training

PARAMS = RunParams(epochs=4)


def killed(params=PARAMS, checkpoint=True):
    """A training whose process was killed: its name, and its run, which counts as RUNNING."""
    with suppress(KeyboardInterrupt), single_training(params, "stn-mnist") as training:
        with open_run("run", "", tags={"stn.training": training.name}) as run:
            pass
        if checkpoint:
            save(training.checkpoint_file)
        raise KeyboardInterrupt
    mlflow.MlflowClient().update_run(run.run_id, "RUNNING")
    return training.name, run.run_id


def save(file):
    import torch

    from pipeline.training.checkpoint import Checkpoint, save_checkpoint
    from pipeline.training.loop import BestEpoch, TrainingState

    state = TrainingState({}, {}, {}, BestEpoch(1, 0.5, 1.0, {}), [], {"cpu": torch.zeros(1)})
    save_checkpoint(file, Checkpoint(state, {}))


def status_of(run_id):
    return mlflow.get_run(run_id).info.status


def files(store):
    return sorted(file.suffix for file in (store / "checkpoints").iterdir())


def test_the_same_training_goes_on_and_leaves_no_file(store):
    name, run_id = killed()
    patient = PARAMS.model_copy(update={"store_patience": 1.0})  # changes nothing of the result
    with single_training(patient, "stn-mnist") as training:
        assert (training.name, training.run_id) == (name, run_id)
        training.checkpoint_file.unlink()
    assert files(store) == [".lock"]


def test_with_edited_code_the_same_parameters_begin_anew(store, monkeypatch):
    _, run_id = killed()
    monkeypatch.setattr("pipeline.training.unfinished.code_digest", lambda: "of edited code")
    with single_training(PARAMS, "stn-mnist") as training:
        assert training.run_id is None
    assert status_of(run_id) == "KILLED"


@pytest.mark.parametrize("other", [{"seed": 1}, {"threads": 1}, {"experiment": "another"}])
def test_another_training_closes_the_run_and_keeps_its_checkpoint(store, other):
    name, run_id = killed()
    params = PARAMS.model_copy(update=other)
    with single_training(params, params.experiment or "stn-mnist") as training:
        assert training.run_id is None
        assert status_of(run_id) == "KILLED"
    with single_training(PARAMS, "stn-mnist") as training:
        assert (training.name, training.run_id) == (name, run_id)


def test_without_a_checkpoint_the_run_is_closed_and_forgotten(store):
    _, run_id = killed(checkpoint=False)
    with single_training(PARAMS, "stn-mnist") as training:
        assert training.run_id is None
        assert status_of(run_id) == "KILLED"
        assert files(store) == [".lock", ".training"]


def test_a_damaged_checkpoint_is_set_aside(store, capsys):
    name, run_id = killed()
    (store / f"checkpoints/{name}.pt").write_bytes(b"garbage")
    with single_training(PARAMS, "stn-mnist") as training:
        assert training.run_id is None
    assert status_of(run_id) == "KILLED"
    assert f"{name}.pt is damaged; it is kept as {name}.damaged" in capsys.readouterr().err


def test_a_run_that_had_finished_is_not_opened_again(store):
    _, run_id = killed()
    mlflow.MlflowClient().set_terminated(run_id, "FINISHED")
    with single_training(PARAMS, "stn-mnist") as training:
        assert training.run_id is None
    assert status_of(run_id) == "FINISHED"
    assert files(store) == [".lock"]


def test_two_at_once_are_two_trainings(store):
    with (
        single_training(PARAMS, "stn-mnist") as first,
        single_training(PARAMS, "stn-mnist") as second,
    ):
        assert second.run_id is None
        assert first.name != second.name


def test_a_training_that_failed_begins_anew(store):
    with suppress(PipelineError), single_training(PARAMS, "stn-mnist") as training:
        save(training.checkpoint_file)
        raise PipelineError("training diverged")
    assert not training.checkpoint_file.exists()
    with single_training(PARAMS, "stn-mnist") as again:
        assert again.name != training.name
    assert files(store) == [".lock"]


@pytest.mark.parametrize("error", [OSError, mlflow.MlflowException, RuntimeError, SystemExit])
def test_a_training_that_its_surroundings_have_ended_goes_on(store, error):
    def fail(training):
        save(training.checkpoint_file)
        raise error("no")

    with (
        pytest.raises(error),
        single_training(PARAMS, "stn-mnist") as training,
        open_run("run", "", tags={"stn.training": training.name}) as run,
    ):
        fail(training)
    with single_training(PARAMS, "stn-mnist") as again:
        assert (again.name, again.run_id) == (training.name, run.run_id)


def test_the_runs_of_another_store_are_left_alone(store, monkeypatch, tmp_path):
    name, run_id = killed()
    here = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
    with single_training(PARAMS, "stn-mnist") as training:
        assert training.run_id is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    assert status_of(run_id) == "RUNNING"
    with single_training(PARAMS, "stn-mnist") as training:
        assert training.name == name


@pytest.mark.parametrize("content", ["", "[]", '{"store": 1}'])
def test_a_note_that_says_nothing_is_removed(store, content):
    (store / "checkpoints").mkdir()
    (store / "checkpoints/a.training").write_text(content)
    with single_training(PARAMS, "stn-mnist"):
        pass
    assert files(store) == [".lock"]
