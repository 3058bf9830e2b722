"""How far a study is: on the terminal, and in the tags and metrics of its parent run.

It is read from the store, where the runs log each epoch, so the worker processes need no second
way to report.
"""

import sys
import time

from tqdm import tqdm

from pipeline.study.workers import Task
from pipeline.tracking.recorded import RecordedRun, last_epoch, recorded_run
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.vocabulary import Metric, Tag

LINE_SECONDS = 60.0  # between two lines of progress where the output is no terminal
ENDED = ("finished", "failed")


class Progress:
    """How far a study is: a bar on a terminal, else lines; tags and metrics of the parent run."""

    def __init__(self, parent: TrackedRun, tasks: list[Task], kept: list[RecordedRun]) -> None:
        self.parent, self.tasks, self.kept = parent, tasks, len(kept)
        best = max(kept, key=lambda run: run.best_test_accuracy, default=None)
        self.best = (best.best_test_accuracy, best.study_run) if best else None
        self.epochs = {task.name: (0, 0.0) for task in tasks}
        for task in tasks:
            if task.run_id:
                self.epochs[task.name] = last_epoch(task.run_id)
        self.kept_text = ""
        self.kept_in_store = recorded_run(parent.run_id).runs_finished
        self.told = {task.name: "waiting" for task in tasks}
        self.start, self.done_before = time.monotonic(), self._done()
        self.next_line = self.start + LINE_SECONDS
        self.bar = tqdm(
            total=sum(task.params.planned_epochs for task in tasks),
            initial=self.done_before,
            unit="epoch",
            disable=None,  # where the output is no terminal
            bar_format="{n}/{total} epochs |{bar:20}| {elapsed} {postfix}",
        )

    def look(self) -> None:
        """Read from the store how far the running tasks are, and tell it."""
        ended = False
        for task in self.tasks:
            if self.told[task.name] in ENDED:
                continue
            state = task.state  # first, as it may change at any moment
            if task.run_id:
                self.epochs[task.name] = last_epoch(task.run_id)
            if state in ENDED:
                self._tell_end(task, state)
                ended = True
            self.told[task.name] = state
        self.bar.n = self._done()
        self.bar.set_postfix_str(self.text())
        if ended or time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            self._keep()

    def _tell_end(self, task: Task, state: str) -> None:
        line = f"{task.name} failed: {task.error}"
        if state == "finished" and task.run_id:
            run = recorded_run(task.run_id)
            accuracy = run.best_test_accuracy
            line = f"{task.name}: {accuracy:.2%} in epoch {run.best_epoch}"
            self.best = max(self.best or (0.0, ""), (accuracy, task.name))
        tqdm.write(line, file=sys.stdout)

    def _keep(self) -> None:
        """Put the state on the parent run, and on the output if that is no terminal."""
        text, finished = self.text(), self._finished()
        if text == self.kept_text:
            return
        self.kept_text = text
        if self.bar.disable:
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
        self.parent.set_tags({Tag.PROGRESS: text})
        if finished != self.kept_in_store and self.best:
            self.kept_in_store = finished
            metrics = {Metric.RUNS_FINISHED: finished, Metric.BEST_TEST_ACCURACY: self.best[0]}
            self.parent.log_metrics(metrics, step=finished)

    def _finished(self) -> int:
        return self.kept + sum(state == "finished" for state in self.told.values())

    def _done(self) -> int:
        return sum(epoch for epoch, _ in self.epochs.values())

    def text(self) -> str:
        """`3/10 runs, best 99.12% (conv2d seed=1), 14 min left; conv2d seed=3 12/30 98.71%, …`"""
        parts = [f"{self._finished()}/{self.kept + len(self.tasks)} runs"]
        if self.best:
            parts.append(f"best {self.best[0]:.2%} ({self.best[1]})")
        trained = self._done() - self.done_before
        left = sum(
            task.params.planned_epochs - self.epochs[task.name][0]
            for task in self.tasks
            if task.state in ("waiting", "running")
        )
        if trained and left:
            minutes = left * (time.monotonic() - self.start) / trained / 60
            parts.append(f"{minutes:.0f} min left")
        running = [
            f"{task.name} {epoch}/{task.params.planned_epochs} {accuracy:.2%}"
            for task in self.tasks
            if task.state == "running"
            for epoch, accuracy in [self.epochs[task.name]]
        ]
        return ", ".join(parts) + ("; " + ", ".join(running) if running else "")

    def close(self) -> None:
        """Take the bar off the terminal, and leave the last state in the parent run."""
        self.look()
        self._keep()
        self.bar.close()
