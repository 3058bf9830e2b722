"""What a model says about image files; files without a digit come out as one clear line."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline import predict
from pipeline.cli import main
from pipeline.data.photos import to_mnist
from pipeline.errors import PipelineError
from pipeline.predict import predict_files
from pipeline.tracking.registry import LoadedModel

SIZE = (200, 160)


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / "bad.png"
    image = Image.effect_noise(SIZE, 50)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "text":
        path.write_text("3\n")
    elif kind == "empty":
        path.touch()
    elif kind == "tiff":
        image.save(path, format="TIFF")
    elif kind.startswith("truncated"):
        image.save(path, format=kind.split()[1])
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "huge":
        Image.new("1", (20_000, 20_000)).save(path)
    elif kind == "large":
        Image.new("1", (10_000, 10_000)).save(path)
    elif kind == "white":
        Image.new("L", SIZE, 255).save(path)
    elif kind == "black":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "blank":
        blank = np.random.default_rng(0).normal(230, 1, (*SIZE, 3))
        Image.fromarray(blank.astype(np.uint8)).save(path, format="JPEG")
    elif kind == "transparent":
        Image.new("RGBA", SIZE).save(path)
    return path


FORMATS = "allowed: PNG, JPEG, WEBP, BMP, GIF of up to 89,478,485 pixels"
BAD_FILES = {
    "missing": f"cannot be read: No such file or directory; {FORMATS}",
    "folder": f"cannot be read: Is a directory; {FORMATS}",
    "fifo": f"cannot be read: is no file; {FORMATS}",
    "device": f"cannot be read: is no file; {FORMATS}",
    "text": f"is no image, or not of a known format; {FORMATS}",
    "empty": f"is no image, or not of a known format; {FORMATS}",
    "tiff": f"is no image, or not of a known format; {FORMATS}",
    "truncated PNG": "is damaged: ",
    "truncated JPEG": "is damaged: image file is truncated",
    "truncated WEBP": "",
    "truncated GIF": "is damaged: ",
    "huge": f"is too large; {FORMATS}",
    "large": f"is too large; {FORMATS}",
    "white": "is all of one colour; it must show a digit",
    "black": "is all of one colour; it must show a digit",
    "blank": "is all of one colour; it must show a digit",
    "transparent": "is wholly transparent; it must show a digit",
}


@pytest.fixture
def model(store, monkeypatch):
    """A model that says 7, nine times in ten, in the place of the registered one; its inputs."""
    seen = []

    def classify(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        probabilities = np.full((len(images), 10), 0.01, np.float32)
        probabilities[:, 7] = 0.91
        return probabilities

    loaded = LoadedModel(classify, "m-1", "", None, "mnist")
    monkeypatch.setattr(predict, "load_model", lambda uri: loaded)
    return seen


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(model, save_image, ink, tmp_path, kind):
    path = bad_file(tmp_path, kind)
    with pytest.raises(PipelineError) as raised:
        predict_files([save_image(ink, "good.png"), path], "", tmp_path / "answer.png")
    message = str(raised.value)
    assert message.startswith(f"{path}: {BAD_FILES[kind]}")
    assert "\n" not in message
    assert not model
    assert not (tmp_path / "answer.png").exists()


def test_the_predictions_come_in_the_order_of_the_files(model, save_image, ink):
    paths = [
        save_image(ink, "b.png"),
        save_image(ink.transpose(Image.Transpose.ROTATE_180), "a.png"),
    ]
    predictions = predict_files(paths, "")
    assert [(p.name, p.digit) for p in predictions] == [(str(path), 7) for path in paths]
    assert predictions[0].probability == pytest.approx(0.91)
    (images,) = model
    assert images.shape == (2, 1, 28, 28)
    assert images.dtype == np.uint8
    assert (images[0, 0] == to_mnist(np.asarray(ink) / 255)).all()


def test_the_command_prints_digit_and_percent(model, save_image, ink, tmp_path):
    paths = [str(save_image(ink, name)) for name in ("b.png", "a.jpg")]
    done = CliRunner().invoke(main, ["predict", *paths, "--show", str(tmp_path / "c.png")])
    assert done.output == f"{paths[0]}: 7 (91.0%)\n{paths[1]}: 7 (91.0%)\n"
    assert done.exit_code == 0
    assert (tmp_path / "c.png").exists()


@pytest.mark.parametrize("ending", predict.PICTURES)
def test_show_writes_the_picture_and_nothing_else(model, save_image, ink, tmp_path, ending):
    path = save_image(ink, "$1 $ 数字 with a name that is much too long.png")
    before = set(tmp_path.iterdir())
    show = tmp_path / f"answer.{ending.upper()}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_files([path], "", show)
    assert set(tmp_path.iterdir()) - before == {show}
    if ending not in ("pdf", "svg"):
        assert Image.open(show).width > 500


@pytest.mark.parametrize(
    ("show", "words"),
    [
        ("answer.docx", "allowed endings: .png, .jpg, "),
        ("answer", "allowed endings"),
        ("none/answer.png", "answer.png cannot be written: No such file or directory"),
        ("file/answer.png", "answer.png cannot be written: Not a directory"),
        ("folder.png", "folder.png cannot be written: is a folder"),
        ("/proc/answer.png", "answer.png cannot be written: "),
        ("seven.png", "is one of the images"),
    ],
)
def test_a_picture_that_cannot_be_written_is_noticed_first(
    model, save_image, ink, tmp_path, show, words
):
    path = save_image(ink, "seven.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    with pytest.raises(PipelineError, match=r"^show: ") as raised:
        predict_files([path], "", tmp_path / show)
    assert words in str(raised.value)
    assert not model
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_picture_of_too_many_files(model, save_image, ink, tmp_path):
    with pytest.raises(PipelineError, match="room for 50 files, got 51"):
        predict_files([save_image(ink)] * 51, "", tmp_path / "answer.png")


def test_a_failure_while_writing_keeps_the_old_picture(
    model, save_image, ink, tmp_path, monkeypatch
):
    show = tmp_path / "answer.png"
    show.write_bytes(b"old")
    path = save_image(ink)
    before = set(tmp_path.iterdir())

    def full(self, file, **settings):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space left"):
        predict_files([path], "", show)
    assert show.read_bytes() == b"old"
    assert set(tmp_path.iterdir()) == before


def test_a_model_of_larger_images_is_refused(save_image, ink, monkeypatch):
    loaded = LoadedModel(lambda images: images, "m-1", "", None, "translated")
    monkeypatch.setattr(predict, "load_model", lambda uri: loaded)
    with pytest.raises(PipelineError, match="was trained on translated digits, of 60 pixels; use"):
        predict_files([save_image(ink)], "models:/stn-mnist@champion-translated")
