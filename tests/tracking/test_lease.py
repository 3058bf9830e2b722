"""On a real SQLite store, with a heart that beats fast."""

import os
import socket
import subprocess
import sys
import threading

import mlflow
import pytest

from pipeline.errors import PipelineError
from pipeline.tracking import lease as module
from pipeline.tracking.lease import lease
from pipeline.tracking.runs import open_run

HERE = socket.gethostname()


@pytest.fixture
def run_id(store, monkeypatch) -> str:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    with open_run("study", "") as run:
        pass
    return run.run_id


def held_by(run_id, holder):
    mlflow.MlflowClient().set_tag(run_id, "stn.lease", holder)


def test_one_holder_at_a_time(run_id, monkeypatch):
    monkeypatch.setattr(module, "BEATS_MISSED", 1000)  # a slow machine beats late
    with lease(run_id):
        told = f"running already, on {HERE} in the process {os.getpid()}"
        with pytest.raises(PipelineError, match=told), lease(run_id):
            pass
    assert "stn.lease" not in mlflow.get_run(run_id).data.tags
    with lease(run_id):
        pass


def test_a_holder_elsewhere_that_is_not_heard_from_is_replaced(run_id, capsys):
    held_by(run_id, "another-machine 7 abc 12")
    with lease(run_id):
        assert mlflow.get_run(run_id).data.tags["stn.lease"].startswith(f"{HERE} {os.getpid()} ")
    assert "still running on another-machine" in capsys.readouterr().err


def test_a_process_of_this_machine_that_has_ended_is_replaced_at_once(run_id, monkeypatch):
    monkeypatch.setattr(module, "BEATS_MISSED", 10**9)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    held_by(run_id, f"{HERE} {ended.pid} abc 12")
    with lease(run_id):
        pass


def test_a_holder_that_was_replaced_is_told(run_id):
    told = threading.Event()
    with lease(run_id, on_loss=told.set):
        held_by(run_id, "another-machine 7 abc 0")
        assert told.wait(60)
    assert mlflow.get_run(run_id).data.tags["stn.lease"] == "another-machine 7 abc 0"


def test_of_two_that_write_at_the_same_moment_the_last_one_wins(run_id, monkeypatch):
    beat = module._beat

    def both(run_id, holder, number):
        beat(run_id, holder, number)
        beat(run_id, "another-machine 7 abc", number)

    monkeypatch.setattr(module, "_beat", both)
    with pytest.raises(PipelineError, match="on another-machine in the process 7"), lease(run_id):
        pass


@pytest.mark.parametrize(
    "value", ["junk", " ", f"{HERE} x y 3", f"{HERE} 7", f"{HERE} ² y 3", f"{HERE} {10**30} y 3"]
)
def test_a_tag_that_was_set_to_anything_else_is_replaced_unless_it_changes(run_id, value):
    held_by(run_id, value)
    with lease(run_id):
        assert mlflow.get_run(run_id).data.tags["stn.lease"].startswith(f"{HERE} {os.getpid()} ")


def test_a_tag_of_an_unknown_form_that_goes_on_changing_is_alive(run_id, monkeypatch):
    monkeypatch.setattr(module, "BEATS_MISSED", 1000)
    held_by(run_id, "junk")
    changed = threading.Timer(0.5, held_by, [run_id, "rubbish"])
    changed.start()
    with pytest.raises(PipelineError, match=r"on an unknown machine .*'junk'"), lease(run_id):
        pass
    changed.join()
