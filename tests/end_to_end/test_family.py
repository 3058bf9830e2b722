"""Other architectures, transformations and data sets than the predecessor's, by real commands."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import check_out_small
from tests.end_to_end.test_study import runs_of

# Two of the five architectures, few iterations, a part of MNIST, and a test set without copies, to
# be quick: what they learn does not matter here.
STUDY = {
    "preset": "params/rotated_reduced.yaml",
    "dataset": "rts",
    "network": "tutorial",
    "architecture": "cnn,stn-c1",
    "seeds": 1,
    "validation_size": 500,
    "iterations": 20,
    "batch_size": 512,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A study of two architectures on posed digits: the checkout, the finished process."""
    checkout = check_out_small(tmp_path_factory.mktemp("family"))
    given = [part for name, value in STUDY.items() for part in ("-P", f"{name}={value}")]
    return checkout, checkout.mlflow_run("-e", "study", "--experiment-name", "stn-mnist", *given)


def artifact(checkout, run, name):
    with open(checkout.client().download_artifacts(run.info.run_id, name), "rb") as file:
        return file.read()


@pytest.mark.slow
def test_a_study_of_architectures_ends_with_their_table_and_gallery(family):
    checkout, done = family
    assert done.returncode == 0, done.stderr
    parent, nested = runs_of(checkout)
    assert nested.keys() == {"conv2d cnn seed=0", "conv2d stn-c1 seed=0"}
    header = next(line for line in done.stdout.splitlines() if line.startswith("| architecture"))
    assert "pose deviation [°]" in header
    deviation = nested["conv2d stn-c1 seed=0"].data.metrics["pose_deviation"]
    (row,) = re.findall(r"^\| stn-c1 .*", done.stdout, re.MULTILINE)
    assert f"{deviation:.1f} (–)" in row
    (row,) = re.findall(r"^\| cnn .*", done.stdout, re.MULTILINE)
    assert row.endswith("| – |")
    with Image.open(io.BytesIO(artifact(checkout, parent, "gallery.png"))) as gallery:
        assert gallery.format == "PNG"


@pytest.mark.slow
def test_a_run_shows_what_its_transformer_does(family):
    checkout, _ = family
    _, nested = runs_of(checkout)
    run = nested["conv2d stn-c1 seed=0"]
    with Image.open(io.BytesIO(artifact(checkout, run, "transformer.gif"))) as animation:
        assert animation.n_frames >= 1  # of frames that are alike, one is kept
    content = artifact(checkout, run, "poses.npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert arrays["before"].shape == (8, 42, 42)
        assert not arrays["warps_image"]
    names = {
        a.path for a in checkout.client().list_artifacts(nested["conv2d cnn seed=0"].info.run_id)
    }
    assert not names & {"transformer.gif", "poses.npz", "stn_before_after.png"}


@pytest.mark.slow
def test_a_data_set_has_its_own_champion_and_evaluate_agrees_with_its_run(family):
    checkout, _ = family
    aliases = checkout.client().get_registered_model("stn-mnist").aliases
    assert aliases.keys() == {"champion-rts", "best-conv2d-rts"}
    done = checkout.pipeline("evaluate", "--model-uri", "models:/stn-mnist@champion-rts")
    assert done.returncode == 0, done.stderr
    version = checkout.client().get_model_version("stn-mnist", aliases["champion-rts"])
    trained = checkout.client().get_run(version.run_id)
    accuracy = trained.data.metrics["best_test_accuracy"]
    assert f"accuracy {accuracy:.2%}" in done.stdout


def test_what_cannot_be_built_is_refused_before_a_run_is_opened(checkout):
    done = checkout.pipeline("study", "--architecture", "stn-c0,stn-sl2", "--runs", "1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "conv_layer: got 'coordconv2d'" in done.stderr
    assert not (checkout.folder / "mlflow.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("conv_layer", ["conv2d", "coordconv2d"])
@pytest.mark.parametrize(
    "kind",
    [
        {"architecture": "stn-sl1", "dataset": "rotated", "transform": "affine"},
        {"dataset": "elastic", "transform": "tps"},
        {"dataset": "projective", "transform": "projective"},
        {"dataset": "rts", "transform": "similarity", "transformer_iterations": 2},
        {"architecture": "stn-c1"},
        {"architecture": "cnn"},
        {
            "architecture": "stn-dl1",
            "dataset": "translated",
            "network": "paper",
            "sampler_size": 30,
        },
        {"architecture": "stn-c0", "dataset": "scaled", "network": "paper", "iterations": 5},
    ],
    ids=lambda kind: " ".join(map(str, kind.values())),
)
def test_each_kind_trains_registers_and_is_evaluated_alike(checkout, kind, conv_layer):
    given = {"conv_layer": conv_layer, "iterations": 100, "threads": 2, **kind}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    trained = checkout.pipeline("train", *options)
    assert trained.returncode == 0, trained.stderr
    (version,) = re.findall(r"model version (\d+)", trained.stdout)
    evaluated = checkout.pipeline("evaluate", "--model-uri", f"models:/stn-mnist/{version}")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = r"accuracy [\d.]+%, macro F1 [\d.]+%"
    assert re.findall(scores, evaluated.stdout) == re.findall(scores, trained.stdout)[-1:]
    assert set(checkout.statuses()) == {"FINISHED"}
