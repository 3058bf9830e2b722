"""The MLflow UI of a local store."""

import os
import socket
import sys

import mlflow

from pipeline.errors import PipelineError
from pipeline.tracking.experiments import current_experiment, experiment_id_of
from pipeline.tracking.links import LOCAL_UI, runs_page, ui_address
from pipeline.tracking.store import ensure_store


def serve_ui(experiment: str | None) -> None:
    """Print the address of the list of runs, and serve the MLflow UI until it is stopped.

    A tracking server serves its own UI; for such a store, only the address is printed.

    Args:
        experiment: see `runs.open_run`. It is created if it is missing.

    Raises:
        PipelineError: if the port is in use.
    """
    ensure_store()
    experiment_id = experiment_id_of(current_experiment(experiment))
    print(f"the runs are at {runs_page(experiment_id)}", flush=True)
    if ui_address() != LOCAL_UI:
        return
    host, port = LOCAL_UI.removeprefix("http://").split(":")
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
