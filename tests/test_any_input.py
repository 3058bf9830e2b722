"""Whatever is typed, logged by others or given to a model: it works, or ends in one clear error.

Each property is tried on some made-up inputs, the same ones each time.
"""

import io
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline.comparison.command import compare_runs
from pipeline.data.photos import read_gray, to_mnist
from pipeline.errors import PipelineError
from pipeline.models.build import build_model
from pipeline.models.portable import PortableModel
from pipeline.params import RunParams, StudyParams, choices
from pipeline.presets import resolve
from pipeline.study.plan import resolve_study
from pipeline.tracking.registry import load_model
from pipeline.tracking.result_files import (
    confusion_from_csv,
    poses_from_npz,
    predictions_from_csv,
)
from pipeline.tracking.runs import open_run
from tests.conftest import poses_file

PARAMETERS = [name for name in RunParams.model_fields if name != "preset"]
OF_STUDY = list(StudyParams.model_fields)

# a database stores no lone surrogates, and a command line has no NUL
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
numbers = st.one_of(
    st.integers().map(str),
    st.integers(0, 100).map(str),
    st.floats().map(str),
    st.integers(300, 5000).map(lambda digits: "9" * digits),
)
values = st.one_of(numbers, texts, st.sampled_from(["", " ", ",", "1,2", "1,1", "nan", "010", "~"]))


def some_of(*names):
    """Values for some parameters: good ones, and any."""
    allowed = {name: choices(name) for name in names if name in RunParams.model_fields}
    good = {
        name: st.lists(st.sampled_from(allowed.get(name) or ["1", "2", "0.5"]), max_size=2)
        for name in names
    }
    return st.sets(st.sampled_from(names), max_size=4).flatmap(
        lambda chosen: st.fixed_dictionaries(
            {name: st.one_of(values, good[name].map(",".join)) for name in sorted(chosen)}
        )
    )


