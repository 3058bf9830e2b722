"""Single trainings that were interrupted: the same command goes on, another one closes the run.

A single training has two files in the folder `checkpoints/` beside the store: its checkpoint, and a
note of its parameters and of the pipeline's code, which its process holds locked. A note that
nobody holds belongs to a process that has ended. The run has the name of its note in a tag. After
an edit of the code, a training does not go on: half of its epochs would be those of the old code.

The trainings of a study need no notes: the study knows its runs.
"""

import fcntl
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.errors import PipelineError
from pipeline.machine import code_digest
from pipeline.params import RunParams
from pipeline.tracking.patience import StoreAway
from pipeline.tracking.recorded import RecordedRun, runs_with_tag
from pipeline.tracking.runs import close_run
from pipeline.tracking.store import local_folder, store_address
from pipeline.tracking.vocabulary import Tag
from pipeline.training.checkpoint import CHECKPOINTS, set_aside_if_damaged

NOTE = ".training"  # the ending of a note


@dataclass(frozen=True)
class SingleTraining:
    """A training that belongs to no study.

    name: of its note; its run has it in the tag `stn.training`.
    checkpoint_file: where its checkpoint is, or will be.
    run_id: of the run that it goes on with; None for a new one.
    """

    name: str
    checkpoint_file: Path
    run_id: str | None


@contextmanager
def single_training(params: RunParams, experiment: str) -> Iterator[SingleTraining]:
    """Find the interrupted training with the same parameters and code, or begin a new one.

    The checkpoint is kept whatever ends the training, except for a PipelineError in the `with`
    block, such as that of infinite weights, which would come again.

    Other trainings of this folder and store that were interrupted are closed as KILLED. Their
    checkpoints are kept.

    Args:
        params: of the training.
        experiment: the name of the experiment that it belongs to.
    """
    folder = local_folder() / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    # how long it waits for the store changes nothing of what is trained
    values = params.model_dump(mode="json", exclude={"store_patience"})
    content = {
        "store": store_address(),
        "code": code_digest(),
        "params": {**values, "experiment": experiment},
    }
    with (folder / "trainings.lock").open("a") as all_notes:
        fcntl.flock(all_notes, fcntl.LOCK_EX)
        training, note = _interrupted(folder, content) or _new(folder, content)
    with note:
        try:
            yield training
        except StoreAway:
            raise
        except PipelineError:  # it would fail again in the same way; repeated, it begins anew
            training.checkpoint_file.unlink(missing_ok=True)
            raise
        # after an error, the note is left to the next training, which closes what is still open
        _note_of(training.checkpoint_file).unlink(missing_ok=True)


def _new(folder: Path, content: dict[str, Any]) -> tuple[SingleTraining, IO[str]]:
    name = uuid.uuid4().hex
    file = folder / f"{name}.pt"
    note = _note_of(file).open("x")
    fcntl.flock(note, fcntl.LOCK_EX)
    json.dump(content, note)
    note.flush()
    return SingleTraining(name, file, None), note


def _interrupted(folder: Path, content: dict[str, Any]) -> tuple[SingleTraining, IO[str]] | None:
    """The interrupted training of this content with its note, locked; closes the runs of others."""
    found = None
    for path in sorted(folder.glob(f"*{NOTE}")):
        note = _locked(path)
        if note is None:
            continue
        known, file = _content_of(note), path.with_suffix(".pt")
        if known is not None and known["store"] != content["store"]:
            note.close()
            continue
        if known == content and found is None:
            run = _run_to_continue(path.stem, file, content["params"]["experiment"])
            if run is not None:
                found = SingleTraining(path.stem, file, run.run_id), note
                continue
        _close(path, file, known)
        note.close()
    return found


def _run_to_continue(name: str, file: Path, experiment: str) -> RecordedRun | None:
    """The run of an interrupted training that has a checkpoint; a damaged one is set aside."""
    runs = [run for run in runs_with_tag(experiment, Tag.TRAINING, name) if not run.is_finished]
    if not runs:
        return None
    set_aside_if_damaged(file, "the run")
    return runs[-1] if file.exists() else None


def _close(path: Path, file: Path, known: dict[str, Any] | None) -> None:
    """Close the run of a note whose process has ended; without a checkpoint, drop the note."""
    if known is not None:
        for run in runs_with_tag(known["params"]["experiment"], Tag.TRAINING, path.stem):
            close_run(run.run_id, "KILLED")
            if run.is_finished:
                file.unlink(missing_ok=True)
    if not file.exists():
        path.unlink(missing_ok=True)


def _note_of(file: Path) -> Path:
    return file.with_suffix(NOTE)


def _locked(path: Path) -> IO[str] | None:
    """A note, locked by this process; None if another one holds it or has just removed it."""
    try:
        note = path.open("r+")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note.close()
        return None
    return note


def _content_of(note: IO[str]) -> dict[str, Any] | None:
    """What a note says; None if its process was killed before it had written it."""
    try:
        content = json.load(note)
    except ValueError:
        return None
    is_note = isinstance(content, dict) and content.keys() == {"store", "code", "params"}
    return content if is_note else None
