"""Many clients that log whole runs to `make server`'s server at once: is each run there, and once?

    python -m benchmarks.load                      16 clients, 4 runs each
    python -m benchmarks.load --clients 4          fewer

A run is logged as a training logs it, without the training: parameters, tags, the metrics of 30
epochs one by one, pictures and tables of the usual size, and a model, which is registered. Then the
store is read again: a run that is lost, double, open or incomplete ends the benchmark with an
error. It prints the figures of `results/scale.md`.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import click
import mlflow
from selenium.webdriver.common.utils import free_port

from benchmarks.scale import EPOCHS
from pipeline.presets import complete
from pipeline.tracking.histories import metric_histories
from pipeline.tracking.recorded import training_runs
from pipeline.tracking.registry import Candidate, register
from pipeline.tracking.runs import open_run
from server.postgres import postgres
from server.tracking import tracking_server

# as large as those of a training
FILES = {
    "params.yaml": 1_000,
    "predictions.csv": 40_000,
    "learning_curves.png": 68_000,
    "stn_before_after.png": 80_000,
    "confusion_matrix.png": 52_000,
    "confusion_matrix.csv": 400,
    "classification_report.json": 2_000,
    "poses.npz": 12_000,
    "transformer.gif": 528_000,
}
MODEL_BYTES = 380_000


def log_runs(uri: str, client: int, count: int) -> tuple[list[float], list[float]]:
    """What one client does; the seconds of each whole run, and of each epoch's metrics."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    mlflow.set_tracking_uri(uri)
    of_runs, of_epochs = [], []
    for number in range(count):
        start = time.monotonic()
        params = complete({"seed": client * 1000 + number})
        with open_run(
            f"run {client} {number}",
            "",
            params=params.model_dump(exclude_none=True),
            tags={"stn.protocol": "load", "stn.selection": "test"},
        ) as run:
            for epoch in range(1, EPOCHS + 1):
                before = time.monotonic()
                names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
                names += ("learning_rate", "epoch_seconds", "images_per_second")
                run.log_metrics(dict.fromkeys(names, 1 / epoch), step=epoch)
                of_epochs.append(time.monotonic() - before)
            run.log_artifacts({name: os.urandom(size) for name, size in FILES.items()})
            model = mlflow.initialize_logged_model("model")
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "MLmodel").write_text("flavors: {}\n")
                Path(folder, "model.pt2").write_bytes(os.urandom(MODEL_BYTES))
                mlflow.MlflowClient().log_model_artifacts(model.model_id, folder)
            mlflow.finalize_logged_model(model.model_id, "READY")
            register(model.model_id, Candidate("test", 0.9, 0.1))
        of_runs.append(time.monotonic() - start)
    return of_runs, of_epochs


def check(expected: int) -> None:
    """Raises ClickException unless the store holds so many whole runs, each once."""
    runs = training_runs("stn-mnist")
    names = {run.name for run in runs}
    if not len(runs) == len(names) == expected:
        raise click.ClickException(f"{len(runs)} runs, {len(names)} names; expected {expected}")
    client = mlflow.MlflowClient()
    histories = metric_histories([run.run_id for run in runs], "images_per_second")
    for run in runs:
        files = {file.path for file in client.list_artifacts(run.run_id)}
        versions = client.search_model_versions(f"run_id = '{run.run_id}'")
        if not run.is_finished or len(versions) != 1 or not files >= set(FILES):
            raise click.ClickException(f"{run.name}: {run.status}, {len(versions)} versions")
        if list(histories[run.run_id]) != list(range(1, EPOCHS + 1)):
            raise click.ClickException(f"{run.name}: epochs {list(histories[run.run_id])}")


@click.command()
@click.option("--clients", default=16, show_default=True, help="that log at the same time")
@click.option("--runs", default=4, show_default=True, help="of each client")
@click.option("--workers", default=2, show_default=True, help="processes of the server")
def main(clients: int, runs: int, workers: int) -> None:
    """Log runs to a server from many clients at once, and check that all are there."""
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root, but as another user
        port = free_port()
        uri = f"http://127.0.0.1:{port}"
        with (
            postgres(folder / "postgres", ["mlflow"]) as (database,),
            tracking_server(database, folder, host="127.0.0.1", port=port, workers=workers),
        ):
            with multiprocessing.get_context("spawn").Pool(clients) as pool:
                start = time.monotonic()
                jobs = [(uri, client, runs) for client in range(clients)]
                done = pool.starmap(log_runs, jobs, chunksize=1)
                seconds = time.monotonic() - start
            os.environ["MLFLOW_TRACKING_URI"] = uri
            mlflow.set_tracking_uri(uri)
            check(clients * runs)
    of_runs = [seconds for each, _ in done for seconds in each]
    of_epochs = [seconds for _, each in done for seconds in each]
    rows = {
        "clients, runs in all": f"{clients}, {clients * runs}",
        "lost, double, open or incomplete": "0",
        "whole time, with the start of the clients": f"{seconds:.0f} s",
        "runs per minute": f"{60 * clients * runs / seconds:.0f}",
        "a whole run: median, longest": f"{statistics.median(of_runs):.1f} s, {max(of_runs):.1f} s",
        "metrics of an epoch: median, 95th percentile, longest": ", ".join(
            f"{1000 * value:.0f} ms"
            for value in (
                statistics.median(of_epochs),
                statistics.quantiles(of_epochs, n=20)[-1],
                max(of_epochs),
            )
        ),
    }
    click.echo("| | |\n| --- | --- |")
    for what, value in rows.items():
        click.echo(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
