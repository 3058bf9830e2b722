"""Which digit an image file shows: bring it to what MNIST looks like, and ask a model."""

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from pipeline.data.datasets import DIGIT, look_up
from pipeline.errors import PipelineError
from pipeline.figures import of_predictions
from pipeline.tracking.registry import load_model
from pipeline.tracking.store import ensure_store

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # Pillow's EPS, for one, would start Ghostscript
PICTURES = ("png", "jpg", "jpeg", "webp", "pdf", "svg")
SHOWN = 50  # files in one picture
SIDE = 1000  # pixels; a digit needs no more, and photos have twelve millions
CONTRAST = 0.05  # of the full range; below it lie the traces that JPEG leaves on blank paper


@dataclass(frozen=True)
class Prediction:
    """The most probable digit, 0 to 9, of the file `name`, and its probability in [0, 1]."""

    name: str
    digit: int
    probability: float


def predict_files(
    paths: Sequence[Path], model_uri: str, show: Path | None = None
) -> list[Prediction]:
    """Classify image files, one digit in each, and draw what happened into the file `show`.

    Every file is read, and `show` is tried, before the first one is classified.

    Args:
        paths: PNG, JPEG, WebP, BMP or GIF, of any size.
        model_uri: see `load_model`.
        show: a new or an old file, with an ending of `PICTURES`.

    Raises:
        PipelineError: if a file is no image of a digit, if `show` cannot be written, or if there
            is no such model.
    """
    ensure_store()
    if show:
        _check_picture(show, paths)
    names = [os.fsencode(path).decode(errors="replace") for path in paths]
    images, digits = [], []
    for path, name in zip(paths, names, strict=True):
        try:
            image = read_gray(path)
            digits.append(to_mnist(image))
        except PipelineError as error:
            raise PipelineError(f"{name}: {error}") from None
        if show:
            images.append(image)
    inputs = np.stack(digits)
    model = load_model(model_uri)
    size = look_up(model.dataset).size
    if size != DIGIT:
        raise PipelineError(
            f"model_uri: {model_uri} was trained on {model.dataset} digits, of "
            f"{size} pixels; use a model for images of {DIGIT}×{DIGIT}"
        )
    probabilities = model.predict(inputs[:, np.newaxis])
    if show:
        titles = [Path(name).name for name in names]
        _write(of_predictions.predictions_figure(titles, images, inputs, probabilities), show)
    return [
        Prediction(name, int(row.argmax()), float(row.max()))
        for name, row in zip(names, probabilities, strict=True)
    ]


def read_gray(path: Path) -> np.ndarray:
    """The first frame of an image file, upright, transparency laid on paper.

    Returns:
        Luminance, float32 `(H, W)` in [0, 1], reduced to at most 1,000 pixels a side.

    Raises:
        PipelineError: if the file cannot be read as one of `FORMATS`.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(None, "is no file")  # a FIFO or a terminal would be waited for
        file = open(path, "rb")  # noqa: SIM115 its errors are told apart from the decoder's
    except OSError as error:
        # under `mlflow run`, that is the folder of the code
        start = "" if path.is_absolute() else f" (a relative path starts at {Path.cwd()})"
        raise PipelineError(
            f"cannot be read: {error.strerror}{start}; allowed: {_allowed()}"
        ) from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(file)
        except PipelineError:
            raise
        except UnidentifiedImageError:
            reason = "is no image, or not of a known format"
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            reason = "is too large"
        except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
            reason = f"is damaged: {str(error).splitlines()[0] if str(error) else repr(error)}"
    raise PipelineError(f"{reason}; allowed: {_allowed()}")


def _allowed() -> str:
    return f"{', '.join(FORMATS)} of up to {Image.MAX_IMAGE_PIXELS:,} pixels"


def _decode(file: BinaryIO) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(file, formats=FORMATS))
    factor = -(-max(image.size) // SIDE)
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip and not scale
        gray = np.asarray(image.convert("F").reduce(factor))
        return gray / max(gray.max(), 1)  # many hold 10 or 12 bits only
    pixels = np.asarray(image.convert("LA").reduce(factor), np.float32) / 255
    return _on_paper(luminance=pixels[..., 0], alpha=pixels[..., 1])


def _on_paper(luminance: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fill transparent parts with white or black, whichever contrasts with the ink."""
    visible = luminance[alpha > alpha.max() / 2]
    if not visible.size:
        raise PipelineError("is wholly transparent; it must show a digit")
    if visible.size > alpha.size / 2 and np.ptp(visible) > 0.5:
        paper = np.median(
            visible
        )  # the picture has a background of its own and a transparent margin
    else:
        paper = 1 - visible.mean().round()
    return alpha * luminance + (1 - alpha) * paper


