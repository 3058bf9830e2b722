"""Addresses of pages in the MLflow UI, and the UI itself."""

import os
import socket
import sys

import mlflow

from pipeline.errors import PipelineError
from pipeline.tracking.experiments import current_experiment, experiment_id_of
from pipeline.tracking.store import ensure_store, without_credentials

UI = "http://127.0.0.1:5000"  # where `make ui` serves
TRAINING_VIEW = "?workflowType=machine_learning"  # else the UI opens its view of traces


def ui_address() -> str:
    """Where the MLflow UI is: the tracking server, or for a local store what `make ui` starts."""
    uri = mlflow.get_tracking_uri()
    return without_credentials(uri).rstrip("/") if uri.startswith("http") else UI


def run_page(experiment_id: str, run_id: str) -> str:
    """The address of a run's page in the MLflow UI, within its view of trainings."""
    return f"{ui_address()}/#/experiments/{experiment_id}/runs/{run_id}{TRAINING_VIEW}"


def serve_ui(experiment: str | None) -> None:
    """Say where the runs are, and become the MLflow UI of a local store until it is stopped.

    A tracking server serves its own UI: there, only the address is printed.

    Raises:
        PipelineError: if the port is taken.
    """
    ensure_store()
    experiment_id = experiment_id_of(current_experiment(experiment))
    page = f"/#/experiments/{experiment_id}/runs{TRAINING_VIEW}"
    print(f"the runs are at {ui_address()}{page}", flush=True)
    if ui_address() != UI:
        return
    host, port = UI.removeprefix("http://").split(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            raise PipelineError(
                f"{host}:{port} is in use, perhaps by a UI that runs already; stop it first"
            ) from None
    arguments = ["-m", "mlflow", "ui", "--backend-store-uri", mlflow.get_tracking_uri()]
    arguments += ["--host", host, "--port", port]
    os.execv(sys.executable, [sys.executable, *arguments])
