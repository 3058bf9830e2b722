"""The registered model: its versions, the aliases of the best, and models to predict with."""

import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import mlflow
import numpy as np
import requests
from mlflow.entities import RunData
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline.errors import PipelineError
from pipeline.tracking.patience import waits_for_store
from pipeline.tracking.store import first_line, one_process_at_a_time
from pipeline.tracking.vocabulary import Tag, VersionTag

if TYPE_CHECKING:  # most commands load no model, and need not import it
    from mlflow.pyfunc import PyFuncModel

# Whoever may register a model could otherwise have those who load it run any code; `_check_kind`
# is the first barrier, and these are others.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

REGISTERED_MODEL = "stn-mnist"
_ALLOWED = (
    f"allowed: models:/{REGISTERED_MODEL}@champion, models:/{REGISTERED_MODEL}/<version>, "
    "models:/<model id>, runs:/<run id>/model"
)
_MODEL_NOTE = f"""\
Digit classifiers with a spatial transformer. Input: raw uint8 images `(N, 1, 28, 28)`, white ink
on black; output: class probabilities `(N, 10)`. `champion` is the best model of all;
`best-conv2d`, and so on, is the best model of each layer. Models of other data sets than upright
digits have aliases with the name of the data set, such as `champion-translated`, and take images
of its size. A version's tag `{VersionTag.SELECTION_SET}` names the set that its epoch was selected
on; an accuracy on the test set is optimistic if the test set selected the epoch."""


@dataclass(frozen=True)
class Candidate:
    """The accuracy and the loss of a model on its selection set, by which models are compared.

    selection_set: the name of that set, such as `test`, `validation 10000` or `rotated test`;
        models with different selection sets are not compared.
    """

    selection_set: str
    accuracy: float
    loss: float

    def beats(self, other: "Candidate") -> bool:
        """Whether the accuracy is higher, or the accuracy is equal and the loss is lower."""
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclass(frozen=True)
class AliasNews:
    """Where an alias is after a version was offered to it.

    version: the version that holds the alias now.
    change: `is now` if the alias moved to the offered version, `is` if that version held it before,
        `stays at` if it stayed at another version.
    reason: why it stayed there, as the rest of a sentence; else empty.
    """

    alias: str
    version: int
    change: Literal["is", "is now", "stays at"]
    reason: str = ""

    def __str__(self) -> str:
        """A sentence without a full stop, such as `champion is now version 3`."""
        return self._sentence(f"version {self.version}")

    @property
    def markdown(self) -> str:
        """The same sentence, with a link to the version's page in the MLflow UI."""
        page = f"/#/models/{REGISTERED_MODEL}/versions/{self.version}"
        return self._sentence(f"[version {self.version}]({page})")

    def _sentence(self, version: str) -> str:
        return f"{self.alias} {self.change} {version}" + (f", {self.reason}" if self.reason else "")


@waits_for_store("registering the model")
def register(model_id: str, candidate: Candidate) -> int:
    """Register a logged model, and return its version."""
    with one_process_at_a_time():  # MLflow reads the last version's number, and then adds one
        return _register(model_id, candidate)


def _register(model_id: str, candidate: Candidate) -> int:
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(REGISTERED_MODEL, description=_MODEL_NOTE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model_id}"
    run_id = client.get_logged_model(model_id).source_run_id
    for known in client.search_model_versions(f"run_id = '{run_id}'"):
        if known.source == source:  # it arrived before, and only the answer was lost
            return int(known.version)
    version = client.create_model_version(
        REGISTERED_MODEL,
        source=source,
        run_id=run_id,
        model_id=model_id,
        tags={
            VersionTag.SELECTION_SET: candidate.selection_set,
            VersionTag.ACCURACY: str(candidate.accuracy),
            VersionTag.LOSS: str(candidate.loss),
        },
    )
    return int(version.version)


