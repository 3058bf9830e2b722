"""Everything MLflow: open a run, log to it, find runs, register models, move aliases.

The only module that imports mlflow. The store is MLflow's own default, `sqlite:///mlflow.db` in
the working directory, unless `MLFLOW_TRACKING_URI` names another.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# An unreachable server is reported within seconds; MLflow's default of 7 retries takes minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import matplotlib.figure
import mlflow
import mlflow.pytorch
import numpy as np
import requests
import sqlalchemy.exc
import torch
from mlflow.entities import LoggedModelInput, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from pipeline.errors import PipelineError

EXPERIMENT = "stn-mnist"
REGISTERED_MODEL = "stn-mnist"
UI = "http://127.0.0.1:5000"  # where `make ui` serves

_EXPERIMENT_NOTE = """\
Spatial transformer networks on MNIST: does CoordConv inside the localization network help?

Training runs carry the tag `stn.protocol`; *evaluate* runs score a registered model again;
*compare* runs hold the table, `comparison.md`. `stn.selection` tells what the best epoch was
selected on; numbers selected on the test set are optimistic."""
_MODEL_NOTE = """\
Digit classifiers with a spatial transformer. Input: raw uint8 images `(N, 1, 28, 28)`, white ink
on black; output: class probabilities `(N, 10)`. `champion` is the best of all,
`best-conv2d` and `best-coordconv2d` the best of each layer."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what MLflow, its store and the file system raise into a PipelineError of one line."""
    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise PipelineError(f"MLflow ({_shown_uri()}): {reason}") from error
    except OSError as error:
        raise PipelineError(" ".join(str(error).split())) from error


def check_store() -> None:
    """Fail at once where the store is a SQLite file that cannot be written.

    MLflow itself would retry for minutes.

    Raises:
        PipelineError: if so.
    """
    uri = mlflow.get_tracking_uri()
    if not uri.startswith("sqlite:///"):
        return
    path = Path(unquote(uri.removeprefix("sqlite:///")))
    exists = path.exists()
    parent = next(p for p in path.absolute().parents if p.exists())
    if exists and not path.is_file():
        problem = "is no file"
    elif exists and not os.access(path, os.W_OK):
        problem = "is not writable"
    elif not parent.is_dir() or not os.access(parent, os.W_OK):
        problem = f"cannot be created: {parent} is no folder that you may write to"
    else:
        return
    raise PipelineError(
        f"the tracking store {path} {problem}; set MLFLOW_TRACKING_URI to one that can be written"
    )


@contextmanager
def open_run(
    name: str,
    description: str,
    experiment: str | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
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
        params: logged, save those that `mlflow run` has logged already as they were typed.
        tags: of the run.
    """
    projects_run = _projects_run()
    experiment_id = _experiment_id(current_experiment(experiment))
    os.environ.pop("MLFLOW_RUN_ID", None)  # it is for this run, and for none after it
    tags = {**(tags or {}), MLFLOW_RUN_NOTE: description}
    logged: dict[str, str] = {}
    if projects_run and projects_run.info.experiment_id == experiment_id:
        logged = projects_run.data.params
        if _is_generated(projects_run.info.run_name):
            tags[MLFLOW_RUN_NAME] = name
        run = mlflow.start_run(run_id=projects_run.info.run_id)
    else:
        run = mlflow.start_run(experiment_id=experiment_id, run_name=name)
        if projects_run:
            _leave_pointer(projects_run, run)
            tags |= {
                key: value
                for key, value in projects_run.data.tags.items()
                if key.startswith(("mlflow.source.", "mlflow.project.", "mlflow.gitRepoURL"))
            }
    status = "FAILED"
    try:
        mlflow.set_tags(tags)
        mlflow.log_params({k: v for k, v in (params or {}).items() if k not in logged})
        yield TrackedRun(run.info.run_id, experiment_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception as error:
        mlflow.set_tag("stn.error", f"{type(error).__name__}: {error}"[:1000])
        raise
    finally:
        mlflow.end_run(status)
        if status == "KILLED" and logged:
            _mark_killed_after(os.getppid(), run.info.run_id)


def current_experiment(experiment: str | None = None) -> str:
    """The name of the experiment to use; see `open_run`."""
    projects_run = _projects_run()
    if experiment:
        return experiment
    if projects_run and projects_run.info.experiment_id != "0":
        return mlflow.get_experiment(projects_run.info.experiment_id).name
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _projects_run() -> Run | None:
    """The run that `mlflow run` opened for this process."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    return mlflow.get_run(run_id) if run_id else None


def _experiment_id(name: str) -> str:
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, tags={MLFLOW_RUN_NOTE: _EXPERIMENT_NOTE})
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


