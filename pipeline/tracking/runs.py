"""Open a run, log to it, and close it in any case."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import mlflow
import numpy as np
from mlflow.data import numpy_dataset
from mlflow.entities import LoggedModelInput, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from pipeline.tracking.experiments import current_experiment, experiment_id_of
from pipeline.tracking.full_disk import keep_reserve, with_reserve
from pipeline.tracking.histories import metric_history
from pipeline.tracking.links import run_page, runs_page
from pipeline.tracking.patience import StoreAway, patience, until_it_answers, waits_for_store
from pipeline.tracking.project_run import (
    has_generated_name,
    keep_killed,
    leave_pointer,
    project_run,
    source_tags,
)
from pipeline.tracking.store import errors_printed, first_line, one_process_at_a_time, sqlite_file
from pipeline.tracking.vocabulary import OPEN, Metric, Tag

if TYPE_CHECKING:  # `compare`, `store` and `ui` need no torch, which takes seconds to import
    import torch


NOTE_LENGTH = 7000  # characters; MLflow keeps 8000 of a note, and more than one text may be in it


@contextmanager
def open_run(
    name: str,
    description: str,
    *,
    experiment: str | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    store_patience: float = 0,
) -> Iterator["TrackedRun"]:
    """Open a run, which is closed at the end of the `with` block.

    The run ends as FINISHED, as KILLED on KeyboardInterrupt and if the store was away for too long,
    and as FAILED on any other exception.

    Under `mlflow run`, MLflow has opened a run already. That run is used if it is in the right
    experiment. Otherwise, as after a bare `mlflow run .`, which opens it in the experiment
    "Default", a new run is opened, and MLflow's run gets a note that points to the new one.

    Args:
        name: of the run; one that `mlflow run --run-name` chose is kept, see `has_generated_name`.
        description: Markdown, shown at the top of the run's page; see `for_note`.
        experiment: its name; None means the one that `mlflow run --experiment-name` or
            `MLFLOW_EXPERIMENT_NAME` chose, else `stn-mnist`.
        params: logged, except those that `mlflow run` has logged already, as they were typed.
        tags: of the run.
        store_patience: the minutes that the process waits for a store that is away, once the run
            is open; see `patience`.
    """
    opened = project_run()
    experiment_id = experiment_id_of(current_experiment(experiment))
    os.environ.pop("MLFLOW_RUN_ID", None)  # a later run of this process is another one
    tags = {**(tags or {}), MLFLOW_RUN_NOTE: description}
    if opened is None or opened.info.experiment_id != experiment_id:
        # with its tags at once: by them, a later command finds a run whose process was killed
        run = mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=tags)
        with (
            patience(store_patience),
            _until_its_end(run, params or {}, tags, unused=opened) as tracked,
        ):
            yield tracked
        return
    run = mlflow.start_run(run_id=opened.info.run_id)
    if has_generated_name(opened):
        tags[MLFLOW_RUN_NAME] = name
    try:
        with patience(store_patience), _until_its_end(run, params or {}, tags) as tracked:
            yield tracked
    except KeyboardInterrupt:
        keep_killed(run.info.run_id)
        raise


@contextmanager
def reopen_run(
    run_id: str,
    description: str,
    *,
    params: dict[str, Any],
    tags: dict[str, str],
    store_patience: float = 0,
) -> Iterator["TrackedRun"]:
    """Continue a run of this project, which ends as a run of `open_run` does.

    Under `mlflow run`, the run that MLflow has opened gets a note that points to the run.

    Args:
        run_id: of the run, which keeps its name.
        description: replaces the Markdown at the top of the run's page; see `for_note`.
        params: logged, except those that are logged already.
        tags: of the run, set or replaced. The error of an earlier attempt is removed.
        store_patience: see `open_run`.
    """
    opened = project_run()
    os.environ.pop("MLFLOW_RUN_ID", None)
    tags = {**tags, MLFLOW_RUN_NOTE: description}
    with patience(store_patience):
        run = until_it_answers("opening the run", lambda: mlflow.start_run(run_id=run_id))
        with _until_its_end(run, params, tags, unused=opened) as tracked:
            if Tag.ERROR in run.data.tags:
                tracked.remove_tag(Tag.ERROR)
            yield tracked


@contextmanager
def _until_its_end(
    run: mlflow.ActiveRun,
    params: dict[str, Any],
    tags: dict[str, str],
    *,
    unused: Run | None = None,
) -> Iterator["TrackedRun"]:
    """Set a run's tags, log those of the params that it lacks, and end it as `open_run` describes.

    Args:
        unused: the run that `mlflow run` has opened instead of this one.
    """
    run_id = run.info.run_id
    keep_reserve(sqlite_file())
    try:
        if unused:
            until_it_answers("leaving a note", lambda: leave_pointer(unused, run))
            tags = {**tags, **source_tags(unused)}
        missing = {k: v for k, v in params.items() if k not in run.data.params}
        until_it_answers("logging tags", lambda: mlflow.set_tags(tags))
        until_it_answers("logging parameters", lambda: mlflow.log_params(missing))
        yield TrackedRun(run_id, run.info.experiment_id)
        until_it_answers("ending the run", lambda: _set_final_status(run_id, "FINISHED"))
    except KeyboardInterrupt:
        _close_unfinished(run_id, "KILLED")
        print(f"run {run_id} is closed as KILLED; what it had logged is kept", file=sys.stderr)
        raise
    except BaseException as error:  # a user's own layer may raise SystemExit
        text = f"{type(error).__name__}: {first_line(error)}"
        _close_unfinished(run_id, "KILLED" if isinstance(error, StoreAway) else "FAILED", text)
        raise


def _close_unfinished(run_id: str, status: str, text: str = "") -> None:
    """End a run that has not finished.

    An error of the store is printed, so that it does not hide the one that ends the run.
    """

    def close() -> None:
        _set_final_status(run_id, status)
        if text:
            mlflow.MlflowClient().set_tag(run_id, Tag.ERROR, text[:1000])

    with errors_printed(f"the run {run_id} could not be closed"):
        with_reserve(sqlite_file(), close)


def _set_final_status(run_id: str, status: str) -> None:
    """End a run; this may be repeated."""
    if mlflow.active_run():
        # It forgets the active run even if the store does not answer, so that the repetition takes
        # the other branch.
        mlflow.end_run(status)
    else:
        mlflow.MlflowClient().set_terminated(run_id, status)


def for_note(markdown: str, file: str) -> str:
    """As many whole blocks of a text as fit into a description, which MLflow would cut anywhere.

    Args:
        markdown: the text.
        file: the run's artifact that contains the whole text; a shortened text refers to it.
    """
    if len(markdown) <= NOTE_LENGTH:
        return markdown
    return markdown[:NOTE_LENGTH].rsplit("\n\n", 1)[0] + f"\n\nThe rest is in `{file}`."


@dataclass(frozen=True)
class TrackedRun:
    """The open run."""

    run_id: str
    experiment_id: str

    @property
    def url(self) -> str:
        """The address of the run's page in the MLflow UI."""
        return run_page(self.experiment_id, self.run_id)

    @property
    def all_runs_url(self) -> str:
        """The address of the list of the experiment's runs in the MLflow UI."""
        return runs_page(self.experiment_id)

    def log_metrics(
        self, metrics: dict[str, float], step: int | None = None, model_id: str | None = None
    ) -> None:
        """Log metrics, which are in the store when this returns.

        Args:
            metrics: the values by name.
            step: the epoch, from 1; None for a run without epochs.
            model_id: a logged model that the metrics belong to.
        """
        now = int(time.time() * 1000)  # the same again for a repetition, which MLflow recognizes
        until_it_answers(
            "logging metrics",
            lambda: mlflow.log_metrics(
                metrics, step=step, run_id=self.run_id, timestamp=now, model_id=model_id
            ),
        )

    @waits_for_store("logging files")
    def log_artifacts(self, artifacts: dict[str, Any]) -> None:
        """Log files by their name.

        Args:
            artifacts: figures, texts, bytes, and dictionaries; the name of a dictionary's file
                ends in .json or .yaml.
        """
        for name, content in artifacts.items():
            if isinstance(content, matplotlib.figure.Figure):
                mlflow.log_figure(content, name, save_kwargs={"dpi": 110})
            elif isinstance(content, str):
                mlflow.log_text(content, name)
            elif isinstance(content, bytes):
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, name)
                    file.write_bytes(content)
                    mlflow.log_artifact(str(file))
            else:
                mlflow.log_dict(content, name)

    def logged_epochs(self) -> int:
        """The last epoch whose metrics are in the store; 0 before the first."""
        return max(metric_history(self.run_id, Metric.TRAIN_LOSS), default=0)

    @waits_for_store("setting tags")
    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags of the run, or replace them."""
        mlflow.MlflowClient().log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])

    @waits_for_store("removing a tag")
    def remove_tag(self, tag: str) -> None:
        """Remove a tag of the run, if the run has it."""
        client = mlflow.MlflowClient()
        if tag in client.get_run(self.run_id).data.tags:
            client.delete_tag(self.run_id, tag)

    def set_description(self, description: str) -> None:
        """Replace the Markdown on top of the run's page."""
        self.set_tags({MLFLOW_RUN_NOTE: description})

    @waits_for_store("deleting models")
    def drop_models(self) -> None:
        """Delete the models that an earlier attempt at this run has logged and registered."""
        client = mlflow.MlflowClient()
        for version in client.search_model_versions(f"run_id = '{self.run_id}'"):
            client.delete_model_version(version.name, version.version)
        for model in client.search_logged_models(
            [self.experiment_id], f"source_run_id = '{self.run_id}'"
        ):
            client.delete_logged_model(model.model_id)

    @waits_for_store("logging a data set")
    def log_dataset(self, name: str, context: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Log a data set as an input of the run, without its content.

        Args:
            name: of the data set.
            context: what the run uses it for: `training`, `validation` or `testing`.
            images: uint8 `(N, 1, S, S)`.
            labels: int `(N,)`.
        """
        # MLflow's own digest covers only the first 10,000 pixels
        content = hashlib.md5(images.data)
        content.update(labels.data)
        data = numpy_dataset.from_numpy(
            images, targets=labels, name=name, digest=content.hexdigest()[:8]
        )
        with one_process_at_a_time():  # MLflow looks for the data set first, and then adds it
            try:
                mlflow.log_input(data, context=context)
            except MlflowException:  # a process on another machine was faster
                mlflow.log_input(data, context=context)

    @waits_for_store("logging the model")
    def log_model(self, model: "torch.nn.Module", example: np.ndarray, step: int) -> str:
        """Log a model as a `pt2` archive, which needs no pickle and no code of this project.

        A model that an earlier attempt at this run has logged is deleted.

        Args:
            model: maps a tensor like `example` to class probabilities `(N, 10)`, on the CPU.
            example: uint8 `(N, 1, 28, 28)`, two images or more, because the export of one image
                would fix the batch size at 1.
            step: the epoch that the model is from.

        Returns:
            The id of the logged model.
        """
        import mlflow.pytorch
        import torch

        self.drop_models()
        signature = ModelSignature(
            inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 10))]),
        )
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            serialization_format="pt2",
            signature=signature,
            input_example=example,
            step=step,
            pip_requirements=[
                f"mlflow=={mlflow.__version__}",
                f"torch=={torch.__version__.split('+')[0]}",
                f"numpy=={np.__version__}",
            ],
        )
        return info.model_id

    def log_model_input(self, model_id: str) -> None:
        """Link the run to the logged model that it uses."""
        mlflow.log_input(model=LoggedModelInput(model_id))


def create_nested_run(parent: TrackedRun, name: str, tags: dict[str, str]) -> str:
    """Create a run below another one, and return its id; `reopen_run` opens it."""
    client = mlflow.MlflowClient()
    tags = {**tags, MLFLOW_PARENT_RUN_ID: parent.run_id}
    now = int(time.time() * 1000)
    repeated = False

    def create() -> str:
        nonlocal repeated
        if repeated:  # the first time, perhaps only the answer was lost
            found = client.search_runs(
                [parent.experiment_id],
                f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.run_id}' "
                f"and attributes.start_time = {now}",
            )
            known = [run.info.run_id for run in found if run.info.run_name == name]
            if known:
                return known[0]
        repeated = True
        run = client.create_run(parent.experiment_id, start_time=now, run_name=name, tags=tags)
        return run.info.run_id

    return until_it_answers("creating a run", create)


def close_run(run_id: str, status: str, error: str | None = None) -> None:
    """Close a run whose process has died, unless the run has ended.

    Args:
        run_id: of the run.
        status: `KILLED` or `FAILED`.
        error: the reason, kept in the tag `stn.error`.
    """
    client = mlflow.MlflowClient()

    def close() -> None:
        if client.get_run(run_id).info.status in OPEN:
            client.set_terminated(run_id, status)
            if error:
                client.set_tag(run_id, Tag.ERROR, error[:1000])

    with_reserve(sqlite_file(), close)
