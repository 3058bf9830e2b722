"""Image files of every kind come out as MNIST's digits; other files as one clear line."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from pipeline import predict
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.predict import predict_files, read_gray, to_mnist
from pipeline.tracking.registry import LoadedModel

SIZE = (200, 160)


def difference(digit: np.ndarray, other: np.ndarray) -> float:
    """Mean over the pixels, on the scale of 0 to 255; of two random MNIST digits, it is 37."""
    return np.abs(digit.astype(float) - other).mean()


@pytest.fixture(scope="module")
def ink() -> Image.Image:
    """A seven, far from the centre: white on black, mode L."""
    image = Image.new("L", SIZE)
    ImageDraw.Draw(image).line([(40, 30), (90, 30), (60, 120)], fill=255, width=9, joint="curve")
    return image


@pytest.fixture(scope="module")
def seven(ink) -> np.ndarray:
    return to_mnist(np.asarray(ink) / 255)


@pytest.fixture
def save(tmp_path):
    def save(image: Image.Image, name: str = "image.png", **settings) -> Path:
        image.save(tmp_path / name, **settings)
        return tmp_path / name

    return save


def flat(color, mode="L") -> Image.Image:
    return Image.new(mode, SIZE, color)


def test_mnists_own_digits_come_back(mnist):
    originals = mnist[1].images[:300, 0].numpy()
    for ground, contrast in ((0, 1), (1, -1), (0.8, -0.3)):
        digits = np.stack([to_mnist(ground + contrast * (image / 255)) for image in originals])
        assert difference(digits, originals) < 3  # the faintest pixels at the edges are lost


@pytest.mark.parametrize("trouble", ["none", "jpeg", "noise", "specks", "light", "photo"])
def test_enlarged_digits_elsewhere_on_paper_come_back(mnist, trouble):
    generator = np.random.default_rng(0)
    originals = mnist[1].images[:100, 0].numpy()
    digits = []
    for original in originals:
        big = Image.fromarray(original).resize((140, 140), Image.Resampling.BICUBIC)
        paper = np.full((200, 240), 0.9)
        top, left = generator.integers(0, (60, 100))
        paper[top : top + 140, left : left + 140] -= 0.75 * np.asarray(big) / 255
        if trouble in ("light", "photo"):  # it halves from left to right
            paper *= np.linspace(1, 0.5, 240)
        if trouble in ("noise", "photo"):
            paper += generator.normal(0, 0.04, paper.shape)
        if trouble == "specks":
            paper[generator.random(paper.shape) < 0.005] = 0
        if trouble in ("jpeg", "photo"):
            file = io.BytesIO()
            Image.fromarray(np.uint8(255 * paper.clip(0, 1))).save(file, "JPEG", quality=40)
            paper = np.asarray(Image.open(file)) / 255
        digits.append(to_mnist(paper))
    # a shift by one pixel, where the centre of mass is rounded the other way, makes about 20
    assert difference(np.stack(digits), originals) < 8.5


def test_a_digit_is_20_pixels_long_in_its_proportions_and_centred_as_mnists_are(ink, seven):
    height, width = (1 + np.ptp(np.flatnonzero(np.asarray(ink).any(axis))) for axis in (1, 0))
    rows, columns = (np.flatnonzero(seven.any(axis)) for axis in (1, 0))
    assert 1 + np.ptp(rows) == 20
    assert 1 + np.ptp(columns) == round(20 * width / height)
    y, x = np.indices(seven.shape)
    assert abs(np.average(y, weights=seven) - 14) <= 0.5
    assert abs(np.average(x, weights=seven) - 14) <= 0.5
    assert seven.dtype == np.uint8
    assert seven.max() == 255


def test_ink_at_the_edge_of_the_image_is_no_ground(ink, seven):
    cropped = np.asarray(ink.crop(ink.getbbox())) / 255
    assert difference(to_mnist(1 - cropped), seven) < 1


def test_a_hairline_in_a_large_image_does_not_fade():
    image = Image.new("L", (900, 900), 255)
    ImageDraw.Draw(image).line([(450, 100), (440, 800)], fill=0, width=1)
    digit = to_mnist(np.asarray(image) / 255)
    assert (digit.max(axis=1) > 100).sum() >= 19


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("dark_on_light", [True, False])
def test_every_mode_of_png(save, ink, seven, mode, dark_on_light):
    image = (ink.point(lambda value: 255 - value) if dark_on_light else ink).convert(mode)
    assert difference(to_mnist(read_gray(save(image))), seven) < 1


@pytest.mark.parametrize("highest", [65535, 1023])
def test_a_png_of_16_bits(save, ink, seven, highest):
    # the ink, too, is brighter than 255, where Pillow's own conversion to 8 bits would clip it
    pixels = np.where(np.asarray(ink), highest // 3, highest).astype(np.uint16)
    assert difference(to_mnist(read_gray(save(Image.fromarray(pixels)))), seven) < 1


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.bmp", "x.gif", "wrong_ending.txt"])
def test_every_format(save, ink, seven, name):
    formats = {".jpg": "JPEG", ".txt": "PNG"}
    image = Image.composite(flat("navy", "RGB"), flat("ivory", "RGB"), ink)
    path = save(image, name, format=formats.get(name[-4:]))
    assert difference(to_mnist(read_gray(path)), seven) < 1


def test_a_jpeg_for_print(save, ink, seven):
    path = save(ink.point(lambda value: 255 - value).convert("CMYK"), "x.jpg")
    assert difference(to_mnist(read_gray(path)), seven) < 1


@pytest.mark.parametrize("color", [0, 255, 128])
def test_ink_on_a_transparent_ground(save, ink, seven, color):
    image = flat(color, "LA")
    image.putalpha(ink)
    assert difference(to_mnist(read_gray(save(image))), seven) < 1
    half = flat(color, "LA")
    half.putalpha(ink.point(lambda value: value // 2))
    assert difference(to_mnist(read_gray(save(half))), seven) < 1


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_color_that_stands_for_transparent(save, ink, seven, mode):
    color = (255, 255, 255) if mode == "RGB" else 255
    image = ink.point(lambda value: 255 - value).convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gray = read_gray(save(image, transparency=color))
    assert difference(to_mnist(gray), seven) < 1


@pytest.mark.parametrize("dark_on_light", [True, False])
def test_paper_with_transparent_corners(save, ink, seven, dark_on_light):
    image = (ink.point(lambda value: 255 - value) if dark_on_light else ink).convert("RGBA")
    paper = flat(0)
    ImageDraw.Draw(paper).rounded_rectangle((4, 4, 195, 155), radius=25, fill=255)
    image.putalpha(paper)
    assert difference(to_mnist(read_gray(save(image))), seven) < 1


@pytest.mark.parametrize(
    ("orientation", "stored"),  # what the camera stored of an upright scene
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
    ],
)
def test_a_photo_is_turned_upright(save, ink, seven, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(ink.transpose(stored), "photo.jpg", exif=exif)
    assert difference(to_mnist(read_gray(path)), seven) < 1


def test_a_large_photo_is_reduced(save, ink, seven):
    gray = read_gray(save(ink.resize((4000, 3200), Image.Resampling.NEAREST)))
    assert gray.shape == (800, 1000)
    assert difference(to_mnist(gray), seven) < 1


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
def test_a_bad_file_is_named_with_what_is_wrong(model, save, ink, tmp_path, kind):
    path = bad_file(tmp_path, kind)
    with pytest.raises(PipelineError) as raised:
        predict_files([save(ink, "good.png"), path], "", tmp_path / "answer.png")
    message = str(raised.value)
    assert message.startswith(f"{path}: {BAD_FILES[kind]}")
    assert "\n" not in message
    assert not model
    assert not (tmp_path / "answer.png").exists()


def test_the_predictions_come_in_the_order_of_the_files(model, save, ink, seven):
    paths = [save(ink, "b.png"), save(ink.transpose(Image.Transpose.ROTATE_180), "a.png")]
    predictions = predict_files(paths, "")
    assert [(p.name, p.digit) for p in predictions] == [(str(path), 7) for path in paths]
    assert predictions[0].probability == pytest.approx(0.91)
    (images,) = model
    assert images.shape == (2, 1, 28, 28)
    assert images.dtype == np.uint8
    assert difference(images[0, 0], seven) == 0


def test_the_command_prints_digit_and_percent(model, save, ink, tmp_path):
    paths = [str(save(ink, name)) for name in ("b.png", "a.jpg")]
    done = CliRunner().invoke(main, ["predict", *paths, "--show", str(tmp_path / "c.png")])
    assert done.output == f"{paths[0]}: 7 (91.0%)\n{paths[1]}: 7 (91.0%)\n"
    assert done.exit_code == 0
    assert (tmp_path / "c.png").exists()


@pytest.mark.parametrize("ending", predict.PICTURES)
def test_show_writes_the_picture_and_nothing_else(model, save, ink, tmp_path, ending):
    path = save(ink, "$1 $ 数字 with a name that is much too long.png")
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
def test_a_picture_that_cannot_be_written_is_noticed_first(model, save, ink, tmp_path, show, words):
    path = save(ink, "seven.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    with pytest.raises(PipelineError, match=r"^show: ") as raised:
        predict_files([path], "", tmp_path / show)
    assert words in str(raised.value)
    assert not model
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_picture_of_too_many_files(model, save, ink, tmp_path):
    with pytest.raises(PipelineError, match="room for 50 files, got 51"):
        predict_files([save(ink)] * 51, "", tmp_path / "answer.png")


def test_a_failure_while_writing_keeps_the_old_picture(model, save, ink, tmp_path, monkeypatch):
    show = tmp_path / "answer.png"
    show.write_bytes(b"old")
    path = save(ink)
    before = set(tmp_path.iterdir())

    def full(self, file, **settings):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space left"):
        predict_files([path], "", show)
    assert show.read_bytes() == b"old"
    assert set(tmp_path.iterdir()) == before


def test_a_model_of_larger_images_is_refused(save, ink, monkeypatch):
    loaded = LoadedModel(lambda images: images, "m-1", "", None, "translated")
    monkeypatch.setattr(predict, "load_model", lambda uri: loaded)
    with pytest.raises(PipelineError, match="was trained on translated digits, of 60 pixels; use"):
        predict_files([save(ink)], "models:/stn-mnist@champion-translated")
