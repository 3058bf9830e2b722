"""Everything MLflow: open a run, log to it, find runs, register and load models, serve the UI.

The only module that imports mlflow. The store is MLflow's own default, `sqlite:///mlflow.db` in
the working directory, unless `MLFLOW_TRACKING_URI` names another.
"""

import fcntl
import hashlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

# An unreachable server is reported within seconds; MLflow's default of 7 retries takes minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# The files that are read back are small; a bar for each would bury what the command prints.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import matplotlib.figure
import mlflow
import numpy as np
import requests
import sqlalchemy.exc
from mlflow.data import numpy_dataset
from mlflow.entities import ExperimentTag, LoggedModelInput, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from mlflow.utils.uri import is_local_uri

from pipeline.errors import PipelineError

if TYPE_CHECKING:  # `compare`, `store` and `ui` do without torch, which takes seconds to import
    import torch
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

EXPERIMENT = "stn-mnist"
REGISTERED_MODEL = "stn-mnist"
UI = "http://127.0.0.1:5000"  # where `make ui` serves
TRAINING_VIEW = "?workflowType=machine_learning"  # else the UI opens its view of traces

_EXPERIMENT_NOTE = """\
Spatial transformer networks on MNIST: does CoordConv inside the localization network help?

Training runs carry the tag `stn.protocol`; *study* runs hold training runs below them, and their
comparison; *evaluate* runs score a registered model again; *compare* runs hold a comparison:
`comparison.html` is its page. `stn.selection` tells what the best epoch was
selected on; numbers selected on the test set are optimistic."""
_MODEL_NOTE = """\
Digit classifiers with a spatial transformer. Input: raw uint8 images `(N, 1, 28, 28)`, white ink
on black; output: class probabilities `(N, 10)`. `champion` is the best of all,
`best-conv2d` and `best-coordconv2d` the best of each layer. Those trained on other data than
upright digits have aliases with its name, such as `champion-translated`, and take its size of
images. A version's tag `stn.selection` tells what its epoch was selected on; an accuracy selected
on the test set is optimistic."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what MLflow, its store and the file system raise into a PipelineError of one line."""
    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException) as error:
        uri = _without_password(mlflow.get_tracking_uri())
        raise PipelineError(f"MLflow ({uri}): {_first_line(error)}") from error
    except OSError as error:
        raise PipelineError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _without_password(lines[0]) if lines else type(error).__name__


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def check_store() -> None:
    """Make sure of a store in a SQLite file: that it can be written, and holds MLflow's tables.

    MLflow itself would retry for minutes to write; of several processes that create the tables at
    the same moment, all but one fail; and killed meanwhile, it leaves a store that never opens.

    Raises:
        PipelineError: if it cannot be written, or lacks the run that `mlflow run` has opened.
    """
    path = _sqlite_file()
    if path is None:
        return
    if "MLFLOW_RUN_ID" in os.environ and not _has_content(path):
        raise _lacks_the_run()
    exists = path.exists()
    parent = next(p for p in path.absolute().parents if p.exists())
    if exists and not path.is_file():
        problem = "is no file"
    elif exists and not os.access(path, os.W_OK):
        problem = "is not writable"
    elif not parent.is_dir() or not os.access(parent, os.W_OK):
        problem = f"cannot be created: {parent} is no folder that you may write to"
    else:
        if not _has_content(path):
            with _one_process_at_a_time():
                if not _has_content(path):
                    _create_store(path)
        return
    raise PipelineError(
        f"the tracking store {path} {problem}; set MLFLOW_TRACKING_URI to one that can be written"
    )


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _create_store(path: Path) -> None:
    # under another name first, so that what has the right name is whole
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    _store_in(partial)
    os.replace(partial, path)


