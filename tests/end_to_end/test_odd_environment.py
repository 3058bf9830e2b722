"""Commands that are started where something usual is missing, such as an open output."""

import os
import shlex
import sys

import pytest

from tests.end_to_end.conftest import check_out

SMALL = "--iterations 3 --batch_size 100 --architecture cnn"


@pytest.mark.parametrize(
    "command",
    [
        "store >&-",
        f"train {SMALL} <&- 2>&-",
        pytest.param(f"study --runs 1 {SMALL} >&- 2>&-", marks=pytest.mark.slow),
    ],
)
def test_a_closed_output(small_checkout, command):
    done = small_checkout.run("bash", "-c", f"{shlex.quote(sys.executable)} -m pipeline {command}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(small_checkout.statuses()) == (set() if "store" in command else {"FINISHED"})


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"])
def test_a_value_that_is_not_utf_8(checkout, name):
    checkout.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    checkout.environment["MLFLOW_TRACKING_USERNAME"] = "me"
    checkout.environment["MLFLOW_TRACKING_PASSWORD"] = "secret"
    checkout.environment[name] = os.fsdecode(b"secret\xff")
    done = checkout.pipeline("compare")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "holds characters that cannot be encoded" in line
    assert "secret" not in line


def test_a_folder_whose_name_is_not_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"n\xff")
    folder.mkdir()
    done = check_out(folder).pipeline("store")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "give the folder another name" in line


def test_a_user_without_a_home(checkout):
    # as in a container that is started with another user's number
    (checkout.folder / "sitecustomize.py").write_text(
        "import pwd\n\ndef getpwuid(number):\n    raise KeyError(number)\n\n"
        "pwd.getpwuid = getpwuid\n"
    )
    checkout.environment["PYTHONPATH"] = str(checkout.folder)
    checkout.environment.pop("HOME", None)
    done = checkout.pipeline("store")
    assert done.returncode == 0, done.stderr
    assert (checkout.folder / "mlflow.db").exists()
