"""The checkpoint from which an interrupted run continues, in a study or alone: one file per run."""

import io
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.training.loop import BestEpoch, TrainingState

CHECKPOINTS = "checkpoints"  # the folder beside the store for those of unfinished runs


@dataclass(frozen=True)
class Checkpoint:
    """What is saved of a run after each epoch.

    state: of the training loop.
    frames: of the run's animation so far, by epoch: uint8 `(8, 1, S', S')`, what the transformer
        makes of one digit in eight poses.
    collapsed: the epoch in which the training collapsed, and why; else empty.
    """

    state: TrainingState
    frames: dict[int, Tensor]
    collapsed: str = ""


def checkpoint_path(folder: Path, run_id: str) -> Path:
    """Where the checkpoint of a run is, in the folder of a study's checkpoints."""
    return folder / f"{run_id}.pt"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in a file, such that an interruption leaves the old one or the new."""
    state = checkpoint.state
    content = {**vars(checkpoint), **vars(state), "best": vars(state.best)}
    del content["state"]
    saved = io.BytesIO()  # torch would hide the reason why a file cannot be written
    torch.save(content, saved)
    partial_file = path.with_suffix(".tmp")
    try:
        with partial_file.open("wb") as file:
            file.write(saved.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial_file, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        partial_file.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint in a file; None if there is no such file.

    Raises:
        PipelineError: if the file is damaged.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            return _read(file)
        # zipfile and torch raise almost anything, and torch advises to unpickle the file
        except Exception as error:
            raise PipelineError(f"the checkpoint {path} is damaged; remove it") from error


def _read(file: BinaryIO) -> Checkpoint:
    damaged = zipfile.ZipFile(file).testzip()  # torch itself compares no checksums
    if damaged:
        raise ValueError(f"the checksum of {damaged} is wrong")
    file.seek(0)
    content = torch.load(file, weights_only=True)
    # earlier versions did not save these two
    frames, collapsed = content.pop("frames", {}), content.pop("collapsed", "")
    best = BestEpoch(**content.pop("best"))
    return Checkpoint(TrainingState(best=best, **content), frames, collapsed)


def set_aside_if_damaged(path: Path, trained_anew: str) -> None:
    """Rename a checkpoint that cannot be read, and print that and what follows.

    Args:
        trained_anew: what begins from the start then, such as `the run`.
    """
    try:
        load_checkpoint(path)
    except PipelineError:
        aside = path.replace(path.with_suffix(".damaged"))
        print(
            f"the checkpoint {path} is damaged; it is kept as {aside.name}, and {trained_anew} is "
            "trained anew",
            file=sys.stderr,
        )
