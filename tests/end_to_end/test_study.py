"""Whole studies by real commands, undisturbed and killed; on a part of MNIST, to be quick."""

import os
import random
import re
import signal
import time

import pytest

from tests.end_to_end.conftest import (
    ON_SERVER,
    ONE_SCREEN,
    check_out_small,
    last_line,
    store_of,
)
from tests.end_to_end.processes import listening, started_with, worker_processes
from tests.end_to_end.studies import (
    SMALL,
    arguments,
    history_of,
    runs_of,
    study_command,
    table_of,
    wait_for_an_epoch,
)


@pytest.fixture(scope="module", params=["sqlite", ON_SERVER])
def small_study(request, tmp_path_factory):
    """An undisturbed study by `mlflow run`: the checkout, the finished process."""
    checkout = check_out_small(tmp_path_factory.mktemp("study"))
    given = arguments(("-P", "{0}={1}"), **SMALL, runs=1)
    command = ["-e", "study", "--experiment-name", "stn-mnist", *given]
    with store_of(checkout, request.param) as checkout:
        yield checkout, checkout.mlflow_run(*command, **ONE_SCREEN)


def test_a_study_ends_with_its_table_and_its_runs_nested(small_study):
    checkout, done = small_study
    assert done.returncode == 0, done.stdout
    parent, nested = runs_of(checkout)
    assert last_line(done.stdout).startswith(f"run {parent.info.run_id}: see http://")
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name.startswith("study replication epochs=2")
    assert {name: run.info.status for name, run in nested.items()} == {
        "conv2d seed=0": "FINISHED",
        "coordconv2d seed=0": "FINISHED",
    }
    for row in table_of(checkout, parent):
        assert row in done.stdout
    assert len(table_of(checkout, parent)) >= 2
    assert set(checkout.statuses()) == {"FINISHED"}
    assert not list((checkout.folder / "checkpoints").glob("*.pt"))


def test_on_a_local_ray_a_study_gives_the_same_bits_and_leaves_no_process(
    small_study, tmp_path, record_property
):
    ray = pytest.importorskip("ray")
    checkout = check_out_small(tmp_path)
    checkout.environment["STUDY_ON_RAY"] = str(checkout.folder)
    mark = f"STUDY_ON_RAY={checkout.folder}"
    process = checkout.start(*study_command(executor="ray"), **ONE_SCREEN)
    wait_for_an_epoch(checkout, process)
    processes = started_with(mark)
    assert any("raylet" in command for command in processes.values())
    assert listening(processes) == {"127.0.0.1"}
    screen, _ = process.communicate(timeout=300)
    assert process.returncode == 0, screen
    assert not started_with(mark)
    parent, nested = runs_of(checkout)
    assert last_line(screen).startswith(f"run {parent.info.run_id}: see http://")
    assert set(checkout.statuses()) == {"FINISHED"}
    local, _ = small_study
    local_parent, local_nested = runs_of(local)
    assert table_of(checkout, parent) == table_of(local, local_parent)
    for name, run in nested.items():
        assert history_of(checkout, run) == history_of(local, local_nested[name])
    record_property("ray", ray.__version__)  # the summary says so


def test_the_output_is_readable_where_it_is_no_terminal(small_study):
    _, done = small_study
    assert "runs: 2 to be started\n" in done.stdout
    assert re.search(r"^conv2d seed=0: [\d.]+% in epoch \d$", done.stdout, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d 2/2 runs, best [\d.]+%", done.stdout, re.MULTILINE)
    assert "\r" not in done.stdout


def test_the_parent_holds_progress_and_links_to_the_best(small_study):
    checkout, _ = small_study
    parent, nested = runs_of(checkout)
    best = max(run.data.metrics["best_test_accuracy"] for run in nested.values())
    assert parent.data.metrics == {"runs_finished": 2, "best_test_accuracy": best}
    assert parent.data.tags["stn.progress"].startswith("2/2 runs, best ")
    note = parent.data.tags["mlflow.note.content"]
    versions = checkout.client().get_registered_model("stn-mnist").aliases
    assert versions.keys() == {"best-conv2d", "best-coordconv2d", "champion"}
    for alias, version in versions.items():
        assert f"{alias} is now [version {version}](/#/models/stn-mnist/versions/" in note
    champion = checkout.client().get_model_version("stn-mnist", versions["champion"])
    candidates = checkout.client().search_model_versions("name='stn-mnist'")
    assert float(champion.tags["stn.accuracy"]) == max(
        float(version.tags["stn.accuracy"]) for version in candidates
    )


@pytest.mark.slow
def test_more_runs_are_added_to_a_finished_study(small_study):
    checkout, _ = small_study
    parent, nested = runs_of(checkout)
    done = checkout.run(*study_command(runs=2))
    assert done.returncode == 0, done.stderr
    assert "runs: 2 finished before, 2 to be started" in done.stdout
    again, four = runs_of(checkout)
    assert again.info.run_id == parent.info.run_id
    assert four.keys() == nested.keys() | {"conv2d seed=1", "coordconv2d seed=1"}
    assert {nested[name].info.run_id for name in nested} == {
        four[name].info.run_id for name in nested
    }


@pytest.fixture(
    scope="module",
    params=[
        ("all",),
        pytest.param(("parent", "all", "worker"), marks=pytest.mark.slow),
    ],
    ids=["once", "thrice"],
)
def killed_study(tmp_path_factory, request):
    """The same study, killed with SIGKILL at random moments and started again each time."""
    checkout = check_out_small(tmp_path_factory.mktemp("killed"))
    chance = random.Random()
    for whom in request.param:
        seconds = chance.uniform(0, 2)
        print(f"kill {whom} {seconds:.1f} s after an epoch or a start")
        process = checkout.start(*study_command(), start_new_session=True)
        if whom == "worker":
            kill_a_worker(process, seconds)
            break
        wait_for_an_epoch(checkout, process)
        time.sleep(seconds)
        kill = os.killpg if whom == "all" else os.kill
        kill(process.pid, signal.SIGKILL)
        process.communicate()
    else:
        process = checkout.start(*study_command())
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return checkout, output


def kill_a_worker(process, seconds):
    """Kill a worker process of a study so many seconds after it was started, if it still runs."""
    while process.poll() is None and not worker_processes(process.pid):
        time.sleep(0.1)
    time.sleep(seconds)
    for worker in worker_processes(process.pid)[:1]:
        os.kill(worker, signal.SIGKILL)


def test_a_killed_study_comes_to_the_same_metrics_and_table(small_study, killed_study):
    (checkout, done), (killed, _) = small_study, killed_study
    _, nested = runs_of(checkout)
    killed_parent, killed_nested = runs_of(killed)
    for name, run in killed_nested.items():
        assert history_of(killed, run) == history_of(checkout, nested[name])
    printed = [line for line in done.stdout.splitlines() if line.startswith("| c")]
    assert table_of(killed, killed_parent) == printed


def test_a_killed_study_leaves_nothing_running_and_nothing_double(killed_study):
    killed, _ = killed_study
    _, nested = runs_of(killed)
    assert set(killed.statuses()) == {"FINISHED"}
    assert nested.keys() == {"conv2d seed=0", "coordconv2d seed=0"}
    versions = killed.client().search_model_versions("name='stn-mnist'")
    assert sorted(v.run_id for v in versions) == sorted(r.info.run_id for r in nested.values())
    assert not list((killed.folder / "checkpoints").glob("*.pt"))
