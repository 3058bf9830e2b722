"""Which experiment a command works in, and how it is created."""

import os

import mlflow
from mlflow.entities import ExperimentTag, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from pipeline.errors import PipelineError
from pipeline.tracking.store import lacks_the_run, sqlite_file, store_in
from pipeline.tracking.vocabulary import Artifact, Tag

EXPERIMENT = "stn-mnist"
_EXPERIMENT_NOTE = f"""\
Spatial transformer networks on MNIST: does CoordConv inside the localization network help?

Training runs carry the tag `{Tag.PROTOCOL}`; *study* runs hold training runs below them, and their
comparison; *evaluate* runs score a registered model again; *compare* runs hold a comparison:
`{Artifact.COMPARISON_PAGE}` is its page. `{Tag.SELECTION}` tells what the best epoch was
selected on; numbers selected on the test set are optimistic."""


def current_experiment(experiment: str | None = None) -> str:
    """The name of the experiment to use; see `runs.open_run`."""
    opened = projects_run()
    if experiment:
        return experiment
    if opened and opened.info.experiment_id != "0":
        return mlflow.get_experiment(opened.info.experiment_id).name
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def projects_run() -> Run | None:
    """The run that `mlflow run` opened for this process."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        return mlflow.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise lacks_the_run() from error


def experiment_id_of(name: str) -> str:
    """The id of the experiment of this name, which is created if there is none.

    Raises:
        PipelineError: if it was deleted.
    """
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return _create_experiment(name)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise PipelineError(
            f"the experiment {name} was deleted; restore it "
            f"(mlflow experiments restore -x {found.experiment_id}) or choose another"
        )
    if MLFLOW_RUN_NOTE not in found.tags:  # created by `mlflow run --experiment-name`
        client.set_experiment_tag(found.experiment_id, MLFLOW_RUN_NOTE, _EXPERIMENT_NOTE)
    return found.experiment_id


def _create_experiment(name: str) -> str:
    path = sqlite_file()
    if path:
        note = ExperimentTag(MLFLOW_RUN_NOTE, _EXPERIMENT_NOTE)
        return store_in(path).create_experiment(name, tags=[note])
    return mlflow.MlflowClient().create_experiment(name, tags={MLFLOW_RUN_NOTE: _EXPERIMENT_NOTE})