def _is_generated(run_name: str) -> bool:
    """Whether MLflow made the name up, such as `bold-crow-112`, because nobody chose one."""
    return re.fullmatch(r"[a-z]+-[a-z]+-\d+", run_name) is not None


def _leave_pointer(projects_run: Run, run: Run) -> None:
    """Say in the run that `mlflow run` opened elsewhere where the work went."""
    client = mlflow.MlflowClient()
    pointer = projects_run.info.run_id
    target = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    client.set_tag(pointer, MLFLOW_RUN_NAME, f"see {run.info.run_name}")
    client.set_tag(
        pointer, MLFLOW_RUN_NOTE, f"Opened by `mlflow run`. [The run is here.]({target})"
    )
    print(
        f"`mlflow run` opened the run {pointer} in another experiment; it only points to this one: "
        f"{run.info.run_id}. `mlflow run --experiment-name {EXPERIMENT}` does without it.",
        file=sys.stderr,
    )


def _mark_killed_after(project_process: int, run_id: str) -> None:
    """Set a run to KILLED once `mlflow run` has ended, which sets every interrupted run to FAILED.

    (mlflow.projects._maybe_set_run_terminated would spare a run that has ended, but compares a
    status by name with a set of numbers.)
    """
    code = (
        "import os, sys, time, mlflow\n"
        "for _ in range(100):\n"
        "    try: os.kill(int(sys.argv[1]), 0)\n"
        "    except ProcessLookupError: break\n"
        "    time.sleep(0.1)\n"
        "mlflow.MlflowClient().set_terminated(sys.argv[2], 'KILLED')\n"
    )
    subprocess.Popen(
        [sys.executable, "-c", code, str(project_process), run_id],
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
        """The run's page in the MLflow UI."""
        return f"{ui_address()}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def log_metrics(
        self, metrics: dict[str, float], step: int | None = None, model_id: str | None = None
    ) -> None:
        """Log at once: they are in the store when this returns."""
        mlflow.log_metrics(metrics, step=step, model_id=model_id)

    def log_artifacts(self, artifacts: dict[str, Any]) -> None:
        """Log figures, texts and dictionaries, by file name; dictionaries as .json or .yaml."""
        for name, content in artifacts.items():
            if isinstance(content, matplotlib.figure.Figure):
                mlflow.log_figure(content, name, save_kwargs={"dpi": 110})
            elif isinstance(content, str):
                mlflow.log_text(content, name)
            else:
                mlflow.log_dict(content, name)

    def log_dataset(
        self, name: str, context: str, images: np.ndarray, labels: np.ndarray, digest: str
    ) -> None:
        """Log a data set as an input: its name, digest, shape and context, not its content."""
        data = mlflow.data.numpy_dataset.from_numpy(
            images, targets=labels, name=name, digest=digest
        )
        mlflow.log_input(data, context=context)

    def log_model(
        self, model: torch.nn.Module, example: np.ndarray, step: int, metrics: dict[str, float]
    ) -> str:
        """Log a model as a pickle-free `pt2` archive, which needs none of this project's code.

        Args:
            model: a tensor like `example` to class probabilities `(N, 10)`, on the CPU.
            example: uint8 `(N, 1, 28, 28)`, two images or more (of one, the export would fix the
                batch size).
            step: the epoch the model is from.
            metrics: linked to the model.

        Returns:
            The id of the logged model.
        """
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
        mlflow.log_metrics(metrics, step=step, model_id=info.model_id)
        return info.model_id

    def log_model_input(self, model_id: str) -> None:
        """Link the run to the logged model that it uses."""
        mlflow.log_input(model=LoggedModelInput(model_id))


def ui_address() -> str:
    """Where the MLflow UI is: the tracking server, or for a local store what `make ui` starts."""
    uri = mlflow.get_tracking_uri()
    return _without_password(uri).rstrip("/") if uri.startswith("http") else UI


