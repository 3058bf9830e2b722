"""Runs as the store has them: find them, and read their metrics and files."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.errors import PipelineError
from pipeline.tracking.links import run_page
from pipeline.tracking.store import without_password


@dataclass(frozen=True)
class RecordedRun:
    """A run as the store has it; params as text, `status` such as FINISHED.

    metrics: the value of the last step of each.
    """

    run_id: str
    experiment_id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def url(self) -> str:
        """The run's page in the MLflow UI, within its view of trainings."""
        return run_page(self.experiment_id, self.run_id)


def training_runs(experiment: str, study: str | None = None) -> list[RecordedRun]:
    """All training runs of an experiment, or of one study in it, oldest first, in whatever state.

    Raises:
        PipelineError: if there is no such experiment.
    """
    if mlflow.get_experiment_by_name(experiment) is None:
        uri = without_password(mlflow.get_tracking_uri())
        raise PipelineError(f"there is no experiment {experiment} in {uri}")
    condition = "tags.`stn.protocol` != ''"
    if study:
        condition += f" and tags.`stn.study` = '{study}'"
    runs = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string=condition,
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    return [_recorded(run) for run in runs]


def _recorded(run: Run) -> RecordedRun:
    return RecordedRun(
        run.info.run_id,
        run.info.experiment_id,
        run.info.run_name,
        run.info.status,
        run.data.params,
        run.data.metrics,
        run.data.tags,
    )


def parent_of_study(experiment: str, study: str) -> RecordedRun | None:
    """The run that holds a study, if it was started before."""
    if mlflow.get_experiment_by_name(experiment) is None:
        return None
    found = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string=f"tags.`stn.study` = '{study}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    for run in found:
        if MLFLOW_PARENT_RUN_ID not in run.data.tags:
            return _recorded(run)
    return None


def is_finished(run_id: str) -> bool:
    """Whether a run has ended well."""
    return mlflow.get_run(run_id).info.status == "FINISHED"


def tags_of(run_id: str) -> dict[str, str]:
    """The tags of a run."""
    return mlflow.get_run(run_id).data.tags


def metrics_of(run_id: str) -> dict[str, float]:
    """The latest value of each metric of a run."""
    return mlflow.get_run(run_id).data.metrics


def last_epoch(run_id: str) -> tuple[int, float]:
    """The last epoch that a training run has logged, and its test accuracy; (0, 0.0) at first."""
    history = metric_history(run_id, "test_accuracy")
    last = max(history, default=0)
    return last, history.get(last, 0.0)


def metric_history(run_id: str, name: str) -> dict[int, float]:
    """A metric's value at each step, in order; of a step logged twice, the newer value."""
    history = mlflow.MlflowClient().get_metric_history(run_id, name)
    return {m.step: m.value for m in sorted(history, key=lambda m: (m.step, m.timestamp))}


def metric_histories(run_ids: list[str], name: str) -> dict[str, dict[int, float]]:
    """The `metric_history` of each run, by run id.

    Of a store in a database, in one query: a query for each run takes 2 ms.
    """
    store = mlflow.MlflowClient()._tracking_client.store
    if not hasattr(store, "get_metric_history_bulk"):  # such as a tracking server
        return {run_id: metric_history(run_id, name) for run_id in run_ids}
    history: dict[str, dict[int, float]] = {run_id: {} for run_id in run_ids}
    found = store.get_metric_history_bulk(run_ids, name, max_results=None)
    for metric in sorted(found, key=lambda metric: (metric.step, metric.timestamp)):
        history[metric.run_id][metric.step] = metric.value
    return history


def artifact_text(run_id: str, name: str) -> str | None:
    """A text among a run's artifacts; None if there is none of that name."""
    content = artifact_bytes(run_id, name)
    return None if content is None else content.decode()


def artifact_bytes(run_id: str, name: str) -> bytes | None:
    """The content of a file among a run's artifacts; None if there is none of that name."""
    artifacts = mlflow.MlflowClient().list_artifacts(run_id)
    if name not in {artifact.path for artifact in artifacts}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(
            mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{name}", dst_path=folder)
        ).read_bytes()
