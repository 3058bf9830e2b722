"""Trainings that end early, on a real store; whole ones are in tests/end_to_end/."""

import sys

import mlflow
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.params import RunParams
from pipeline.tracking.store import plain_errors
from pipeline.training import run
from tests.conftest import PROJECT

PARAMS = RunParams(iterations=1, architecture="cnn", data_dir=str(PROJECT / "data"), threads=1)


def status_of_the_run():
    (found,) = mlflow.search_runs(experiment_names=["stn-mnist"], output_format="list")
    return found.info.status


def test_a_place_for_artifacts_that_cannot_be_written_is_noticed_before_the_training(
    store, monkeypatch
):
    mlflow.create_experiment("stn-mnist", artifact_location="/dev/null/artifacts")
    monkeypatch.setattr(run, "train", lambda *args, **settings: pytest.fail("it trains"))
    with pytest.raises(OSError, match="/dev/null/artifacts"):
        run.run_training(PARAMS)
    assert status_of_the_run() == "FAILED"


def test_a_package_that_the_place_for_artifacts_needs_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)  # as if it were not installed
    mlflow.create_experiment("stn-mnist", artifact_location="s3://bucket/artifacts")
    with pytest.raises(PipelineError, match=r"a package is missing .*boto3"), plain_errors():
        run.run_training(PARAMS)
    assert status_of_the_run() == "FAILED"


def test_too_little_memory_is_one_line_that_says_what_to_do(store, monkeypatch):
    monkeypatch.setattr(run, "train", lambda *args, **settings: torch.empty(2**50))
    with pytest.raises(PipelineError, match=r"use a smaller batch_size \(now 64\)"):
        run.run_training(PARAMS)
    assert status_of_the_run() == "FAILED"


def test_an_exit_amid_the_training_is_an_error(store, monkeypatch):
    monkeypatch.setattr(run, "train", lambda *args, **settings: exit(0))
    with pytest.raises(PipelineError, match="conv2d has ended the program"):
        run.run_training(PARAMS)
    assert status_of_the_run() == "FAILED"
