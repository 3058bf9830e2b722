"""Addresses of pages in the MLflow UI."""

import mlflow

from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.views import VIEW

LOCAL_UI = "http://127.0.0.1:5000"  # where `make ui` serves the UI of a local store
TRAINING_MODE = "workflowType=machine_learning"  # else the UI opens its pages for GenAI


def ui_address() -> str:
    """Where the MLflow UI is: the tracking server, or for a local store what `make ui` starts."""
    uri = mlflow.get_tracking_uri()
    return without_credentials(uri).rstrip("/") if uri.startswith("http") else LOCAL_UI


def run_page(experiment_id: str, run_id: str) -> str:
    """The address of a run's page."""
    return ui_address() + run_path(experiment_id, run_id)


def runs_page(experiment_id: str) -> str:
    """The address of the list of an experiment's runs, in the view of `views`."""
    return ui_address() + runs_path(experiment_id)


def run_path(experiment_id: str, run_id: str) -> str:
    """The part of `run_page` after the UI's address, for links between its pages."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_MODE}"


def runs_path(experiment_id: str, charts: bool = False) -> str:
    """The part of `runs_page` after the UI's address: the table of runs, or charts of them."""
    path = f"/#/experiments/{experiment_id}/runs?{TRAINING_MODE}&viewStateShareKey={VIEW}"
    return f"{path}&compareRunsMode=CHART" if charts else path
