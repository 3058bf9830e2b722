"""What is promised, whatever happens: after the fault and one more start, nothing is lost."""

import re
from collections import Counter
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from pipeline.errors import PipelineError
from pipeline.training.checkpoint import load_checkpoint
from tests.faults.trial import Trial

PROMISES = """\
No finished run is lost. None is double. None stays RUNNING. The final table, and every metric of
every epoch, are those of the undisturbed command on SQLite, bit by bit. Each error is one clear
line, and no command prints a traceback. Every later start of the same command ends well, and goes
on from each checkpoint that can be read."""


@dataclass(frozen=True)
class Undisturbed:
    """What an undisturbed command comes to.

    histories: the metrics of each run, by its name.
    """

    seconds: float
    table: list[str]
    histories: dict[str, dict]


def unclear_error(trial: Trial, code: int) -> list[str]:
    """The loss if the last command has ended in another way than well or with one clear line."""
    last = trial.last_line()
    if code == 0 or re.match(r"Error: \S", last):
        return []
    return [f"it ended with {code}: {last}"]


def must_end_well(trial: Trial, code: int) -> list[str]:
    """The loss if the last command did not end well, although it had opened its run."""
    if code and trial.all_runs():
        return [f"it ended with {code}: {trial.last_line()}"]
    return unclear_error(trial, code)


def losses(trial: Trial, undisturbed: Undisturbed) -> list[str]:
    """What is lost after the fault and one more start."""
    trial.note_finished()
    going_on = _checkpoints(trial)
    code = trial.end(trial.start(), note=False)
    if code != 0:
        return [f"the last start ended with {code}: {trial.last_line()}"]
    found = []
    if any("Traceback" in screen for screen in trial.screens):
        found.append("a traceback was printed")
    if trial.open_runs():
        found.append(f"RUNNING for ever: {', '.join(trial.open_runs())}")
    finished = [run for run in trial.runs() if run.info.status == "FINISHED"]
    ids = {run.info.run_id for run in finished}
    if not trial.finished <= ids:
        found.append("a finished run is lost")
    if not going_on <= ids | {run.data.tags.get("stn.training") for run in finished}:
        found.append("the last start did not go on from a checkpoint")
    names = Counter(run.info.run_name for run in finished)
    # a training that has finished is repeated by a further start, a study is not
    times = len(trial.finished) + 1 if trial.command == "train" else 1
    if names != Counter(dict.fromkeys(undisturbed.histories, times)):
        return [*found, f"finished runs: {dict(names)}, and not {times} of each"]
    versions = trial.checkout.client().search_model_versions("name='stn-mnist'")
    of_trial = [version.run_id for version in versions]
    if any(of_trial.count(run_id) != 1 for run_id in ids):
        found.append("not one registered model for each finished run")
    try:
        if trial.table() != undisturbed.table:
            found.append("the table differs from that of the undisturbed study")
    except MlflowException as error:
        found.append(f"the comparison cannot be read: {error}")
    if any(
        history != undisturbed.histories[name]
        for name, histories in trial.histories().items()
        for history in histories
    ):
        found.append("the metrics differ from the undisturbed ones")
    return found


def _checkpoints(trial: Trial) -> set[str]:
    """The names of the checkpoints that can be read."""
    names = set()
    for file in (trial.checkout.folder / "checkpoints").glob("*.pt"):
        try:
            load_checkpoint(file)
        except PipelineError:
            continue
        names.add(file.stem)
    return names
