"""A study that is quick on a part of MNIST, and what it left in the store."""

import sys
import time

# a few large batches; what it learns does not matter here
SMALL = {"epochs": 2, "batch_size": 512, "lr": 0.05, "momentum": 0.5}

TIMES = {"epoch_seconds", "images_per_second"}  # the only metrics that may differ


def arguments(form, **given):
    return [part.format(name, value) for name, value in given.items() for part in form]


def study_command(**given):
    """The command of the small study, with other parameters; one that is None is left out."""
    chosen = {**SMALL, "runs": 1, **given}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    options = arguments(("--{0}", "{1}"), **chosen)
    return [sys.executable, "-m", "pipeline", "study", *options]


def runs_of(checkout):
    """The study's parent run, and its nested runs by name."""
    experiment = checkout.client().get_experiment_by_name("stn-mnist")
    runs = checkout.client().search_runs([experiment.experiment_id])
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if "stn.study" in run.data.tags and run not in nested]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {parent.info.run_id}
    names = [run.info.run_name for run in nested]
    assert len(names) == len(set(names)), "a run is double"
    return parent, dict(zip(names, nested, strict=True))


def wait_for_an_epoch(checkout, process):
    """Wait until a run of the study that the process works on saves a checkpoint; its end will do.

    Raises:
        TimeoutError: after ten minutes, which a busy machine may take to begin.
    """
    folder = checkout.folder / "checkpoints"

    def saved():
        files = [
            *folder.glob("*.pt"),
            *checkout.folder.glob("mlruns/**/checkpoint/*.pt"),
        ]
        return {file: file.stat().st_mtime_ns for file in files if file.exists()}

    before = saved()
    for _ in range(6000):
        if process.poll() is not None or saved().items() - before.items():
            return
        time.sleep(0.1)
    raise TimeoutError("no epoch has ended")


def history_of(checkout, run):
    """Every metric of a run but the times, with its steps and values."""
    return {
        name: [
            (metric.step, metric.value)
            for metric in checkout.client().get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
        if name not in TIMES
    }


def table_of(checkout, parent):
    path = checkout.client().download_artifacts(parent.info.run_id, "comparison.md")
    with open(path) as file:
        return [line for line in file.read().splitlines() if line.startswith("| c")]
