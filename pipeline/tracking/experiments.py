"""Which experiment a command works in, and what the experiment tells its readers."""

import os

import mlflow
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from pipeline.errors import PipelineError
from pipeline.tracking.links import runs_path
from pipeline.tracking.project_run import project_run
from pipeline.tracking.store import one_process_at_a_time, sqlite_file, store_in
from pipeline.tracking.views import VIEW_TAG, view_state
from pipeline.tracking.vocabulary import Artifact, Tag

EXPERIMENT = "stn-mnist"
_QUESTION = (
    "Spatial transformer networks on MNIST: does CoordConv inside the localization network help?"
)
_KINDS_OF_RUNS = f"""\
Training runs carry the tag `{Tag.PROTOCOL}`; *study* runs hold training runs below them, and their
comparison; *evaluate* runs score a registered model again; *compare* runs hold a comparison:
`{Artifact.COMPARISON_PAGE}` is its page. `{Tag.SELECTION}` tells what the best epoch was
selected on; numbers selected on the test set are optimistic."""
_NOTE_WITHOUT_LINKS = f"{_QUESTION}\n\n{_KINDS_OF_RUNS}"  # of earlier versions


def current_experiment(experiment: str | None = None) -> str:
    """The name of the experiment to use; see `runs.open_run`."""
    opened = project_run()
    if experiment:
        return experiment
    if opened and opened.info.experiment_id != "0":
        return mlflow.get_experiment(opened.info.experiment_id).name
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def experiment_id_of(name: str) -> str:
    """The id of the experiment of this name, with its view and its description up to date.

    It is created if it is missing. A description that somebody else has written is kept.

    Raises:
        PipelineError: if the experiment was deleted.
    """
    experiment = _find_or_create(name)
    if experiment.lifecycle_stage == "deleted":
        raise PipelineError(
            f"the experiment {name} was deleted; restore it "
            f"(mlflow experiments restore -x {experiment.experiment_id}) or choose another"
        )
    if _outdated_tags(experiment):
        with one_process_at_a_time():  # of two that add the same tag at once, one fails
            try:
                _update_tags(experiment.experiment_id)
            except MlflowException:  # on a server, another process was faster
                _update_tags(experiment.experiment_id)
    return experiment.experiment_id


def _find_or_create(name: str) -> Experiment:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment
    try:
        return client.get_experiment(_create(name))
    except MlflowException:
        experiment = client.get_experiment_by_name(name)  # another process was faster
        if experiment is None:
            raise
        return experiment


def _create(name: str) -> str:
    path = sqlite_file()
    return store_in(path).create_experiment(name) if path else mlflow.create_experiment(name)


def _update_tags(experiment_id: str) -> None:
    client = mlflow.MlflowClient()
    for key, value in _outdated_tags(client.get_experiment(experiment_id)).items():
        client.set_experiment_tag(experiment_id, key, value)


def _outdated_tags(experiment: Experiment) -> dict[str, str]:
    """The tags to set: the view, and a description that is missing or an earlier one of ours."""
    expected = {VIEW_TAG: view_state()}
    if experiment.tags.get(MLFLOW_RUN_NOTE) in (None, _NOTE_WITHOUT_LINKS):
        expected[MLFLOW_RUN_NOTE] = _note(experiment.experiment_id)
    return {key: value for key, value in expected.items() if experiment.tags.get(key) != value}


def _note(experiment_id: str) -> str:
    """The description of the experiment, in Markdown; the UI shows its first line at first."""
    table, charts = runs_path(experiment_id), runs_path(experiment_id, charts=True)
    return (
        f"{_QUESTION} See the [results]({table}) and their [charts]({charts}).\n\n{_KINDS_OF_RUNS}"
    )
