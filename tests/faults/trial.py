"""One training or study in a folder of its own, and what a fault may do to it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from tests.end_to_end.conftest import ONE_SCREEN, Checkout, check_out_small, last_line
from tests.end_to_end.studies import SMALL, arguments, history_of, wait_for_an_epoch
from tests.faults.stores import Store

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
HANGS = 400  # seconds after which a command counts as hanging
GIVEN = {**SMALL, "epochs": 5, "threads": 1}
OF_COMMAND = {"train": {"conv_layer": "coordconv2d"}, "study": {"runs": 1}}


@dataclass
class Trial:
    """A command that is started, disturbed, and started again.

    Attributes:
        command: `train` or `study`.
        experiment: its name, of this trial only.
        seconds: how long the undisturbed command takes.
        disk: the disk with all files of the trial, if it can be filled.
        screens: what each command has printed.
        finished: the ids of the runs that had finished when the command was disturbed.
        ends: how often a disturbed command ended how.
    """

    command: str
    store: Store
    checkout: Checkout
    experiment: str
    chance: random.Random
    seconds: float = 0.0
    disk: Path | None = None
    screens: list[str] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)

    def start(self) -> subprocess.Popen:
        """Start the command in a process group of its own."""
        given = {**GIVEN, **OF_COMMAND[self.command], "experiment": self.experiment}
        return self.run(self.command, *arguments(("--{0}", "{1}"), **given))

    def run(self, *words: str) -> subprocess.Popen:
        """Start any command of the pipeline."""
        command = [sys.executable, "-m", "pipeline", *words]
        return self.checkout.start(*command, **ONE_SCREEN, start_new_session=True)

    def some_moment(self, share: float = 1.0) -> None:
        """Wait, at most for this share of the time that the undisturbed command takes."""
        time.sleep(self.chance.uniform(0, share * self.seconds))

    def wait_for_an_epoch(self, process: subprocess.Popen) -> None:
        """Wait until the command has saved a checkpoint."""
        wait_for_an_epoch(self.checkout, process)

    def kill(self, process: subprocess.Popen) -> None:
        """SIGKILL to the process that the user has started; its workers must end by themselves."""
        process.kill()
        self.screens.append(process.communicate(timeout=HANGS)[0])
        self._note("ended before" if process.returncode == 0 else "killed")

    def end(self, process: subprocess.Popen, note: bool = True) -> int:
        """Wait for the end of a command; its exit code.

        Args:
            note: whether it is a disturbed command.
        """
        try:
            screen, _ = process.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            screen, _ = process.communicate()
            self.screens.append(f"{screen}\nhung")
            self._note("hung")
            return process.returncode
        self.screens.append(screen)
        if note:
            code = process.returncode
            interrupted = code in (130, -signal.SIGINT, -signal.SIGTERM)
            error = "interrupted" if interrupted else "ended with an error"
            self._note(error if code else "ended well")
        return process.returncode

    def _note(self, how: str) -> None:
        self.ends[how] += 1
        self.note_finished()

    def last_line(self) -> str:
        """The last line of the last command."""
        return last_line(self.screens[-1] or "nothing was printed")

    def note_finished(self) -> None:
        """Remember which runs have finished."""
        self.finished |= {run.info.run_id for run in self.runs() if run.info.status == "FINISHED"}

    def all_runs(self) -> list[Run]:
        """All runs of the trial, in any state."""
        if not self.store.exists(self.checkout):
            return []
        client = self.checkout.client()
        experiment = client.get_experiment_by_name(self.experiment)
        return list(client.search_runs([experiment.experiment_id])) if experiment else []

    def runs(self) -> list[Run]:
        """The trainings, in any state: of a study, those below its parent run."""
        tag = "mlflow.parentRunId" if self.command == "study" else "stn.training"
        return [run for run in self.all_runs() if tag in run.data.tags]

    def open_runs(self) -> list[str]:
        """The names of the runs that count as RUNNING."""
        return [run.info.run_name for run in self.all_runs() if run.info.status == "RUNNING"]

    def histories(self) -> dict[str, list[dict]]:
        """The metrics of the finished trainings, by the name of the run."""
        found: dict[str, list[dict]] = {}
        for run in self.runs():
            if run.info.status == "FINISHED":
                history = {k: sorted(v) for k, v in history_of(self.checkout, run).items()}
                found.setdefault(run.info.run_name, []).append(history)
        return found

    def table(self) -> list[str]:
        """The table of a study; none of a training."""
        if self.command == "train":
            return []
        (parent,) = {run.data.tags["mlflow.parentRunId"] for run in self.runs()}
        path = download_artifacts(f"runs:/{parent}/comparison.md", tracking_uri=self.checkout.uri)
        return [line for line in Path(path).read_text().splitlines() if line.startswith("|")]


def new_trial(
    folder: Path, command: str, store: Store, *, seconds: float = 0.0, disk: Path | None = None
) -> Trial:
    """A command in a new folder, which is not started yet; the folder's name is the chance."""
    folder.mkdir()
    checkout = store.used_by(check_out_small(folder))
    chance = random.Random(folder.name)
    return Trial(command, store, checkout, folder.name, chance, seconds, disk)
