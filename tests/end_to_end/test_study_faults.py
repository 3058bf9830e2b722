"""Studies that are interrupted or fail in part, and many processes on one store."""

import json
import signal
import sys
import time

import pytest

from tests.end_to_end.conftest import ONE_SCREEN, last_line
from tests.end_to_end.studies import (
    SMALL,
    arguments,
    runs_of,
    study_command,
    wait_for_an_epoch,
)


def test_an_interrupted_study_closes_its_runs_and_says_so(small_checkout):
    process = small_checkout.start(*study_command(epochs=5000, architecture="cnn"), **ONE_SCREEN)
    wait_for_an_epoch(small_checkout, process)
    process.send_signal(signal.SIGINT)
    screen, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "is closed as KILLED" in screen
    assert "Traceback" not in screen
    assert last_line(screen) == "interrupted"
    assert set(small_checkout.statuses()) == {"KILLED"}


@pytest.mark.slow
def test_a_run_that_diverges_does_not_stop_the_others(small_checkout):
    command = study_command(conv_layer="conv2d", lr="0.1,1e30", epochs=None, iterations=5)
    done = small_checkout.run(*command, **ONE_SCREEN)
    assert done.returncode == 1
    last = last_line(done.stdout)
    assert last.startswith("Error: 1 of 2 runs failed")
    assert "conv2d lr=1e+30 seed=0 failed: training diverged in epoch 1" in last
    parent, nested = runs_of(small_checkout)
    assert parent.info.status == "FAILED"
    assert {name: run.info.status for name, run in nested.items()} == {
        "conv2d lr=0.1 seed=0": "FINISHED",
        "conv2d lr=1e+30 seed=0": "FAILED",
    }
    path = small_checkout.client().download_artifacts(parent.info.run_id, "comparison.md")
    with open(path) as file:
        assert "conv2d lr=1e+30 seed=0 failed: training diverged" in file.read()


RACE = """
import json, sys
import numpy as np
from pipeline.tracking.runs import open_run
from pipeline.tracking.store import ensure_store
ensure_store()
with open_run("race", "", params={"number": sys.argv[1]}) as run:
    run.log_dataset("same", "training", np.zeros((4, 1)), np.zeros(4))
    for step in range(20):
        run.log_metrics({"a": 1.0, "b": 2.0}, step=step)
print(json.dumps(run.run_id))
"""


def test_a_creation_of_the_store_that_is_killed_can_be_repeated(checkout):
    command = [sys.executable, "-m", "pipeline", "store"]
    process = checkout.start(*command)
    partial = checkout.folder / "mlflow.db.new"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.01)
    process.kill()  # amid the tables
    process.communicate()
    assert not (checkout.folder / "mlflow.db").exists()
    assert checkout.run(*command).returncode == 0
    assert checkout.run(sys.executable, "-c", RACE, "1").returncode == 0


def test_four_processes_may_create_one_store_and_write_to_it_at_once(checkout):
    processes = [checkout.start(sys.executable, "-c", RACE, str(n)) for n in range(4)]
    ended = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ended
    run_ids = {json.loads(output.splitlines()[-1]) for output, _ in ended}
    assert len(run_ids) == 4
    assert set(checkout.statuses()) == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.parametrize("time", range(3))
def test_eight_trainings_at_once_on_a_fresh_store(small_checkout, time):
    options = arguments(("--{0}", "{1}"), **{**SMALL, "epochs": 1, "threads": 1})
    processes = [
        small_checkout.start(sys.executable, "-m", "pipeline", "train", *options, "--seed", str(n))
        for n in range(8)
    ]
    ended = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, ended
    assert small_checkout.statuses() == ["FINISHED"] * 8
    assert len(small_checkout.client().search_model_versions("name='stn-mnist'")) == 8


@pytest.mark.slow
def test_a_study_with_eight_workers_on_a_fresh_store(small_checkout):
    done = small_checkout.run(*study_command(runs=4, workers=8, epochs=1))
    assert done.returncode == 0, done.stderr
    assert small_checkout.statuses() == ["FINISHED"] * 9
