"""Real worker processes; what they train is replaced, so that they fail when they shall."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.params import RunParams
from pipeline.study import local_processes
from pipeline.study.executor import Task
from pipeline.study.local_processes import ATTEMPTS, LocalProcesses


def succeed(task):
    task.checkpoint_file.write_text(f"{os.environ['OMP_NUM_THREADS']} {os.getppid()}")
    return ""


def fail_with_odd_seeds(task):
    return "disk full" if task.params.seed % 2 else ""


def die_twice(task):
    """Each process gets one epoch further, as a real training does."""
    file = task.checkpoint_file
    lives = file.read_text() if file.exists() else ""
    if len(lives) == 2:
        return ""
    file.write_text(lives + "x")
    os.kill(os.getpid(), signal.SIGKILL)


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(task):
    task.checkpoint_file.write_text(str(os.getpid()))
    time.sleep(600)


def end(task, error):
    task.state, task.error = "failed" if error else "finished", error


def run(monkeypatch, tmp_path, function, workers=2, tasks=2):
    monkeypatch.setattr(local_processes, "train_task", function)
    tasks = [Task(f"run {n}", RunParams(seed=n), "replication") for n in range(tasks)]

    def start(task):
        task.run_id, task.checkpoint_file = "id", tmp_path / f"{task.name}.pt"
        task.state = "running"

    return tasks, LocalProcesses(tasks, workers=workers, on_start=start, on_end=end)


def wait(pool, seconds=60):
    end = time.monotonic() + seconds
    while pool.busy():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_tasks_are_trained_in_processes_of_this_one_with_one_thread(monkeypatch, tmp_path):
    tasks, pool = run(monkeypatch, tmp_path, succeed, tasks=3)
    wait(pool)
    assert [task.state for task in tasks] == ["finished"] * 3
    assert {path.read_text() for path in tmp_path.iterdir()} == {f"1 {os.getpid()}"}


def test_one_that_fails_does_not_stop_the_others(monkeypatch, tmp_path):
    tasks, pool = run(monkeypatch, tmp_path, fail_with_odd_seeds, tasks=4)
    wait(pool)
    assert [task.state for task in tasks] == ["finished", "failed", "finished", "failed"]
    assert tasks[1].error == "disk full"


def test_a_process_that_dies_is_replaced_and_its_task_goes_on(monkeypatch, tmp_path):
    tasks, pool = run(monkeypatch, tmp_path, die_twice)
    wait(pool)
    assert [task.state for task in tasks] == ["finished"] * 2


def test_a_task_whose_processes_die_without_progress_fails_in_the_end(monkeypatch, tmp_path):
    tasks, pool = run(monkeypatch, tmp_path, die, tasks=1)
    wait(pool)
    assert tasks[0].state == "failed"
    assert f"died {ATTEMPTS} times" in tasks[0].error


def test_a_task_that_gets_no_run_fails():
    tasks = [Task("run", RunParams(), "replication")]

    def start(task):
        raise OSError("the store is gone")

    wait(LocalProcesses(tasks, workers=1, on_start=start, on_end=end))
    assert tasks[0].state == "failed"
    assert "the store is gone" in tasks[0].error


def test_stopped_workers_leave_no_process(monkeypatch, tmp_path):
    tasks, pool = run(monkeypatch, tmp_path, sleep)
    files = [tmp_path / f"{task.name}.pt" for task in tasks]
    end = time.monotonic() + 60
    while not all(path.exists() and path.read_text() for path in files):
        assert time.monotonic() < end
        time.sleep(0.05)
    pool.stop()
    assert not pool.busy()
    for path in files:
        assert not Path(f"/proc/{path.read_text()}").exists()
    assert [task.state for task in tasks] == ["running"] * 2


@pytest.mark.parametrize("workers", [1, 5])
def test_no_more_workers_than_tasks_are_started(monkeypatch, tmp_path, workers):
    tasks, pool = run(monkeypatch, tmp_path, succeed, workers=workers, tasks=2)
    assert len(pool._threads) == min(workers, 2)
    wait(pool)
    assert {task.state for task in tasks} == {"finished"}
