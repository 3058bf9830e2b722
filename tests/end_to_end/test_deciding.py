"""A study that stops when it is decided, by real commands; killed between two looks."""

import json
import os
import random
import re
import signal
import time
from dataclasses import asdict

import pytest

from pipeline.comparison.sequential import Design, decide
from tests.end_to_end.conftest import reduce_mnist
from tests.end_to_end.studies import runs_of, study_command

# five steps on a part of MNIST; one worker, because each worker process takes seconds to start
SHORT = {"epochs": None, "iterations": 5, "workers": 1}
LAYERS = ("conv2d", "coordconv2d")


def killed_after_the_first_look(checkout, command):
    """The output of a study until it is killed, at a random moment after its first look."""
    process = checkout.start(*command, start_new_session=True)
    output = ""
    while "look 1 of 2" not in output:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        output += line
    seconds = random.uniform(0, 8)
    print(f"kill {seconds:.1f} s after the first look")
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return output


@pytest.mark.slow
def test_a_killed_study_goes_on_within_its_plan_to_the_same_verdict(checkout):
    reduce_mnist(checkout)
    command = study_command(until="decided", runs=4, margin=0.2, architecture="cnn", **SHORT)
    before = killed_after_the_first_look(checkout, command)
    done = checkout.run(*command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == before.splitlines()[0]
    assert lines[0].startswith("plan: looks at 3 and 4 runs of each layer")
    (stopped,) = [line for line in lines if line.startswith("stopped at look ")]
    look, each = map(int, re.findall(r"look (\d) of 2, with (\d) runs of each layer", stopped)[0])

    parent, nested = runs_of(checkout)
    assert parent.info.status == "FINISHED"
    assert nested.keys() == {f"{layer} seed={seed}" for layer in LAYERS for seed in range(each)}
    assert {run.info.status for run in nested.values()} == {"FINISHED"}
    design = Design.from_json(parent.data.tags["stn.design"])
    assert design == Design((3, 4), margin=0.2)
    accuracies = {
        layer: [
            100 * nested[f"{layer} seed={seed}"].data.metrics["best_test_accuracy"]
            for seed in range(each)
        ]
        for layer in LAYERS
    }
    (decision,) = decide(design, accuracies)
    assert decision.look == look
    path = checkout.client().download_artifacts(parent.info.run_id, "comparison.json")
    with open(path) as file:
        (pair,) = json.load(file)["protocols"][0]["pairs"]
    assert pair["decision"] == pytest.approx(asdict(decision))
