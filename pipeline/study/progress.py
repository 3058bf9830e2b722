"""How far a study is: on the terminal, and in the tags and metrics of its parent run.

It is read from the store, where the runs log each epoch, so that an executor need not report it.
"""

import sys
import time

from tqdm import tqdm

from pipeline.study.executor import Task
from pipeline.tracking.histories import last_epoch
from pipeline.tracking.recorded import RecordedRun, recorded_run
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.vocabulary import Metric, Tag

LINE_SECONDS = 60.0  # between two lines of progress where the output is no terminal
ENDED = ("finished", "failed")


class ProgressReporter:
    """Shows how far a study is: as a bar on a terminal, else as lines; and in the parent run.

    Args:
        parent: the study's parent run.
        tasks: what is trained.
        finished_runs: the study's runs that had finished before.
    """

    def __init__(
        self, parent: TrackedRun, tasks: list[Task], finished_runs: list[RecordedRun]
    ) -> None:
        self._parent, self._tasks = parent, tasks
        self._finished_before = len(finished_runs)
        self._best: tuple[float, str] | None = None  # accuracy of the best run, and its name
        self._collapsed = {run.study_run: run.collapsed for run in finished_runs}
        for run in finished_runs:
            if Metric.BEST_TEST_ACCURACY in run.metrics:  # not in one that others logged
                self._note_result(run.study_run, run.best_test_accuracy)
        self._reported_states = {task.name: "waiting" for task in tasks}
        self._epochs = {  # the last epoch that was logged, and its test accuracy
            task.name: last_epoch(task.run_id) if task.run_id else (0, 0.0) for task in tasks
        }
        self._stored_text = ""
        self._stored_count = recorded_run(parent.run_id).runs_finished
        self._started, self._epochs_before = time.monotonic(), self._epochs_done()
        self._next_line = self._started + LINE_SECONDS
        self._bar = tqdm(
            total=sum(task.params.planned_epochs for task in tasks),
            initial=self._epochs_before,
            unit="epoch",
            disable=None,  # where the output is no terminal
            bar_format="{n}/{total} epochs |{bar:20}| {elapsed} {postfix}",
        )

    def update(self) -> None:
        """Read from the store how far the running tasks are, and show it."""
        ended = False
        for task in self._tasks:
            if self._reported_states[task.name] in ENDED:
                continue
            state = task.state  # read once, as another thread may change it at any moment
            if task.run_id:
                self._epochs[task.name] = last_epoch(task.run_id)
                self._print_collapse(task, recorded_run(task.run_id).collapsed)
            if state in ENDED:
                self._print_end(task, state)
                ended = True
            self._reported_states[task.name] = state
        self._bar.n = self._epochs_done()
        self._bar.set_postfix_str(self.text())
        if ended or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            self._store()

    def close(self) -> None:
        """Remove the bar from the terminal, and leave the last state in the parent run."""
        self.update()
        self._store()
        self._bar.close()

    def text(self) -> str:
        """How far the study is, in a line.

        `3/10 runs, 1 collapsed, best 99.12% (conv2d seed=1), 14 min left; conv2d seed=3 5/9 98.71%`
        """
        parts = [f"{self._runs_finished()}/{self._finished_before + len(self._tasks)} runs"]
        collapsed = sum(reason != "" for reason in self._collapsed.values())
        if collapsed:
            parts.append(f"{collapsed} collapsed")
        if self._best:
            accuracy, name = self._best
            parts.append(f"best {accuracy:.2%} ({name})")
        minutes = self._minutes_left()
        if minutes is not None:
            parts.append(f"{minutes:.0f} min left")
        running = [
            f"{task.name} {epoch}/{task.params.planned_epochs} {accuracy:.2%}"
            for task in self._tasks
            if task.state == "running"
            for epoch, accuracy in [self._epochs[task.name]]
        ]
        return ", ".join(parts) + ("; " + ", ".join(running) if running else "")

    def _minutes_left(self) -> float | None:
        """By the epochs trained since the start; None before the first, and if none is left."""
        trained = self._epochs_done() - self._epochs_before
        left = sum(
            task.params.planned_epochs - self._epochs[task.name][0]
            for task in self._tasks
            if task.state not in ENDED
        )
        if not trained or not left:
            return None
        return left * (time.monotonic() - self._started) / trained / 60

    def _print_end(self, task: Task, state: str) -> None:
        line = f"{task.name} failed: {task.error}"
        if state == "finished" and task.run_id:
            run = recorded_run(task.run_id)
            line = f"{task.name}: {run.best_test_accuracy:.2%} in epoch {run.best_epoch}"
            self._note_result(task.name, run.best_test_accuracy)
        tqdm.write(line, file=sys.stdout)

    def _print_collapse(self, task: Task, collapsed: str) -> None:
        if collapsed != self._collapsed.get(task.name, ""):
            news = f"has collapsed, {collapsed}" if collapsed else "has recovered from its collapse"
            tqdm.write(f"{task.name} {news}", file=sys.stdout)
        self._collapsed[task.name] = collapsed

    def _note_result(self, name: str, accuracy: float) -> None:
        """Remember the best run to show; of equals, the first."""
        if self._best is None or accuracy > self._best[0]:
            self._best = accuracy, name

    def _store(self) -> None:
        """Put the state on the parent run, and on the output if that is no terminal."""
        text, finished = self.text(), self._runs_finished()
        if text == self._stored_text:
            return
        self._stored_text = text
        if self._bar.disable:
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
        self._parent.set_tags({Tag.PROGRESS: text})
        if finished != self._stored_count and self._best:
            self._stored_count = finished
            metrics = {Metric.RUNS_FINISHED: finished, Metric.BEST_TEST_ACCURACY: self._best[0]}
            self._parent.log_metrics(metrics, step=finished)

    def _runs_finished(self) -> int:
        states = self._reported_states.values()
        return self._finished_before + sum(state == "finished" for state in states)

    def _epochs_done(self) -> int:
        return sum(epoch for epoch, _ in self._epochs.values())
