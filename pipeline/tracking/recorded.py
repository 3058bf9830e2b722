"""Find runs in the store, and read what they have recorded, and their files."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.errors import PipelineError
from pipeline.tracking.links import run_page
from pipeline.tracking.looks import looks_from_text
from pipeline.tracking.patience import waits_for_store
from pipeline.tracking.store import store_address
from pipeline.tracking.vocabulary import IN_ARTIFACTS, OPEN, Metric, Tag

PAGE_SIZE = 1000  # runs that the store is asked for at once; a server sends some 5 KB of each

# what every finished training has logged of its selected model
RESULTS = frozenset(
    {
        Metric.BEST_TEST_ACCURACY,
        Metric.BEST_TEST_F1,
        Metric.BEST_TEST_LOSS,
        Metric.BEST_EPOCH,
    }
)


@dataclass(frozen=True)
class RecordedRun:
    """A run as it is recorded in the store.

    status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
    params: the values as text.
    metrics: of each metric, the value of its last step.

    The properties read its tags and metrics. A text that was not recorded is empty.
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
        """The address of the run's page in the MLflow UI."""
        return run_page(self.experiment_id, self.run_id)

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended without an error or an interruption."""
        return self.status == "FINISHED"

    @property
    def protocol_label(self) -> str:
        """The preset and what differs from it, such as `replication lr=0.02`."""
        return self.tags.get(Tag.PROTOCOL, "")

    @property
    def data_digest(self) -> str:
        """The digest of the MNIST files that the run used."""
        return self.tags.get(Tag.DATA_DIGEST, "")

    @property
    def collapsed(self) -> str:
        """The epoch in which the training collapsed, and why: `epoch 3: the transformer …`."""
        return self.tags.get(Tag.COLLAPSED, "")

    @property
    def study(self) -> str:
        """The id of the study that the run belongs to."""
        return self.tags.get(Tag.STUDY, "")

    @property
    def study_run(self) -> str:
        """The name of the run in its study, such as `coordconv2d seed=3`."""
        return self.tags.get(Tag.STUDY_RUN, "")

    @property
    def seed(self) -> int | None:
        """The seed of a training; None if it was not logged, or is no number."""
        try:
            return int(self.params["seed"])
        except (KeyError, ValueError):
            return None

    @property
    def design(self) -> str:
        """The plan of a study that stops when it is decided, as JSON; of a study's parent run."""
        return self.tags.get(Tag.DESIGN, "")

    @property
    def looks(self) -> list[set[int]]:
        """The seeds at each look at a study of fixed size, in order; of a study's parent run.

        Raises:
            PipelineError: if the tag holds anything else.
        """
        text = self.tags.get(Tag.LOOKS, "[]")
        try:
            return looks_from_text(text)
        except ValueError:
            raise PipelineError(
                f"the tag {Tag.LOOKS} of run {self.name} ({self.run_id}) is no list of looks: "
                f"{text[:100]!r}; restore the tag, or delete it if the study has had one look"
            ) from None

    @property
    def host(self) -> str:
        """The name of the machine that the study was last started on; of a study's parent run."""
        return self.tags.get(Tag.HOST, "")

    @property
    def checkpoint_folder(self) -> Path | None:
        """The folder of the study's checkpoints.

        None if they are among the artifacts, or the run belongs to no study.
        """
        folder = self.tags.get(Tag.CHECKPOINTS)
        return Path(folder) if folder and folder != IN_ARTIFACTS else None

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended, as far as the store knows."""
        return self.status in OPEN

    @property
    def has_epochs(self) -> bool:
        """Whether the run has logged the metrics of an epoch."""
        return Metric.TRAIN_LOSS in self.metrics

    @property
    def has_results(self) -> bool:
        """Whether the run has logged the scores of its selected model.

        If not, `best_test_accuracy`, `best_test_f1`, `best_test_loss` and `best_epoch` raise a
        KeyError.
        """
        return self.metrics.keys() >= RESULTS

    @property
    def best_test_accuracy(self) -> float:
        """The test accuracy of the selected model, a fraction."""
        return self.metrics[Metric.BEST_TEST_ACCURACY]

    @property
    def best_test_f1(self) -> float:
        """The macro F1 of the selected model on the test set, a fraction."""
        return self.metrics[Metric.BEST_TEST_F1]

    @property
    def best_test_loss(self) -> float:
        """The cross-entropy of the selected model on the test set."""
        return self.metrics[Metric.BEST_TEST_LOSS]

    @property
    def best_epoch(self) -> int:
        """The epoch that was selected, from 1."""
        return int(self.metrics[Metric.BEST_EPOCH])

    @property
    def last_test_accuracy(self) -> float | None:
        """The test accuracy after the last epoch, a fraction; None if it was not logged."""
        return self.metrics.get(Metric.TEST_ACCURACY)

    @property
    def pose_deviation(self) -> float | None:
        """How much the digits' pose varies after the transformer; None if it was not logged."""
        return self.metrics.get(Metric.POSE_DEVIATION)

    @property
    def runs_finished(self) -> int:
        """How many runs of the study have finished; of a study's parent run."""
        return int(self.metrics.get(Metric.RUNS_FINISHED, 0))


