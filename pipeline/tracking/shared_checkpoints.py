"""Checkpoints among a run's artifacts, so that any machine can continue the run.

A checkpoint's name ends in the digest of its content. So one that was cut off, because its process
or its server died, is not taken for a whole one, and the one before it is still there.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import mlflow
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipeline.tracking.patience import waits_for_store
from pipeline.tracking.vocabulary import IN_ARTIFACTS, Artifact, Tag


@waits_for_store("saving a checkpoint")
def save_shared(run_id: str, file: Path) -> None:
    """Copy a checkpoint into the artifacts, and remove those before it."""
    earlier = _names(run_id)
    number = 1 + max((int(name.partition("-")[0]) for name in earlier), default=0)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"{number:06}-{_digest(file)}.pt")
        copy.write_bytes(file.read_bytes())
        mlflow.MlflowClient().log_artifact(run_id, str(copy), Artifact.CHECKPOINT)
    _remove(run_id, earlier)


@waits_for_store("reading a checkpoint")
def fetch_shared(run_id: str, file: Path) -> bool:
    """Copy the last whole checkpoint into a file; whether there is one."""
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(_names(run_id), reverse=True):
            path = f"{Artifact.CHECKPOINT}/{name}"
            copy = Path(mlflow.MlflowClient().download_artifacts(run_id, path, folder))
            if name.endswith(f"-{_digest(copy)}.pt"):
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_suffix(".tmp")
                partial.write_bytes(copy.read_bytes())
                os.replace(partial, file)
                return True
    return False


def has_shared(run_id: str) -> bool:
    """Whether there is a whole checkpoint among the artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        return fetch_shared(run_id, Path(folder, "checkpoint.pt"))


@waits_for_store("removing checkpoints")
def remove_shared(run_id: str) -> None:
    """Remove the checkpoints from the artifacts."""
    _remove(run_id, _names(run_id))


@waits_for_store("moving a checkpoint")
def move_into_artifacts(run_id: str, file: Path) -> None:
    """Make a run's checkpoint a shared one; also where there is none yet."""
    if file.exists():
        save_shared(run_id, file)
    mlflow.MlflowClient().set_tag(run_id, Tag.CHECKPOINTS, IN_ARTIFACTS)
    file.unlink(missing_ok=True)


@waits_for_store("moving a checkpoint")
def move_out_of_artifacts(run_id: str, file: Path) -> None:
    """Make a run's shared checkpoint one in a file; also where there is none yet."""
    fetch_shared(run_id, file)
    mlflow.MlflowClient().set_tag(run_id, Tag.CHECKPOINTS, str(file.parent))
    remove_shared(run_id)


def _names(run_id: str) -> list[str]:
    found = mlflow.MlflowClient().list_artifacts(run_id, Artifact.CHECKPOINT)
    return [Path(artifact.path).name for artifact in found]


def _remove(run_id: str, names: list[str]) -> None:
    if names:
        repository = get_artifact_repository(mlflow.get_run(run_id).info.artifact_uri)
        for name in names:
            repository.delete_artifacts(f"{Artifact.CHECKPOINT}/{name}")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