def to_mnist(gray: np.ndarray) -> np.ndarray:
    """Make an image of a digit look like those of MNIST.

    MNIST's digits were "size normalized to fit in a 20x20 pixel box while preserving their aspect
    ratio", with grey levels from anti-aliasing, and "centered in a 28x28 image by computing the
    center of mass of the pixels, and translating the image so as to position this point at the
    center of the 28x28 field" (http://yann.lecun.com/exdb/mnist/).

    Args:
        gray: luminance `(H, W)` in [0, 1], dark ink on light ground or the reverse; the ground is
            what most of the outermost pixels show.

    Returns:
        uint8 `(28, 28)`, white ink on black.

    Raises:
        PipelineError: if there is no ink.
    """
    ink = gray - _ground(gray)
    if (ink**3).sum() < 0:  # cubed: a stroke counts for more than noise, however wide that spreads
        ink = -ink
    if ink.max() < CONTRAST:
        raise PipelineError("is all of one colour; it must show a digit")
    # A quarter of the range keeps faint strokes. Otsu's threshold would split the noise of the
    # ground where that is most of the image: of digits that fill 1/1000 of it, a third got lost.
    threshold = ink.max() / 4
    parts, _ = ndimage.label(ink > threshold, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the ground
    of_digit = (sizes >= sizes.max() / 20)[parts]  # the rest is specks and noise
    ink = np.where(of_digit | (parts == 0), ink - threshold / 2, 0).clip(0)
    rows, columns = (np.flatnonzero(of_digit.any(axis)) for axis in (1, 0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(20 * side / max(box.shape))) for side in box.shape)
    small = Image.fromarray(box.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(small)
    # half of a stroke is white, as in MNIST: it may be thin, and the brightest pixel may be noise
    pixels = np.minimum(pixels / np.median(pixels[pixels > pixels.max() / 2]), 1)
    # MNIST's own centres of mass lie within half a pixel of index 14, in rows and columns
    row, column = (round(14 - centre) for centre in ndimage.center_of_mass(pixels))
    row, column = min(max(row, 0), 28 - height), min(max(column, 0), 28 - width)
    digit = np.zeros((28, 28), np.uint8)
    digit[row : row + height, column : column + width] = np.rint(255 * pixels)
    return digit


def _ground(gray: np.ndarray) -> np.ndarray:
    """The luminance of the ground, `(H, W)`: a plane, since light seldom falls evenly on paper.

    It is fitted to the outermost pixels, again and again without those that fit worst, as ink may
    touch the edge.
    """
    y, x = np.indices(gray.shape) / max(gray.shape)
    outermost = np.ones(gray.shape, bool)
    outermost[1:-1, 1:-1] = False
    terms = np.stack([y, x, np.ones(gray.shape)], axis=-1)
    places, values = terms[outermost], gray[outermost].astype(np.float64)
    kept = np.ones(len(values), bool)
    for _ in range(4):
        plane = np.linalg.lstsq(places[kept], values[kept])[0]
        residuals = np.abs(values - places @ plane)
        kept = residuals <= 2 * np.median(residuals) + 1e-6
    return terms @ plane


def _check_picture(show: Path, paths: Sequence[Path]) -> None:
    """Fail before the work is done where the picture could not be written."""
    if show.suffix[1:].lower() not in PICTURES:
        raise PipelineError(f"show: got {show}; allowed endings: .{', .'.join(PICTURES)}")
    if len(paths) > SHOWN:
        raise PipelineError(f"show: one picture has room for {SHOWN} files, got {len(paths)}")
    if os.path.realpath(show) in map(os.path.realpath, paths):
        raise PipelineError(f"show: {show} is one of the images, and would be overwritten")
    try:
        if show.is_dir() or (show.exists() and not os.access(show, os.W_OK)):
            raise OSError(None, "is a folder" if show.is_dir() else "is not writable")
        tempfile.TemporaryFile(dir=show.parent).close()
    except OSError as error:
        raise PipelineError(f"show: {show} cannot be written: {error.strerror}") from None


def _write(figure: Figure, path: Path) -> None:
    """Write the file completely or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file's name may have letters that the font lacks
            figure.savefig(partial, format=path.suffix[1:].lower(), dpi=110)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