@waits_for_store("reading a run")
def recorded_run(run_id: str) -> RecordedRun:
    """The run with this id."""
    return _recorded(mlflow.get_run(run_id))


@waits_for_store("reading runs")
def training_runs(experiment: str, study: str | None = None) -> list[RecordedRun]:
    """All training runs of an experiment, or of one study in it, in any state; oldest first.

    Raises:
        PipelineError: if there is no such experiment.
    """
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        raise PipelineError(f"there is no experiment {experiment} in {store_address()}")
    condition = f"tags.`{Tag.PROTOCOL}` != ''"
    if study:
        condition += f" and tags.`{Tag.STUDY}` = '{study}'"
    return [_recorded(run) for run in _oldest_first(found.experiment_id, condition, PAGE_SIZE)]


@waits_for_store("reading runs")
def runs_with_tag(experiment: str, tag: str, value: str) -> list[RecordedRun]:
    """The runs of an experiment with this value of a tag, oldest first; none if it is missing."""
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        return []
    condition = f"tags.`{tag}` = '{value}'"
    return [_recorded(run) for run in _oldest_first(found.experiment_id, condition, PAGE_SIZE)]


def _oldest_first(experiment_id: str, condition: str, page_size: int) -> Iterator[Run]:
    """The runs that meet a condition, read page by page."""
    client, token = mlflow.MlflowClient(), None
    while True:
        page = client.search_runs(
            [experiment_id],
            condition,
            max_results=page_size,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _recorded(run: Run) -> RecordedRun:
    return RecordedRun(
        run.info.run_id,
        run.info.experiment_id,
        _printable(run.info.run_name or ""),
        run.info.status,
        # the parameter as `mlflow run` logged it lacks the digest of a user's own layer
        {**run.data.params, **_tagged_layer(run)},
        run.data.metrics,
        {tag: _printable(value) for tag, value in run.data.tags.items()},
    )


def _printable(text: str) -> str:
    """A text in one line; others may have logged control characters for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _tagged_layer(run: Run) -> dict[str, str]:
    tags = run.data.tags
    return {"conv_layer": tags[Tag.CONV_LAYER]} if Tag.CONV_LAYER in tags else {}


@waits_for_store("reading a study")
def parent_of_study(experiment: str, study: str) -> RecordedRun | None:
    """The parent run of a study; None if the study has not been started before."""
    is_id = re.fullmatch(r"[\w-]+", study)  # others may have logged anything as the tag
    found = mlflow.get_experiment_by_name(experiment) if is_id else None
    if found is None:
        return None
    condition = f"tags.`{Tag.STUDY}` = '{study}'"
    # it was created before the runs below it, so that it is among the first
    for run in _oldest_first(found.experiment_id, condition, 10):
        if MLFLOW_PARENT_RUN_ID not in run.data.tags:
            return _recorded(run)
    return None


@waits_for_store("reading files")
def artifact_bytes(run_id: str, name: str) -> bytes | None:
    """The content of a run's artifact; None if there is no artifact of that name."""
    artifacts = mlflow.MlflowClient().list_artifacts(run_id)
    if name not in {artifact.path for artifact in artifacts if not artifact.is_dir}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(
            mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{name}", dst_path=folder)
        ).read_bytes()
