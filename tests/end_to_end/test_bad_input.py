"""Each wrong input ends in one line and a non-zero exit, with no run left RUNNING."""

import os
import signal
import sys
import time

import pytest

from tests.end_to_end.conftest import ONE_SCREEN, last_line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--conv_layer", "conv3d"], "allowed: conv2d, coordconv2d"),
        (["train", "--conv-layer", "conv3d"], "allowed: conv2d, coordconv2d"),
        (["train", "--epochs", "0"], "epochs"),
        (["train", "--epochs=-1"], "epochs"),
        (["train", "--epochs", "ten"], "epochs"),
        (["train", "--lr", "nan"], "lr"),
        (["train", "--validation_size", "60000"], "validation_size"),
        (["train", "--preset", "wrong.yaml"], "did you mean epochs?"),
        (["train", "--preset", "params/none.yaml"], "there are: params/augmented.yaml, params/"),
        (["train", "--device", "cuda"], "torch finds no GPU"),
        (["train", "--data_dir", "damaged"], "t10k-labels-idx1-ubyte.gz is damaged"),
        (["evaluate", "--model_uri", "models:/stn-mnist@none"], "models:/stn-mnist@none"),
        (["evaluate", "--model_uri", "runs:/abc/model"], "runs:/abc/model"),
        pytest.param(["evaluate", "--model_uri", "s3://x/y"], "s3://x/y", marks=pytest.mark.slow),
        (["predict", "MLproject"], "MLproject: is no image"),
        (["compare"], "there is no experiment stn-mnist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument(checkout, arguments, words):
    (checkout.folder / "wrong.yaml").write_text("epoch: 3\n")
    damaged = checkout.folder / "damaged/MNIST/raw"
    damaged.mkdir(parents=True)
    for archive in (checkout.folder / "data/MNIST/raw").glob("*.gz"):
        (damaged / archive.name).write_bytes(archive.read_bytes())
    (damaged / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    done = checkout.pipeline(*arguments)
    assert done.returncode not in (0, -signal.SIGSEGV)
    errors = [line for line in done.stderr.splitlines() if "INFO mlflow" not in line]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    assert errors[0].startswith("Error: ")
    assert words in errors[0]
    assert not (checkout.folder / "mlflow.db").exists() or checkout.statuses() == []


def test_an_unknown_option(checkout):
    done = checkout.pipeline("train", "--epoch", "3")
    assert done.returncode != 0
    assert "--epochs" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_server(checkout):
    checkout.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    done = checkout.pipeline("compare")  # it gives up; MLflow alone retries for minutes
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: MLflow (http://127.0.0.1:9): ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("train", "{folder}"),
        ("ui", "{folder}"),
        ("ui", "{folder}/MLproject/mlflow.db"),
        ("ui", "/proc/none/mlflow.db"),
    ],
)
def test_an_unwritable_store(checkout, command, path):
    path = path.format(folder=checkout.folder)
    checkout.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{path}"
    done = checkout.pipeline(command)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert path in done.stderr or "/proc/none" in done.stderr


def test_a_wrong_value_given_to_mlflow_run_leaves_nothing_running(checkout):
    done = checkout.mlflow_run("-P", "epochs=0")
    assert done.returncode != 0
    assert "Error: epochs: got '0'" in done.stderr
    assert checkout.statuses() == ["FAILED"]


def test_a_missing_image_given_to_mlflow_run_leaves_nothing_running(checkout):
    done = checkout.mlflow_run("-e", "predict", "-P", "image=none.png", **ONE_SCREEN)
    assert done.returncode != 0
    assert last_line(done.stdout).startswith("Error: none.png: cannot be read: No such file")
    assert f"a relative path starts at {checkout.folder}" in last_line(done.stdout)
    assert checkout.statuses() == ["FAILED"]


def test_a_diverging_training_fails_with_what_to_do(small_checkout):
    done = small_checkout.pipeline("train", "--iterations", "2", "--lr", "1e30", **ONE_SCREEN)
    assert done.returncode == 1
    assert last_line(done.stdout).startswith("Error: training diverged in epoch 1")
    assert small_checkout.statuses() == ["FAILED"]


def test_an_interruption_while_a_command_is_loaded(checkout):
    (checkout.folder / "click.py").write_text("raise KeyboardInterrupt")
    done = checkout.pipeline("train", **ONE_SCREEN)
    assert (done.returncode, done.stdout) == (130, "interrupted\n")


IN_A_DESTRUCTOR = """
import signal, sys, time
from pipeline.cli import main

class Thing:
    def __del__(self):
        signal.raise_signal(int(sys.argv[1]))

@main.command()
def wait():
    thing = Thing()
    del thing
    time.sleep(30)
    print("the interruption was ignored")

main(["wait"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_within_a_destructor(checkout, number):
    done = checkout.run(sys.executable, "-c", IN_A_DESTRUCTOR, str(int(number)), **ONE_SCREEN)
    assert (done.returncode, done.stdout) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("way", "number"),
    [
        pytest.param("python", signal.SIGINT, id="ctrl-c-python", marks=pytest.mark.slow),
        pytest.param("python", signal.SIGHUP, id="hang-up-python", marks=pytest.mark.slow),
        pytest.param("mlflow", signal.SIGINT, id="ctrl-c-mlflow"),
        pytest.param("mlflow", signal.SIGHUP, id="hang-up-mlflow", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_killed_and_keeps_what_was_logged(small_checkout, way, number):
    arguments = ["epochs=5000", "batch_size=500", "architecture=cnn"]
    if way == "python":
        options = [f"--{argument}" for argument in arguments]
        command = [sys.executable, "-m", "pipeline", "train", *options]
    else:
        options = [word for argument in arguments for word in ("-P", argument)]
        command = ["mlflow", "run", ".", "--env-manager", "local", *options]
        command += ["--experiment-name", "stn-mnist"]
    process = small_checkout.start(*command, start_new_session=True, **ONE_SCREEN)
    try:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        os.killpg(process.pid, number)  # as a terminal does: to all of the group
        screen, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    if way == "python":
        assert "Traceback" not in screen
        assert "is closed as KILLED" in screen
        assert last_line(screen) == "interrupted"
    time.sleep(2)  # `mlflow run` has set its last status by now
    for _ in range(150):
        if small_checkout.statuses() == ["KILLED"]:
            break
        time.sleep(0.2)
    assert small_checkout.statuses() == ["KILLED"]
    (run,) = small_checkout.client().search_runs(["1"])
    assert "train_loss" in run.data.metrics