def _store_in(path: Path) -> "SqlAlchemyStore":
    """The store in a SQLite file, with its tables. New experiments keep their artifacts beside it.

    MLflow's own place for them is `mlruns` in the working directory. Under `mlflow run` that is the
    folder of the project's code, and of a Git address MLflow runs a clone that does not last.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    artifacts = path.absolute().parent / "mlruns"
    # MLflow reads both as addresses, in which % begins a code
    return SqlAlchemyStore(f"sqlite:///{quote(str(path))}", quote(str(artifacts)))


def local_folder() -> Path:
    """Where files that belong to the store lie: beside a local store, else the working directory.

    A local store is a SQLite file, or one of the folders that MLflow used before.
    """
    uri = mlflow.get_tracking_uri()
    path = _sqlite_file()
    if path is None and is_local_uri(uri):
        path = Path(local_file_uri_to_path(uri))
    return path.absolute().parent if path else Path.cwd()


def _sqlite_file() -> Path | None:
    """The file of the store, if it is a SQLite file."""
    uri = mlflow.get_tracking_uri()
    prefix = "sqlite:///"
    return Path(unquote(uri.removeprefix(prefix))) if uri.startswith(prefix) else None


@contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    """Keep the other processes of this machine that use the same SQLite store waiting."""
    path = _sqlite_file()
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    projects_run = _projects_run()
    experiment_id = _experiment_id(current_experiment(experiment))
    os.environ.pop("MLFLOW_RUN_ID", None)  # it is for this run, and for none after it
    taken_over = None
    logged: dict[str, str] = {}
    if run_id:
        before = mlflow.get_run(run_id).data
        logged = before.params
        run = mlflow.start_run(run_id=run_id)
        if "stn.error" in before.tags:  # of an earlier attempt
            mlflow.delete_tag("stn.error")
    elif projects_run and projects_run.info.experiment_id == experiment_id:
        taken_over = projects_run
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
        elif projects_run:
            _leave_pointer(projects_run, run)
            tags |= {
                key: value
                for key, value in projects_run.data.tags.items()
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
        mlflow.set_tag("stn.error", f"{type(error).__name__}: {_first_line(error)}"[:1000])
        raise
    finally:
        mlflow.end_run(status)
        if status == "KILLED" and taken_over:
            _keep_killed(run_id)


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
    try:
        return mlflow.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise _lacks_the_run() from error


def _lacks_the_run() -> PipelineError:
    return PipelineError(
        f"MLFLOW_TRACKING_URI: got {_without_password(mlflow.get_tracking_uri())}, which lacks the "
        f"run that `mlflow run` has opened: a relative path is looked for in {Path.cwd()}, where "
        "the project runs; allowed: a server, or the absolute path of a SQLite file, such as "
        "sqlite:////home/me/mlflow.db"
    )


def _experiment_id(name: str) -> str:
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
    path = _sqlite_file()
    if path:
        note = ExperimentTag(MLFLOW_RUN_NOTE, _EXPERIMENT_NOTE)
        return _store_in(path).create_experiment(name, tags=[note])
    return mlflow.MlflowClient().create_experiment(name, tags={MLFLOW_RUN_NOTE: _EXPERIMENT_NOTE})


def _is_generated(run_name: str) -> bool:
    """Whether MLflow made the name up, such as `bold-crow-112`, because nobody chose one."""
    words = run_name.split("-")
    return len(words) == 3 and words[0] in _GENERATOR_PREDICATES and words[1] in _GENERATOR_NOUNS


def _leave_pointer(projects_run: Run, run: Run) -> None:
    """Say in the run that `mlflow run` opened elsewhere where the work went."""
    client = mlflow.MlflowClient()
    pointer = projects_run.info.run_id
    experiment = client.get_experiment(run.info.experiment_id).name
    target = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    client.set_tag(pointer, MLFLOW_RUN_NAME, f"see {run.info.run_name}")
    client.set_tag(
        pointer, MLFLOW_RUN_NOTE, f"Opened by `mlflow run`. [The run is here.]({target})"
    )
    if projects_run.info.experiment_id == run.info.experiment_id:
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
        return _run_page(self.experiment_id, self.run_id)

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
        return max(metric_history(self.run_id, "train_loss"), default=0)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags of the run, or replace them."""
        mlflow.MlflowClient().log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])

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
        with _one_process_at_a_time():  # MLflow looks whether it has it, and then writes
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


