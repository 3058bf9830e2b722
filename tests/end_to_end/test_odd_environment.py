"""Commands that are started where something usual is missing, such as an open output."""

import shlex
import sys

import pytest

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
