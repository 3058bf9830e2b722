"""docs/your-own-layer.md, followed in a folder beside the project; fewer and shorter runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.end_to_end.conftest import Checkout, check_out_small

PAGE = (PROJECT / "docs/your-own-layer.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(LAYER,) = (code for language, code in BLOCKS if language == "python")
SHORT = "--iterations 5 --batch_size 512"


def shorter(command: str) -> str:
    """The command with two runs of each layer at most, and a few steps for each."""
    command = re.sub(r"--runs \d+", "--runs 2", command)
    command = re.sub(r" --validation_size \d+", "", command)
    return re.sub(r"--epochs \d+", SHORT, command).replace("-P epochs=1", "-P iterations=5")


def commands(heading: str) -> list[str]:
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.endswith("pipeline ui")]  # it serves until it ends


class Shell:
    """Commands as typed one after another, each in the folder and environment of those before."""

    def __init__(self, project: Checkout) -> None:
        self.project = project
        self.before: list[str] = []

    def type(self, command: str, fails: bool = False) -> str:
        script = "; ".join([*self.before, command])
        done = self.project.run("bash", "-c", script, stderr=subprocess.STDOUT)
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A shell in an empty folder beside the project, with the layer's file in it."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "stn-mnist").mkdir()
    project = check_out_small(folder / "stn-mnist")
    (project.folder / ".venv").symlink_to(sys.prefix)
    shell = Shell(project)
    setup = commands("Write the layer")
    shell.type("; ".join(setup))
    shell.before = [command for command in setup if not command.startswith(("mkdir", "ln"))]
    (folder / "my-layer/my_layers.py").write_text(LAYER)
    return shell


@pytest.fixture(scope="module")
def store(shell) -> Checkout:
    """The folder with the layer and the store, to read its runs."""
    return Checkout(shell.project.folder.parent / "my-layer", shell.project.environment)


def trainings(store):
    runs = store.client().search_runs(["1"], "tags.`stn.protocol` != ''")
    return {run.info.run_name: run for run in runs if run.info.status == "FINISHED"}


@pytest.mark.slow  # minutes: a dozen commands
def test_the_page_ends_in_a_verdict_and_an_edited_layer_is_another(shell, store):
    (train,) = commands("Train it once")
    shell.type(shorter(train))
    (name,) = trainings(store)
    layer, _, seed = name.partition(" ")
    assert re.fullmatch(r"my_layers:BlurConv2d@[0-9a-f]{8}", layer)
    assert seed == "seed=0"

    study, compare = commands("Compare it with conv2d")
    output = shell.type(shorter(study))
    assert "**Verdict: " in output
    assert f"| {layer} | " in output
    names = {f"{kind} seed={seed}" for kind in ("conv2d", layer) for seed in (0, 1)}
    runs = trainings(store)
    assert runs.keys() == names
    client = store.client()
    for name, run in runs.items():
        own = not name.startswith("conv2d")
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert ("my_layers.py" in files) == own
        assert run.data.params["conv_layer"] == name.partition(" ")[0]
    logged = client.download_artifacts(runs[f"{layer} seed=1"].info.run_id, "my_layers.py")
    assert Path(logged).read_text() == LAYER
    assert layer in shell.type(compare)

    (store.folder / "my_layers.py").rename(store.folder / "elsewhere.txt")
    (evaluate,) = commands("Use its best model")
    assert "accuracy" in shell.type(evaluate)  # without the user's source
    assert f"| {layer} |" in shell.type(compare)

    (store.folder / "my_layers.py").write_text(
        LAYER.replace("3, stride=1, padding=1", "5, stride=1, padding=2")
    )
    study, compare = commands("When you edit the layer")
    assert "runs: 2 to be started" in shell.type(shorter(study))
    edited = {name.partition(" ")[0] for name in trainings(store)} - {"conv2d", layer}
    assert len(edited) == 1
    output = shell.type(compare)
    for kind in ("conv2d", layer, *edited):
        assert f"| {kind} | " in output
    refused = shell.type(f"python -m pipeline train --conv_layer {layer}", fails=True)
    assert "my_layers.py has changed since then" in refused.splitlines()[-1]


@pytest.mark.slow
def test_mlflow_run_finds_the_layer_by_the_pythonpath(shell, store):
    _, run = commands("With make and mlflow run")
    run += " -P batch_size=512 --experiment-name own"  # in which MLflow's own run is taken over
    shell.type(shorter(run))
    experiment = store.client().get_experiment_by_name("own")
    (run,) = store.client().search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["conv_layer"] == "my_layers:BlurConv2d"
    layer = run.data.tags["stn.conv_layer"]
    assert re.fullmatch(r"my_layers:BlurConv2d@[0-9a-f]{8}", layer)
    assert f"| {layer} | " in shell.type("python -m pipeline compare --experiment own")


@pytest.mark.parametrize(
    ("layer", "command", "words"),
    [
        ("no_such:Blur", "train", "there is no module no_such"),
        ("wrong:Blur", "study --runs 1", "the module wrong has no class Blur; it defines: Padded"),
        ("wrong:Padded", "train", "must return (N, out_channels, H - kernel_size + 1, "),
        ("wrong:Branch", "study --runs 1", "cannot be exported as a pt2 archive"),
    ],
)
def test_a_wrong_layer_ends_in_one_line_before_a_run_is_opened(
    shell, tmp_path, layer, command, words
):
    (tmp_path / "wrong.py").write_text(
        "from torch import nn\n\n\n"
        "class Padded(nn.Conv2d):\n"
        "    def __init__(self, **given):\n"
        "        super().__init__(**given, padding='same')\n\n\n"
        "class Branch(nn.Conv2d):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images if images.mean() > 0 else -images)\n"
    )
    output = shell.type(
        f"cd {shlex.quote(str(tmp_path))}; python -m pipeline {command} --conv_layer {layer}",
        fails=True,
    )
    lines = [line for line in output.splitlines() if "INFO mlflow" not in line]
    assert len(lines) == 1, output
    assert lines[0].startswith("Error: conv_layer: ")
    assert words in lines[0]
    store = Checkout(tmp_path, shell.project.environment)
    assert not (tmp_path / "mlflow.db").exists() or store.statuses() == []