@waits_for_store("moving an alias")
def promote(version: int, candidate: Candidate, aliases: list[str]) -> list[AliasNews]:
    """Move each alias to a version if the version is better, and return where each alias is then.

    An alias never moves to a model that was selected on another set, because accuracies on
    different sets cannot be compared.
    """
    with one_process_at_a_time():  # else the later one of two may undo what the first has done
        return _promote(version, candidate, aliases)


def _promote(version: int, candidate: Candidate, aliases: list[str]) -> list[AliasNews]:
    client = mlflow.MlflowClient()
    # a store in a database gives the versions as numbers, a tracking server as text
    aliases_now = client.get_registered_model(REGISTERED_MODEL).aliases
    holders = {alias: int(holder) for alias, holder in aliases_now.items()}
    news = []
    for alias in aliases:
        reason = _reason_to_stay(candidate, holders[alias]) if alias in holders else None
        if holders.get(alias) == version:
            news.append(AliasNews(alias, version, "is"))
        elif reason:
            news.append(AliasNews(alias, holders[alias], "stays at", reason))
        else:
            client.set_registered_model_alias(REGISTERED_MODEL, alias, str(version))
            news.append(AliasNews(alias, version, "is now"))
    return news


def _reason_to_stay(candidate: Candidate, version: int) -> str | None:
    tags = mlflow.MlflowClient().get_model_version(REGISTERED_MODEL, str(version)).tags
    holder = _candidate(tags)
    if holder is None:
        return "whose accuracy and loss are not known"
    if holder.selection_set != candidate.selection_set:
        return f"selected on another set ({holder.selection_set} and not {candidate.selection_set})"
    if not candidate.beats(holder):
        return f"which is at least as good ({holder.accuracy:.2%})"
    return None


def _candidate(tags: dict[str, str]) -> Candidate | None:
    """The figures that a version was registered with; None if it has no such tags."""
    try:
        accuracy, loss = float(tags[VersionTag.ACCURACY]), float(tags[VersionTag.LOSS])
        selection_set = tags[VersionTag.SELECTION_SET]
    except (KeyError, ValueError):
        return None
    is_known = math.isfinite(accuracy) and math.isfinite(loss)
    return Candidate(selection_set, accuracy, loss) if is_known else None


@dataclass(frozen=True)
class LoadedModel:
    """A registered or logged model, ready to predict.

    predict: uint8 `(N, 1, S, S)` to float32 `(N, 10)`. It raises a PipelineError if the model
        fails, or returns anything else.
    selection: the set that its run selected the best epoch on, `test` or `validation`; None if
        unknown.
    dataset: the data set that its run trained on; `mnist` if unknown.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    model_id: str
    source_run_id: str | None
    selection: str | None
    dataset: str


def load_model(uri: str) -> LoadedModel:
    """Load `models:/name@alias`, `models:/name/version`, `models:/m-…` or `runs:/run_id/model`.

    Only a model that a training of this project may have logged is loaded: a `pt2` archive without
    further code. Nothing is unpickled.

    Raises:
        PipelineError: if there is no such model, it is of another kind, or its files are damaged.
    """
    if not uri.startswith(("models:/", "runs:/")):
        raise PipelineError(f"model_uri: got {uri!r}; {_ALLOWED}")
    with TemporaryDirectory() as folder:  # MLflow cannot load from a path with a #, for one
        model = _read(_download(uri, folder), uri)
    run_id = model.metadata.run_id
    data = _run_data(run_id)
    selection = data.tags.get(Tag.SELECTION) if data else None
    dataset = data.params.get("dataset", "mnist") if data else "mnist"
    predict = partial(_predict, model, uri)
    return LoadedModel(predict, str(model.metadata.model_id), run_id, selection, dataset)


def _download(uri: str, folder: str) -> Path:
    """The files of a model, copied into a folder.

    Raises:
        PipelineError: if there is no such model.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
    except (MlflowException, OSError) as error:
        no_answer = getattr(error, "error_code", "") == "INTERNAL_ERROR"
        if no_answer or isinstance(error, requests.RequestException):
            raise
        known = ", ".join(_aliases()) or "none yet; `make train` trains and registers one"
        raise PipelineError(
            f"no model could be loaded from {uri}: {first_line(error)}; {_ALLOWED}; "
            f"aliases of {REGISTERED_MODEL}: {known}"
        ) from None


