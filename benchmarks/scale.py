"""How long `compare` takes with many runs in the store, on SQLite and on `make server`'s server.

    python -m benchmarks.scale                     10, 100, 1,000 and 5,000 runs
    python -m benchmarks.scale --runs 10,100       fewer

The runs are not trained. They hold what a training of 30 epochs logs for a comparison: parameters,
tags, and the metrics of each epoch and of the selected model. Both stores are filled with the same
runs, step by step; after each step, the whole command `compare` is timed, with the start of Python,
the figures and the page. It prints the table of `results/scale.md`.
"""

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import mlflow
import sqlalchemy
from mlflow.entities import Metric, Param
from mlflow.store.tracking.dbmodels.models import SqlMetric
from selenium.webdriver.common.utils import free_port

from pipeline.names import protocol_label
from pipeline.params import RunParams
from pipeline.presets import complete
from pipeline.tracking.experiments import experiment_id_of
from pipeline.tracking.store import ensure_store
from server.postgres import postgres
from server.tracking import tracking_server

EPOCHS = 30
LAYERS = ("conv2d", "coordconv2d")
REPEATS = 3


def fill(uri: str, seeds: range) -> None:
    """Log finished runs with these seeds, one of each layer."""
    mlflow.set_tracking_uri(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    ensure_store()
    client, experiment_id = mlflow.MlflowClient(), experiment_id_of("stn-mnist")
    histories = []
    for seed in seeds:
        for layer in LAYERS:
            params = complete({"conv_layer": layer, "seed": seed})
            histories += log_run(client, experiment_id, params)
    if histories:
        # MLflow itself takes 30 ms for those of a run
        with sqlalchemy.create_engine(uri).begin() as connection:
            connection.execute(sqlalchemy.insert(SqlMetric), histories)


def log_run(
    client: mlflow.MlflowClient, experiment_id: str, params: RunParams
) -> list[dict[str, Any]]:
    """Log a finished run as a training does, without the training.

    Returns:
        The rows of its metrics of all epochs but the last, which are not logged.
    """
    chance = random.Random(f"{params.conv_layer} {params.seed}")
    now = int(time.time() * 1000)
    tags = {
        "stn.protocol": protocol_label(params),
        "stn.selection": params.selection,
        "stn.data_digest": "of the benchmark",
        "stn.torch": "2.14.1",
        "stn.cpu": "of the benchmark",
    }
    name = f"{params.conv_layer} seed={params.seed}"
    run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    epochs = []
    for epoch in range(1, EPOCHS + 1):
        accuracy = 0.99 - 0.09 / epoch + chance.gauss(0, 0.0005)
        values = {
            "train_loss": 1 / epoch,
            "train_accuracy": accuracy - 0.01,
            "test_loss": 1.2 / epoch,
            "test_accuracy": accuracy,
            "learning_rate": 0.01,
            "epoch_seconds": 9.0,
            "images_per_second": 7000.0,
        }
        epochs.append(values)
    best = max(range(EPOCHS), key=lambda place: epochs[place]["test_accuracy"])
    selected = {
        "best_test_accuracy": epochs[best]["test_accuracy"],
        "best_test_f1": epochs[best]["test_accuracy"] - 0.001,
        "best_test_loss": 0.04,
        "best_epoch": best + 1.0,
        "pose_deviation": 10.0,
    }
    logged = [Metric(key, value, now, EPOCHS) for key, value in epochs[-1].items()]
    logged += [Metric(key, value, now, 0) for key, value in selected.items()]
    given = params.model_dump(exclude_none=True)
    client.log_batch(
        run_id, metrics=logged, params=[Param(key, str(value)) for key, value in given.items()]
    )
    client.set_terminated(run_id)
    return [
        {"run_uuid": run_id, "key": key, "value": value, "step": step, "timestamp": now}
        for step, values in enumerate(epochs[:-1], start=1)
        for key, value in values.items()
    ]


def seconds_of_compare(uri: str) -> str:
    """The wall time of the whole command, and its CPU time; medians of a few."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "pipeline", "compare"]
    wall, cpu = [], []
    for _ in range(REPEATS):
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.monotonic() - start)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return f"{statistics.median(wall):.1f} ({statistics.median(cpu):.1f})"


@click.command()
@click.option("--runs", default="10,100,1000,5000", show_default=True, help="a comma list")
def main(runs: str) -> None:
    """Fill a SQLite store and a server, and time `compare` on both."""
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root, but as another user
        sqlite = f"sqlite:///{folder}/mlflow.db"
        port = free_port()
        with (
            postgres(folder / "postgres", ["mlflow"]) as (database,),
            tracking_server(database, folder, host="127.0.0.1", port=port, workers=2),
        ):
            click.echo("| runs | SQLite file [s] | server on PostgreSQL [s] |\n| --- | --- | --- |")
            server = f"http://127.0.0.1:{port}"
            fill(server, range(0))  # the experiment, whose artifacts go through the server
            filled = 0
            for count in map(int, runs.split(",")):
                for uri in (sqlite, database):  # directly, which is faster
                    fill(uri, range(filled // 2, count // 2))
                filled = count
                cells = [f"{count:,}", *map(seconds_of_compare, (sqlite, server))]
                click.echo(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
