"""What is recorded of an epoch, on a real SQLite store; the states are made up."""

import copy

import mlflow
import pytest
import torch
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.params import RunParams
from pipeline.tracking.recorded import recorded_run
from pipeline.tracking.runs import open_run
from pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.training.loop import BestEpoch, TrainingState
from pipeline.training.network import build_network
from pipeline.training.recorder import EpochRecorder

PARAMS = RunParams(epochs=4)
POSES = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)


def state_after(epoch):
    metrics = {"train_loss": 1.0, "train_accuracy": 0.5, "test_accuracy": 0.5, "epoch_seconds": 1.0}
    history = [{**metrics, "train_loss": float(number)} for number in range(1, epoch + 1)]
    return TrainingState({}, {}, {}, BestEpoch(1, 0.5, 1.0, {}), history, {})


@pytest.fixture
def run(store):
    with open_run("run", "") as run:
        yield run


def recorder(run, reasons, **settings):
    """A recorder of epochs that have collapsed for these reasons; an empty one is none."""
    network = build_network(PARAMS)
    bar = tqdm(disable=True)

    def reason(train_accuracies):
        return reasons[len(train_accuracies) - 1]

    return EpochRecorder(
        run, network, PARAMS, poses=POSES, collapse_reason=reason, bar=bar, **settings
    )


def test_a_collapse_is_told_once_and_tagged_until_the_training_recovers(run, capsys, tmp_path):
    reasons = ["", "no gradient", "at chance", ""]
    record = recorder(run, reasons, checkpoint_file=tmp_path / "run.pt")
    told, tags = [], []
    for epoch in range(1, 5):
        record.record(state_after(epoch))
        told.append("\n".join(capsys.readouterr().out.splitlines()[1:]))
        tags.append(recorded_run(run.run_id).collapsed)
    assert tags == ["", "epoch 2: no gradient", "epoch 2: no gradient", ""]
    assert told[0] == told[2] == ""
    assert told[1].startswith("the training has collapsed: no gradient; a smaller lr (now 0.01)")
    assert told[3] == "the training has recovered from its collapse"


def test_a_run_that_was_killed_after_its_checkpoint_gets_the_rest_on_resuming(run, tmp_path):
    """Killed twice before anything was logged: once in a collapse, once in a recovery."""
    file = tmp_path / "run.pt"
    record = recorder(run, ["", "no gradient"], checkpoint_file=file)
    record.record(state_after(1))
    collapsed = copy.copy(record)
    collapsed._run = None
    with pytest.raises(AttributeError):
        collapsed.record(state_after(2))
    assert recorded_run(run.run_id).collapsed == ""

    checkpoint = load_checkpoint(file)
    assert checkpoint.state.epoch == 2
    record = recorder(run, ["", "", ""], checkpoint_file=file, resume_from=checkpoint)
    assert recorded_run(run.run_id).collapsed == "epoch 2: no gradient"
    history = mlflow.MlflowClient().get_metric_history(run.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 2.0)]

    recovered = copy.copy(record)
    recovered._run = None
    with pytest.raises(AttributeError):
        recovered.record(state_after(3))
    recorder(run, [], checkpoint_file=file, resume_from=load_checkpoint(file))
    assert recorded_run(run.run_id).collapsed == ""


@pytest.mark.parametrize("damage", ["cut to half", "garbage", "one bit", "another file"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    file = tmp_path / "run.pt"
    weights = {"weight": torch.zeros(1000)}
    state = TrainingState(weights, {}, {}, BestEpoch(1, 0.5, 1.0, {}), [], {})
    save_checkpoint(file, Checkpoint(state, {}))
    assert load_checkpoint(file) is not None
    content = bytearray(file.read_bytes())
    if damage == "cut to half":
        del content[len(content) // 2 :]
    elif damage == "garbage":
        content = bytearray(b"garbage " * 100)
    elif damage == "one bit":
        content[content.index(bytes(4000)) + 2000] ^= 1  # in a weight
    file.write_bytes(content)
    if damage == "another file":
        torch.save({"epoch": 1}, file)
    with pytest.raises(PipelineError, match=r"the checkpoint .*run.pt is damaged") as error:
        load_checkpoint(file)
    assert "weights_only" not in str(error.value)


def test_a_checkpoint_of_a_version_without_frames_and_collapses_is_read(run, tmp_path):
    file = tmp_path / "run.pt"
    recorder(run, [""], checkpoint_file=file).record(state_after(1))
    content = torch.load(file, weights_only=True)
    del content["frames"], content["collapsed"]
    torch.save(content, file)
    checkpoint = load_checkpoint(file)
    assert checkpoint.state.epoch == 1
    assert checkpoint.frames == {}
    assert checkpoint.collapsed == ""
