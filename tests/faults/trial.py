"""One study in a folder of its own, what a fault may do to it, and what was lost in the end."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from tests.end_to_end.conftest import ONE_SCREEN, Checkout, check_out_small, last_line
from tests.end_to_end.studies import history_of, study_command, wait_for_an_epoch

PATIENCE = 300  # seconds for one command


@dataclass
class Trial:
    """A study that is started, disturbed, and started again.

    Attributes:
        seconds: how long the undisturbed study takes.
        screens: what each command has printed.
        finished: the ids of the runs that had finished when the study was disturbed.
    """

    checkout: Checkout
    chance: random.Random
    seconds: float
    screens: list[str] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)

    def start(self) -> subprocess.Popen:
        """Start the study in a process group of its own."""
        return self.checkout.start(*study_command(), **ONE_SCREEN, start_new_session=True)

    def some_moment(self) -> None:
        """Wait for a random part of the time that the undisturbed study takes."""
        time.sleep(self.chance.uniform(0, self.seconds))

    def wait_for_an_epoch(self, process: subprocess.Popen) -> None:
        """Wait until the study has saved a checkpoint."""
        wait_for_an_epoch(self.checkout, process)

    def kill(self, process: subprocess.Popen) -> None:
        """SIGKILL to the process that the user has started; its workers must end by themselves."""
        process.kill()
        self.screens.append(process.communicate(timeout=PATIENCE)[0])
        self.note_finished()

    def note_finished(self) -> None:
        """Remember which runs have finished."""
        self.finished |= {run.info.run_id for run in self.nested() if run.info.status == "FINISHED"}

    def end(self, process: subprocess.Popen) -> int:
        """Wait for the end of a command; its exit code."""
        try:
            screen, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            screen, _ = process.communicate()
        self.screens.append(screen)
        return process.returncode

    def nested(self):
        """The runs below the study's parent run, in any state; none before it has one."""
        if not (self.checkout.folder / "mlflow.db").exists():
            return []
        experiment = self.checkout.client().get_experiment_by_name("stn-mnist")
        if experiment is None:
            return []
        runs = self.checkout.client().search_runs([experiment.experiment_id])
        return [run for run in runs if "mlflow.parentRunId" in run.data.tags]

    def result(self) -> tuple[list[str], dict[str, dict]]:
        """The study's table, and the metrics of its finished runs by name."""
        nested = [run for run in self.nested() if run.info.status == "FINISHED"]
        (parent,) = {run.data.tags["mlflow.parentRunId"] for run in nested}
        histories = {run.info.run_name: history_of(self.checkout, run) for run in nested}
        place = self.checkout.client().get_run(parent).info.artifact_uri
        path = download_artifacts(f"{place}/comparison.md", tracking_uri=self.checkout.uri)
        table = [line for line in Path(path).read_text().splitlines() if line.startswith("|")]
        return table, histories


def new_trial(folder: Path, chance: random.Random, seconds: float = 0.0) -> Trial:
    """A study in a new folder, which is not started yet."""
    folder.mkdir()
    return Trial(check_out_small(folder), chance, seconds)


def losses(trial: Trial, undisturbed: tuple[list[str], dict[str, dict]]) -> list[str]:
    """What a study has lost, by the promises, after the fault and one more start."""
    code = trial.end(trial.start())
    found = []
    if code != 0:
        return [f"the last start ended with {code}: {last_line(trial.screens[-1])}"]
    if any("Traceback" in screen for screen in trial.screens):
        found.append("a traceback was printed")
    if "RUNNING" in trial.checkout.statuses():
        found.append("a run stays RUNNING")
    finished = [run for run in trial.nested() if run.info.status == "FINISHED"]
    if not trial.finished <= {run.info.run_id for run in finished}:
        found.append("a finished run is lost")
    table, histories = undisturbed
    names = Counter(run.info.run_name for run in finished)
    if names != Counter(histories.keys()):
        found.append(f"finished runs: {dict(names)}")
        return found
    versions = trial.checkout.client().search_model_versions("name='stn-mnist'")
    if sorted(v.run_id for v in versions) != sorted(run.info.run_id for run in finished):
        found.append("not one registered model for each finished run")
    try:
        if trial.result() != (table, histories):
            found.append("the table or the metrics differ from those of the undisturbed study")
    except MlflowException as error:
        found.append(f"the comparison cannot be read: {error}")
    return found
