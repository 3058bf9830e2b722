"""The run that `mlflow run` opens before it starts the command, and expects the command to use.

MLflow gives its id to the command in the environment variable `MLFLOW_RUN_ID`.
"""

import os
import re
import subprocess
import sys

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from pipeline.tracking.links import run_path
from pipeline.tracking.store import lacks_the_run


def project_run() -> Run | None:
    """The run that `mlflow run` has opened for this process; None without `mlflow run`.

    Raises:
        PipelineError: if the store does not contain that run.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        return mlflow.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise lacks_the_run() from error


def has_generated_name(run: Run) -> bool:
    """Whether the run's name has the form that MLflow generates, such as `bold-crow-112`.

    MLflow generates a name where `mlflow run` is started without `--run-name`. A chosen name of
    that form cannot be told from a generated one.
    """
    name = run.info.run_name
    form = r"[a-z]{3,}-([a-z]{3,}|ox)-\d{1,4}"  # MLflow's only word of two letters
    return len(name) <= 20 and re.fullmatch(form, name) is not None


def source_tags(opened: Run) -> dict[str, str]:
    """The tags by which `mlflow run` records the project, its version and its entry point."""
    prefixes = ("mlflow.source.", "mlflow.project.", "mlflow.gitRepoURL")
    return {key: value for key, value in opened.data.tags.items() if key.startswith(prefixes)}


def leave_pointer(opened: Run, run: Run) -> None:
    """Name and describe the run that `mlflow run` has opened as a pointer to the run in use."""
    client = mlflow.MlflowClient()
    pointer = opened.info.run_id
    target = run_path(run.info.experiment_id, run.info.run_id)
    client.set_tag(pointer, MLFLOW_RUN_NAME, f"see {run.info.run_name}")
    client.set_tag(
        pointer, MLFLOW_RUN_NOTE, f"Opened by `mlflow run`. [The run is here.]({target})"
    )
    if opened.info.experiment_id == run.info.experiment_id:
        advice = ""
    else:
        experiment = client.get_experiment(run.info.experiment_id).name
        advice = f" `mlflow run --experiment-name {experiment}` does without it."
    print(
        f"`mlflow run` opened the run {pointer}; it only points to this one: "
        f"{run.info.run_id}.{advice}",
        file=sys.stderr,
    )


def keep_killed(run_id: str) -> None:
    """Set a run to KILLED again after `mlflow run` has set it to FAILED, as it always does.

    (mlflow.projects._maybe_set_run_terminated is meant to spare a run that has ended, but it looks
    for the status's name in a set of numbers.) This needs a process of its own, because
    `mlflow run` waits for the end of ours.
    """
    code = (
        "import mlflow, sys, time\n"
        "client = mlflow.MlflowClient()\n"
        "for _ in range(60):\n"
        "    if client.get_run(sys.argv[1]).info.status == 'FAILED':\n"
        "        client.set_terminated(sys.argv[1], 'KILLED')\n"
        "        break\n"
        "    time.sleep(0.5)\n"
    )
    subprocess.Popen(
        [sys.executable, "-c", code, run_id],
        env={**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
