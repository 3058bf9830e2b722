"""Studies on Ray that are disturbed; an undisturbed one is in `test_study.py`."""

import signal
import subprocess
import sys
import time

import pytest
from selenium.webdriver.common.utils import free_port

from tests.end_to_end.conftest import ONE_SCREEN, Checkout, answer_of, check_out_small, last_line
from tests.end_to_end.processes import started_with
from tests.end_to_end.studies import runs_of, study_command, wait_for_an_epoch
from tests.end_to_end.test_study import history_of, table_of

pytestmark = pytest.mark.slow

# two raylets on loopback, of which the second is killed when a line arrives
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print("ready", cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
print("killed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.fixture(autouse=True)
def _on_ray(record_property):
    ray = pytest.importorskip("ray")
    record_property("ray", ray.__version__)  # the summary says so


def check_out_two(folder):
    names = ("one", "another")
    for name in names:
        (folder / name).mkdir()
    return [check_out_small(folder / name) for name in names]


def marked(checkout: Checkout) -> str:
    """The mark of the processes that commands of this checkout start from now on."""
    checkout.environment["STUDY_ON_RAY"] = str(checkout.folder)
    return f"STUDY_ON_RAY={checkout.folder}"


def wait_until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def test_a_node_that_is_killed_changes_no_bit(tmp_path):
    local, checkout = check_out_two(tmp_path)
    mark = marked(checkout)
    checkout.environment["RAY_USAGE_STATS_ENABLED"] = "0"
    checkout.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only
    assert local.run(*study_command(epochs=8)).returncode == 0
    cluster = checkout.start(sys.executable, "-c", CLUSTER, stdin=subprocess.PIPE)
    try:
        ready = cluster.stdout.readline().split()
        assert ready[:1] == ["ready"], cluster.communicate()
        command = study_command(epochs=8, executor="ray", ray_address=ready[1])
        process = checkout.start(*command, **ONE_SCREEN)

        def epochs():
            return [run.data.metrics.get("train_loss") for run in runs_of(checkout)[1].values()]

        wait_until(lambda: (checkout.folder / "mlflow.db").exists())
        wait_for_an_epoch(checkout, process)
        wait_until(lambda: len(epochs()) == 2 and None not in epochs())
        _, nested = runs_of(checkout)
        assert {run.info.status for run in nested.values()} == {"RUNNING"}
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline() == "killed\n"
        screen, _ = process.communicate(timeout=600)
        assert process.returncode == 0, screen
    finally:
        cluster.communicate("\n\n", timeout=120)
    assert not started_with(mark)
    assert set(checkout.statuses()) == {"FINISHED"}
    parent, nested = runs_of(checkout)
    local_parent, local_nested = runs_of(local)
    assert table_of(checkout, parent) == table_of(local, local_parent)
    for name, run in nested.items():
        assert history_of(checkout, run) == history_of(local, local_nested[name])


def test_ctrl_c_closes_the_runs_ends_ray_and_the_study_goes_on_anywhere(tmp_path):
    checkout = check_out_small(tmp_path)
    mark = marked(checkout)
    command = study_command(epochs=12, architecture="cnn", conv_layer="conv2d")
    process = checkout.start(*command, "--executor", "ray", **ONE_SCREEN)
    wait_for_an_epoch(checkout, process)
    process.send_signal(signal.SIGINT)
    screen, _ = process.communicate(timeout=60)
    assert process.returncode == 130, screen
    assert last_line(screen) == "interrupted"
    assert "Traceback" not in screen
    assert set(checkout.statuses()) == {"KILLED"}
    assert not started_with(mark)
    done = checkout.run(*command)  # in processes of this machine, from Ray's checkpoint
    assert done.returncode == 0, done.stderr
    assert "runs: 1 to be continued" in done.stdout
    assert set(checkout.statuses()) == {"FINISHED"}
    assert not list(checkout.folder.glob("mlruns/**/checkpoint/*.pt"))


def test_on_a_server_one_process_works_on_a_study_and_a_dead_one_is_replaced(tmp_path):
    folders = check_out_two(tmp_path)
    port = free_port()
    (tmp_path / "server").mkdir()
    server = Checkout(tmp_path / "server", folders[0].environment).start(
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/server/mlflow.db"),
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
    )
    command = study_command(epochs=60, architecture="cnn", conv_layer="conv2d")
    try:
        answer_of(server, f"http://127.0.0.1:{port}/health")
        for folder in folders:
            folder.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        first = folders[0].start(*command, **ONE_SCREEN)
        wait_for_an_epoch(folders[0], first)
        refused = folders[1].run(*command)
        assert refused.returncode == 1
        assert "this study is running already" in refused.stderr.splitlines()[-1]
        first.kill()
        first.communicate()
        done = folders[1].run(*command)
        assert done.returncode == 0, done.stderr
        assert "runs: 1 to be continued" in done.stdout
    finally:
        server.terminate()
        server.communicate(timeout=120)