def ui_address() -> str:
    """Where the MLflow UI is: the tracking server, or for a local store what `make ui` starts."""
    uri = mlflow.get_tracking_uri()
    return _without_password(uri).rstrip("/") if uri.startswith("http") else UI


def _run_page(experiment_id: str, run_id: str) -> str:
    return f"{ui_address()}/#/experiments/{experiment_id}/runs/{run_id}{TRAINING_VIEW}"


@dataclass(frozen=True)
class Candidate:
    """What decides whether a model is better: `accuracy` and `loss` on the selection set.

    selection: names that set, `test` or `validation <number of images>`; the figures of different
        sets are not compared.
    """

    selection: str
    accuracy: float
    loss: float

    def beats(self, other: "Candidate") -> bool:
        """Higher accuracy, or the same with lower loss."""
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


def register(model_id: str, candidate: Candidate) -> int:
    """Register a logged model, and return its version."""
    with _one_process_at_a_time():  # MLflow numbers versions by looking for the last one
        return _register(model_id, candidate)


def _register(model_id: str, candidate: Candidate) -> int:
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(REGISTERED_MODEL, description=_MODEL_NOTE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        REGISTERED_MODEL,
        source=f"models:/{model_id}",
        run_id=client.get_logged_model(model_id).source_run_id,
        model_id=model_id,
        tags={f"stn.{key}": str(value) for key, value in vars(candidate).items()},
    )
    return int(version.version)


def promote(version: int, candidate: Candidate, aliases: list[str]) -> list[str]:
    """Give a version the aliases that it deserves, and say of each alias in a sentence where it is.

    An alias moves to a better model only, and never to one that was selected on another set, whose
    accuracy means something else.
    """
    with _one_process_at_a_time():  # of two at once, the second may otherwise undo the first
        return _promote(version, candidate, aliases)


def _promote(version: int, candidate: Candidate, aliases: list[str]) -> list[str]:
    client = mlflow.MlflowClient()
    holders = client.get_registered_model(REGISTERED_MODEL).aliases
    news = []
    for alias in aliases:
        reason = _reason_to_stay(candidate, holders[alias]) if alias in holders else None
        if holders.get(alias) == str(version):
            news.append(f"{alias} is version {version}")
        elif reason:
            news.append(f"{alias} stays at version {holders[alias]}, {reason}")
        else:
            client.set_registered_model_alias(REGISTERED_MODEL, alias, str(version))
            news.append(f"{alias} is now version {version}")
    return news


def _reason_to_stay(candidate: Candidate, version: str) -> str | None:
    tags = mlflow.MlflowClient().get_model_version(REGISTERED_MODEL, version).tags
    try:
        holder = Candidate(
            tags["stn.selection"], float(tags["stn.accuracy"]), float(tags["stn.loss"])
        )
    except KeyError:
        return "which was not registered by this pipeline"
    if holder.selection != candidate.selection:
        return f"selected on another set ({holder.selection} and not {candidate.selection})"
    if not candidate.beats(holder):
        return f"which is at least as good ({holder.accuracy:.2%})"
    return None