def _predict(model: "PyFuncModel", uri: str, images: np.ndarray) -> np.ndarray:
    """What a model predicts, float32 `(N, 10)`."""
    try:
        probabilities: np.ndarray = np.asarray(model.predict(images))
    except Exception as error:  # a model that others have logged may raise anything
        raise PipelineError(f"the model {uri} fails: {first_line(error)}") from error
    if probabilities.shape != (len(images), 10) or not np.isfinite(probabilities).all():
        raise PipelineError(
            f"the model {uri} must return {len(images)} times 10 probabilities; got an array of "
            f"the shape {probabilities.shape}, or values that are not finite; use another model"
        )
    return probabilities


def _run_data(run_id: str | None) -> RunData | None:
    """What the run of a model has recorded; None if there is no such run any more."""
    if not run_id:
        return None
    try:
        return mlflow.get_run(run_id).data
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _read(folder: Path, uri: str) -> "PyFuncModel":
    """The model in a folder, as `mlflow.pyfunc` reads it.

    Raises:
        PipelineError: if it is of another kind than the project's own, or a file is damaged.
    """
    try:
        _check_kind(folder)
        _check_archive(folder / "data/model.pt2")
        return mlflow.pyfunc.load_model(str(folder))
    # zipfile and torch raise almost anything, and MLflow advises to unpickle the file
    except Exception as error:
        raise PipelineError(
            f"the model {uri} cannot be read ({type(error).__name__}): its files are damaged, or "
            "no training of this project has logged it; use another one, or train it again"
        ) from error


def _check_kind(folder: Path) -> None:
    """Check that a model is a `pt2` archive, which MLflow loads without code of the model's own."""
    model = Model.load(str(folder))
    loading = model.flavors["python_function"]
    if loading["loader_module"] != "mlflow.pytorch" or loading.get("code"):
        raise ValueError("the model brings code of its own")
    # beside the archive, a file model.pth would have MLflow import what another file names
    if loading["data"] != "data" or os.listdir(folder / "data") != ["model.pt2"]:
        raise ValueError("the model is no pt2 archive")
    if model.model_id is None:
        raise ValueError("the model was not logged by a run")


def _check_archive(file: Path) -> None:
    """Check that a `pt2` archive is whole, and that no tensor in it is a pickle.

    MLflow looks for pickles, too, but not as torch finds them: torch tells no upper case from lower
    case in a name, and follows a name into a deeper folder.
    """
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()  # torch itself compares no checksums
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
        names = archive.namelist()
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two files of the archive have the same name")
        for name in names:
            if name.casefold().endswith("_config.json"):
                tensors = json.loads(archive.read(name))["config"].values()
                if any(tensor["use_pickle"] is not False for tensor in tensors):
                    raise ValueError("the archive holds a pickle")


def _aliases() -> list[str]:
    try:
        return sorted(mlflow.MlflowClient().get_registered_model(REGISTERED_MODEL).aliases)
    except MlflowException:  # nothing is registered
        return []


@waits_for_store("reading registered models")
def registered_version(run_id: str) -> tuple[int, Candidate] | None:
    """The version of the registered model that a run has registered, with its figures.

    Returns:
        None if the run has registered no version, or somebody has deleted it or its tags.
    """
    versions = mlflow.MlflowClient().search_model_versions(
        f"name = '{REGISTERED_MODEL}' and run_id = '{run_id}'"
    )
    for version in versions:  # somebody may have registered the same model again, without tags
        candidate = _candidate(version.tags)
        if candidate:
            return int(version.version), candidate
    return None