def runs_address(experiment: str | None) -> str:
    """The page of an experiment's runs; the experiment is created where it does not exist."""
    experiment_id = _experiment_id(current_experiment(experiment))
    return f"{ui_address()}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def _shown_uri() -> str:
    return _without_password(mlflow.get_tracking_uri())


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


@dataclass(frozen=True)
class Candidate:
    """What decides whether a model is better: `accuracy` and `loss` on the selection set."""

    selection: str
    accuracy: float
    loss: float

    def beats(self, other: "Candidate") -> bool:
        """Higher accuracy, or the same with lower loss."""
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


def register(model_id: str, candidate: Candidate, aliases: list[str]) -> tuple[int, list[str]]:
    """Register a logged model as a version, and give it the aliases that it deserves.

    An alias moves to a better model only, and never to one of another selection protocol, whose
    accuracy means something else.

    Returns:
        The version, and a sentence for each alias.
    """
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(REGISTERED_MODEL, description=_MODEL_NOTE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = client.get_logged_model(model_id)
    version = client.create_model_version(
        REGISTERED_MODEL,
        source=f"models:/{model_id}",
        run_id=model.source_run_id,
        model_id=model_id,
        tags={f"stn.{key}": str(value) for key, value in vars(candidate).items()},
    ).version
    holders = client.get_registered_model(REGISTERED_MODEL).aliases
    news = []
    for alias in aliases:
        reason = _reason_to_stay(candidate, holders[alias]) if alias in holders else None
        if reason:
            news.append(f"{alias} stays at version {holders[alias]}, {reason}")
        else:
            client.set_registered_model_alias(REGISTERED_MODEL, alias, version)
            news.append(f"{alias} is now version {version}")
    return int(version), news


def _reason_to_stay(candidate: Candidate, version: str) -> str | None:
    tags = mlflow.MlflowClient().get_model_version(REGISTERED_MODEL, version).tags
    try:
        holder = Candidate(
            tags["stn.selection"], float(tags["stn.accuracy"]), float(tags["stn.loss"])
        )
    except KeyError:
        return "which was not registered by this pipeline"
    if holder.selection != candidate.selection:
        return f"selected on another set ({holder.selection}, not {candidate.selection})"
    if not candidate.beats(holder):
        return f"which is at least as good ({holder.accuracy:.2%})"
    return None


@dataclass(frozen=True)
class LoadedModel:
    """A registered or logged model, ready to predict.

    predict: uint8 `(N, 1, 28, 28)` to float32 `(N, 10)`.
    """

    predict: Any
    model_id: str
    source_run_id: str


def load_model(uri: str) -> LoadedModel:
    """Load `models:/name@alias`, `models:/name/version`, `models:/m-…` or `runs:/run_id/model`.

    Raises:
        PipelineError: if there is no such model.
    """
    try:
        model = mlflow.pyfunc.load_model(uri)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(
            f"no model could be loaded from {uri}: {reason}; allowed: "
            f"models:/{REGISTERED_MODEL}@champion, models:/{REGISTERED_MODEL}/<version>, "
            "models:/<model id>, runs:/<run id>/model"
        ) from None
    meta = model.metadata
    return LoadedModel(model.predict, meta.model_id, meta.run_id)


@dataclass(frozen=True)
class RecordedRun:
    """A training run as the store has it; params as text, `status` such as FINISHED."""

    run_id: str
    status: str
    started: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def training_runs(experiment: str) -> list[RecordedRun]:
    """All training runs of an experiment, oldest first, in whatever state.

    Raises:
        PipelineError: if there is no such experiment.
    """
    if mlflow.get_experiment_by_name(experiment) is None:
        raise PipelineError(f"there is no experiment {experiment} in {_shown_uri()}")
    runs = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string="tags.`stn.protocol` != ''",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    return [
        RecordedRun(
            run.info.run_id,
            run.info.status,
            run.info.start_time,
            run.data.params,
            run.data.metrics,
            run.data.tags,
        )
        for run in runs
    ]


def serve_ui() -> None:
    """Become the MLflow UI of the tracking store, on loopback, until it is stopped."""
    host, port = UI.removeprefix("http://").split(":")
    store = ["--backend-store-uri", mlflow.get_tracking_uri()]
    arguments = ["-m", "mlflow", "ui", *store, "--host", host, "--port", port]
    os.execv(sys.executable, [sys.executable, *arguments])