def try_any(examples: int):
    """Settings of a property; the fixtures may be shared by its examples."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # to look for a smaller input that fails takes minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def answer_or_error(function, *arguments):
    """What a function returns; None if it raises the error that is shown to people, in one line."""
    try:
        return function(*arguments)
    except PipelineError as error:
        message = str(error)
    assert message.isprintable()
    assert 0 < len(message) < 3000
    return None


@try_any(150)
@given(some_of(*PARAMETERS))
def test_any_values_of_parameters(given_values):
    answer_or_error(resolve, given_values)


@try_any(100)
@given(some_of(*PARAMETERS, "until", "runs", "seeds", "first_seed", "workers", "margin"))
def test_any_values_of_a_studys_parameters(given_values):
    answer_or_error(resolve_study, given_values)


scalars = st.one_of(
    values, st.sampled_from(["!!int x", "&a 1", "*a", "'", '"\\0"', "yes", "|", "<<"])
)
yaml_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
    max_leaves=4,
)
lines = st.builds("{}: {}".format, st.sampled_from([*PARAMETERS, *OF_STUDY, "? [a]"]), yaml_values)
presets = st.one_of(
    st.lists(lines, max_size=4).map("\n".join).map(str.encode),
    st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")),
    st.binary(max_size=60),
    st.sampled_from(["[", "{a: ", "- ", "a: &a [*a]\n"]).map(lambda text: (2000 * text).encode()),
)


@try_any(80)
@given(presets)
def test_any_preset(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    for function in (resolve, resolve_study):
        answer_or_error(function, {"preset": str(path)})


TAGS = [
    *("stn.protocol", "stn.selection", "stn.data_digest", "stn.conv_layer", "stn.collapsed"),
    *("stn.study", "stn.study_run", "stn.checkpoints", "stn.design", "stn.looks", "stn.host"),
    *("stn.cpu", "stn.threads", "stn.commit", "stn.dirty", "mlflow.parentRunId"),
]
METRICS = [
    *("best_test_accuracy", "best_test_f1", "best_test_loss", "best_epoch", "pose_deviation"),
    *("test_accuracy", "test_loss", "train_loss", "val_accuracy"),
]
tag_values = st.one_of(
    texts, st.sampled_from(["[]", "[[0]]", "[[0], [0, 1]]", "{}", "$\\frac{", "*a* | b\n# c", "["])
)
files = st.dictionaries(
    st.sampled_from(["predictions.csv", "confusion_matrix.csv", "poses.npz"]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([poses_file(), poses_file(3, 5), b"a\n1,2\n", b"a\n1,2\n3,3\n"]),
    ),
)
odd_runs = st.fixed_dictionaries(
    {
        "tags": st.dictionaries(st.sampled_from(TAGS), tag_values, max_size=5),
        "params": st.just({}) | st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=2),
        # None takes away what a training logs
        "metrics": st.dictionaries(
            st.sampled_from(METRICS), st.none() | st.floats(), min_size=1, max_size=3
        ),
        "step": st.integers(-5, 10**6),
        "files": files,
    }
)


def log_odd_run(experiment_id, odd, seed):
    """A finished run of somebody else, who has changed some of what a training logs."""
    client = mlflow.MlflowClient()
    params = resolve({"seed": str(seed)}).model_dump(exclude_none=True) | odd["params"]
    tags = {"stn.protocol": "replication", "stn.selection": "test", "stn.data_digest": "d"}
    metrics = {
        "best_test_f1": 0.9,
        "best_test_loss": 0.3,
        "best_epoch": 2,
        "best_test_accuracy": 0.9,
    }
    name = odd["tags"].get("stn.study_run") or "odd"
    run_id = client.create_run(experiment_id, tags=tags | odd["tags"], run_name=name).info.run_id
    client.log_batch(
        run_id,
        [
            Metric(key, value, 0, odd["step"])
            for key, value in (metrics | odd["metrics"]).items()
            if value is not None
        ],
        [Param(key, str(value)) for key, value in params.items()],
    )
    for file, content in odd["files"].items():
        client.log_text(run_id, "", file)
        Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{file}")).write_bytes(content)
    client.set_terminated(run_id)


@try_any(8)
@given(
    st.lists(odd_runs, min_size=1, max_size=4), st.sampled_from(["conv_layer", "lr", "data_dir"])
)
def test_any_runs_of_others_in_the_experiment(store, odd, by):
    experiment = uuid.uuid4().hex
    experiment_id = mlflow.create_experiment(experiment)
    intact = {"tags": {}, "params": {}, "metrics": {}, "step": 2, "files": {}}
    for seed, run in enumerate([intact, *odd, {**intact, "params": {"conv_layer": "coordconv2d"}}]):
        log_odd_run(experiment_id, run, seed)
    done = answer_or_error(compare_runs, experiment, by)
    assert done is not None
    assert "90.00" in done.markdown
    for run in odd:
        study = run["tags"].get("stn.study")
        if study:
            answer_or_error(compare_runs, experiment, by, 0.1, study)
    finished = mlflow.search_runs([experiment_id], "status != 'FINISHED'", output_format="list")
    assert {run.info.status for run in finished} <= {"FAILED"}


@try_any(200)
@given(st.binary(max_size=200), st.sampled_from([b"", b"a,b\n", b"PK\x03\x04"]))
def test_any_content_of_a_file_that_a_comparison_reads(content, start):
    for read in (predictions_from_csv, confusion_from_csv, poses_from_npz):
        with suppress(ValueError):
            read(start + content)


@pytest.fixture
def model(store) -> Callable[[np.ndarray], np.ndarray]:
    """A registered model, as its users load it."""
    portable = PortableModel(build_model().eval(), 0.13, 0.31).eval().requires_grad_(False)
    with open_run("a model", "") as run:
        model_id = run.log_model(portable, np.full((4, 1, 28, 28), 200, np.uint8), step=1)
    return load_model(f"models:/{model_id}").predict


@try_any(30)
@given(st.integers(0, 10**6), st.integers(0, 8))
def test_any_damage_to_the_archive_of_a_model(model, store, place, bit):
    """A flipped bit, or with 8 a cut, somewhere in the file."""
    (file,) = store.glob("mlruns/**/*.pt2")
    content = file.read_bytes()
    damaged = bytearray(content[: place % len(content)] if bit == 8 else content)
    if bit < 8:
        damaged[place % len(content)] ^= 1 << bit
    file.write_bytes(damaged)
    images = np.full((2, 1, 28, 28), 200, np.uint8)
    model_id = next(part for part in file.parts if part.startswith("m-"))
    try:
        loaded = answer_or_error(load_model, f"models:/{model_id}")
        if loaded:
            np.testing.assert_array_equal(loaded.predict(images), model(images))
    finally:
        file.write_bytes(content)


shapes = st.one_of(
    st.integers(0, 3).map(lambda count: (count, 1, 28, 28)), array_shapes(max_dims=5, max_side=30)
)


@try_any(40)
@given(
    st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_, np.dtype("U1")]),
    shapes,
    st.sampled_from([0, 1, 200]),
)
def test_any_array_given_to_the_model(model, kind, shape, value):
    array = np.full(shape, value).astype(kind)
    with suppress(MlflowException, RuntimeError):  # what a server answers with status 400
        try:
            answer = model(array)
        except PipelineError as error:
            raise error.__cause__ from None
        assert array.dtype == np.uint8
        assert answer.shape == (len(array), 10)
        assert np.isfinite(answer).all()


def picture(width, height, kind):
    file = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(file, kind)
    return file.getvalue()


pictures = st.builds(
    picture, st.integers(1, 40), st.integers(1, 40), st.sampled_from(["PNG", "GIF", "BMP", "JPEG"])
)


@try_any(150)
@given(pictures, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
def test_any_image_file(tmp_path, content, changes):
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    path = tmp_path / "any.png"
    path.write_bytes(changed)
    gray = answer_or_error(read_gray, path)
    digit = None if gray is None else answer_or_error(to_mnist, gray)
    if digit is not None:
        assert digit.shape == (28, 28)
        assert digit.dtype == np.uint8
