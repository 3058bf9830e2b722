"""Image files of every kind come out as MNIST's digits."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.data.photos import read_gray, to_mnist


def difference(digit: np.ndarray, other: np.ndarray) -> float:
    """Mean over the pixels, on the scale of 0 to 255; of two random MNIST digits, it is 37."""
    return np.abs(digit.astype(float) - other).mean()


@pytest.fixture(scope="module")
def seven(ink) -> np.ndarray:
    return to_mnist(np.asarray(ink) / 255)


def flat(color, mode="L") -> Image.Image:
    return Image.new(mode, (200, 160), color)


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
def test_every_mode_of_png(save_image, ink, seven, mode, dark_on_light):
    image = (ink.point(lambda value: 255 - value) if dark_on_light else ink).convert(mode)
    assert difference(to_mnist(read_gray(save_image(image))), seven) < 1


@pytest.mark.parametrize("highest", [65535, 1023])
def test_a_png_of_16_bits(save_image, ink, seven, highest):
    # the ink, too, is brighter than 255, where Pillow's own conversion to 8 bits would clip it
    pixels = np.where(np.asarray(ink), highest // 3, highest).astype(np.uint16)
    assert difference(to_mnist(read_gray(save_image(Image.fromarray(pixels)))), seven) < 1


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.bmp", "x.gif", "wrong_ending.txt"])
def test_every_format(save_image, ink, seven, name):
    formats = {".jpg": "JPEG", ".txt": "PNG"}
    image = Image.composite(flat("navy", "RGB"), flat("ivory", "RGB"), ink)
    path = save_image(image, name, format=formats.get(name[-4:]))
    assert difference(to_mnist(read_gray(path)), seven) < 1


def test_a_jpeg_for_print(save_image, ink, seven):
    path = save_image(ink.point(lambda value: 255 - value).convert("CMYK"), "x.jpg")
    assert difference(to_mnist(read_gray(path)), seven) < 1


@pytest.mark.parametrize("color", [0, 255, 128])
def test_ink_on_a_transparent_ground(save_image, ink, seven, color):
    image = flat(color, "LA")
    image.putalpha(ink)
    assert difference(to_mnist(read_gray(save_image(image))), seven) < 1
    half = flat(color, "LA")
    half.putalpha(ink.point(lambda value: value // 2))
    assert difference(to_mnist(read_gray(save_image(half))), seven) < 1


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_color_that_stands_for_transparent(save_image, ink, seven, mode):
    color = (255, 255, 255) if mode == "RGB" else 255
    image = ink.point(lambda value: 255 - value).convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gray = read_gray(save_image(image, transparency=color))
    assert difference(to_mnist(gray), seven) < 1


@pytest.mark.parametrize("dark_on_light", [True, False])
def test_paper_with_transparent_corners(save_image, ink, seven, dark_on_light):
    image = (ink.point(lambda value: 255 - value) if dark_on_light else ink).convert("RGBA")
    paper = flat(0)
    ImageDraw.Draw(paper).rounded_rectangle((4, 4, 195, 155), radius=25, fill=255)
    image.putalpha(paper)
    assert difference(to_mnist(read_gray(save_image(image))), seven) < 1


@pytest.mark.parametrize(
    ("orientation", "stored"),  # what the camera stored of an upright scene
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
    ],
)
def test_a_photo_is_turned_upright(save_image, ink, seven, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save_image(ink.transpose(stored), "photo.jpg", exif=exif)
    assert difference(to_mnist(read_gray(path)), seven) < 1


def test_a_large_photo_is_reduced(save_image, ink, seven):
    gray = read_gray(save_image(ink.resize((4000, 3200), Image.Resampling.NEAREST)))
    assert gray.shape == (800, 1000)
    assert difference(to_mnist(gray), seven) < 1