@dataclass(frozen=True)
class LoadedModel:
    """A registered or logged model, ready to predict.

    predict: uint8 `(N, 1, S, S)` to float32 `(N, 10)`.
    selection: what its run selected the best epoch on, `test` or `validation`; None if unknown.
    dataset: what its run trained on; `mnist` if unknown.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    model_id: str
    source_run_id: str
    selection: str | None
    dataset: str


def load_model(uri: str) -> LoadedModel:
    """Load `models:/name@alias`, `models:/name/version`, `models:/m-…` or `runs:/run_id/model`.

    Raises:
        PipelineError: if there is no such model.
    """
    allowed = (
        f"allowed: models:/{REGISTERED_MODEL}@champion, models:/{REGISTERED_MODEL}/<version>, "
        "models:/<model id>, runs:/<run id>/model"
    )
    if not uri.startswith(("models:/", "runs:/")):
        raise PipelineError(f"model_uri: got {uri!r}; {allowed}")
    try:
        model = mlflow.pyfunc.load_model(uri)
    except (MlflowException, OSError) as error:
        no_answer = getattr(error, "error_code", "") == "INTERNAL_ERROR"
        if no_answer or isinstance(error, requests.RequestException):
            raise
        known = ", ".join(_aliases()) or "none yet; `make train` trains and registers one"
        raise PipelineError(
            f"no model could be loaded from {uri}: {_first_line(error)}; {allowed}; "
            f"aliases of {REGISTERED_MODEL}: {known}"
        ) from None
    run_id = model.metadata.run_id
    data = mlflow.get_run(run_id).data if run_id else None
    selection = data.tags.get("stn.selection") if data else None
    dataset = data.params.get("dataset", "mnist") if data else "mnist"
    return LoadedModel(model.predict, model.metadata.model_id, run_id, selection, dataset)


def _aliases() -> list[str]:
    try:
        return sorted(mlflow.MlflowClient().get_registered_model(REGISTERED_MODEL).aliases)
    except MlflowException:  # nothing is registered
        return []


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
        return _run_page(self.experiment_id, self.run_id)


def training_runs(experiment: str, study: str | None = None) -> list[RecordedRun]:
    """All training runs of an experiment, or of one study in it, oldest first, in whatever state.

    Raises:
        PipelineError: if there is no such experiment.
    """
    if mlflow.get_experiment_by_name(experiment) is None:
        uri = _without_password(mlflow.get_tracking_uri())
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
            client.set_tag(run_id, "stn.error", error[:1000])
        client.set_terminated(run_id, status)


def is_finished(run_id: str) -> bool:
    """Whether a run has ended well."""
    return mlflow.get_run(run_id).info.status == "FINISHED"


def tags_of(run_id: str) -> dict[str, str]:
    """The tags of a run."""
    return mlflow.get_run(run_id).data.tags


def metrics_of(run_id: str) -> dict[str, float]:
    """The latest value of each metric of a run."""
    return mlflow.get_run(run_id).data.metrics


def progress(run_id: str) -> tuple[int, float]:
    """The last epoch that a training run has logged, and its test accuracy; (0, 0.0) at first."""
    history = metric_history(run_id, "test_accuracy")
    last = max(history, default=0)
    return last, history.get(last, 0.0)


def registered_version(run_id: str) -> tuple[int, Candidate] | None:
    """The version of the registered model that a run made, and what it may be promoted by."""
    versions = mlflow.MlflowClient().search_model_versions(
        f"name = '{REGISTERED_MODEL}' and run_id = '{run_id}'"
    )
    if not versions:
        return None
    tags = versions[0].tags
    return int(versions[0].version), Candidate(
        tags["stn.selection"], float(tags["stn.accuracy"]), float(tags["stn.loss"])
    )


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


def serve_ui(experiment: str | None) -> None:
    """Say where the runs are, and become the MLflow UI of a local store until it is stopped.

    A tracking server serves its own UI: there, only the address is printed.

    Raises:
        PipelineError: if the port is taken.
    """
    check_store()
    experiment_id = _experiment_id(current_experiment(experiment))
    page = f"/#/experiments/{experiment_id}/runs{TRAINING_VIEW}"
    print(f"the runs are at {ui_address()}{page}", flush=True)
    if ui_address() != UI:
        return
    host, port = UI.removeprefix("http://").split(":")
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
