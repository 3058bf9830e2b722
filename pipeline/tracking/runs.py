"""Open a run, log to it, and close it whatever happens."""

import hashlib
import os
import subprocess
import sys
import tempfile
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
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from pipeline.tracking.experiments import current_experiment, experiment_id_of, projects_run
from pipeline.tracking.links import run_page
from pipeline.tracking.recorded import metric_history
from pipeline.tracking.store import first_line, one_process_at_a_time
from pipeline.tracking.vocabulary import Metric, Tag

if TYPE_CHECKING:  # `compare`, `store` and `ui` do without torch, which takes seconds to import
    import torch


@contextmanager
def open_run(
    name: str,
    description: str,
    experiment: str | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
) -> Iterator["TrackedRun"]:
    """A run that ends as FINISHED, as KILLED on KeyboardInterrupt, and as FAILED on any exception.

    Under `mlflow run`, MLflow has opened a run already. It is taken over where it lies in the
    right experiment. Otherwise (a bare `mlflow run .` opens it in "Default") a run is opened in
    the right one, and MLflow's empty one gets a note that points to it.

    Args:
        name: of the run.
        description: Markdown, shown on top of the run's page.
        experiment: its name; None takes the one that `mlflow run --experiment-name` or
            `MLFLOW_EXPERIMENT_NAME` chose, else `stn-mnist`.
        params: logged, save those that are logged already, by `mlflow run` as they were typed.
        tags: of the run.
        run_id: a run that exists is opened again and continued.
    """
    opened = projects_run()
    experiment_id = experiment_id_of(current_experiment(experiment))
    os.environ.pop("MLFLOW_RUN_ID", None)  # it is for this run, and for none after it
    taken_over = None
    logged: dict[str, str] = {}
    if run_id:
        before = mlflow.get_run(run_id).data
        logged = before.params
        run = mlflow.start_run(run_id=run_id)
        if Tag.ERROR in before.tags:  # of an earlier attempt
            mlflow.delete_tag(Tag.ERROR)
    elif opened and opened.info.experiment_id == experiment_id:
        taken_over = opened
        run = mlflow.start_run(run_id=taken_over.info.run_id)
    else:
        run = mlflow.start_run(experiment_id=experiment_id, run_name=name)
    run_id = run.info.run_id
    status = "FAILED"
    try:
        tags = {**(tags or {}), MLFLOW_RUN_NOTE: description}
        if taken_over:
            logged = taken_over.data.params
            if _is_generated(taken_over.info.run_name):
                tags[MLFLOW_RUN_NAME] = name
        elif opened:
            _leave_pointer(opened, run)
            tags |= {
                key: value
                for key, value in opened.data.tags.items()
                if key.startswith(("mlflow.source.", "mlflow.project.", "mlflow.gitRepoURL"))
            }
        mlflow.set_tags(tags)
        mlflow.log_params({k: v for k, v in (params or {}).items() if k not in logged})
        yield TrackedRun(run_id, experiment_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        print(f"run {run_id} is closed as KILLED; what it had logged is kept", file=sys.stderr)
        raise
    except Exception as error:
        mlflow.set_tag(Tag.ERROR, f"{type(error).__name__}: {first_line(error)}"[:1000])
        raise
    finally:
        mlflow.end_run(status)
        if status == "KILLED" and taken_over:
            _keep_killed(run_id)


def _is_generated(run_name: str) -> bool:
    """Whether MLflow made the name up, such as `bold-crow-112`, because nobody chose one."""
    words = run_name.split("-")
    return len(words) == 3 and words[0] in _GENERATOR_PREDICATES and words[1] in _GENERATOR_NOUNS


def _leave_pointer(opened: Run, run: Run) -> None:
    """Say in the run that `mlflow run` opened elsewhere where the work went."""
    client = mlflow.MlflowClient()
    pointer = opened.info.run_id
    experiment = client.get_experiment(run.info.experiment_id).name
    target = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    client.set_tag(pointer, MLFLOW_RUN_NAME, f"see {run.info.run_name}")
    client.set_tag(
        pointer, MLFLOW_RUN_NOTE, f"Opened by `mlflow run`. [The run is here.]({target})"
    )
    if opened.info.experiment_id == run.info.experiment_id:
        advice = ""
    else:
        advice = f" `mlflow run --experiment-name {experiment}` does without it."
    print(
        f"`mlflow run` opened the run {pointer}; it only points to this one: "
        f"{run.info.run_id}.{advice}",
        file=sys.stderr,
    )


def _keep_killed(run_id: str) -> None:
    """Set a run to KILLED again once `mlflow run` has set it to FAILED, as it does to all.

    (mlflow.projects._maybe_set_run_terminated would spare a run that has ended, but looks for the
    status's name in a set of numbers.) A process of its own does it, as ours ends before that.
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


@dataclass(frozen=True)
class TrackedRun:
    """The open run."""

    run_id: str
    experiment_id: str

    @property
    def url(self) -> str:
        """The run's page in the MLflow UI, within its view of trainings."""
        return run_page(self.experiment_id, self.run_id)

    def log_metrics(
        self, metrics: dict[str, float], step: int | None = None, model_id: str | None = None
    ) -> None:
        """Log at once; they are in the store when this returns. `model_id` links a model."""
        mlflow.log_metrics(metrics, step=step, run_id=self.run_id, model_id=model_id)

    def log_artifacts(self, artifacts: dict[str, Any]) -> None:
        """Log figures, texts, bytes and dictionaries by file name; the last as .json or .yaml."""
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

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags of the run, or replace them."""
        mlflow.MlflowClient().log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])

    def remove_tag(self, tag: str) -> None:
        """Remove a tag of the run, if the run has it."""
        client = mlflow.MlflowClient()
        if tag in client.get_run(self.run_id).data.tags:
            client.delete_tag(self.run_id, tag)

    def set_description(self, description: str) -> None:
        """Replace the Markdown on top of the run's page."""
        self.set_tags({MLFLOW_RUN_NOTE: description})

    def drop_models(self) -> None:
        """Delete what an earlier attempt at this run logged and registered before it died."""
        client = mlflow.MlflowClient()
        for version in client.search_model_versions(f"run_id = '{self.run_id}'"):
            client.delete_model_version(version.name, version.version)
        for model in client.search_logged_models(
            [self.experiment_id], f"source_run_id = '{self.run_id}'"
        ):
            client.delete_logged_model(model.model_id)

    def log_dataset(self, name: str, context: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Log a data set as an input: its name, digest, shape and context, not its content."""
        # MLflow's own digest knows the first 10,000 pixels only
        content = hashlib.md5(images.data)
        content.update(labels.data)
        data = numpy_dataset.from_numpy(
            images, targets=labels, name=name, digest=content.hexdigest()[:8]
        )
        with one_process_at_a_time():  # MLflow looks whether it has it, and then writes
            try:
                mlflow.log_input(data, context=context)
            except MlflowException:  # a process on another machine was faster
                mlflow.log_input(data, context=context)

    def log_model(self, model: "torch.nn.Module", example: np.ndarray, step: int) -> str:
        """Log a model as a pickle-free `pt2` archive, which needs none of this project's code.

        Args:
            model: a tensor like `example` to class probabilities `(N, 10)`, on the CPU.
            example: uint8 `(N, 1, 28, 28)`, two images or more (of one, the export would fix the
                batch size).
            step: the epoch the model is from.

        Returns:
            The id of the logged model.
        """
        import mlflow.pytorch
        import torch

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
    """Create a run under another one, and return its id; `open_run` opens it."""
    tags = {**tags, MLFLOW_PARENT_RUN_ID: parent.run_id}
    run = mlflow.MlflowClient().create_run(parent.experiment_id, run_name=name, tags=tags)
    return run.info.run_id


def close_run(run_id: str, status: str, error: str | None = None) -> None:
    """Close a run whose process has died as `KILLED` or `FAILED`; one that has ended stays."""
    client = mlflow.MlflowClient()
    if client.get_run(run_id).info.status in ("RUNNING", "SCHEDULED"):
        if error:
            client.set_tag(run_id, Tag.ERROR, error[:1000])
        client.set_terminated(run_id, status)
