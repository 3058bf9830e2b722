"""Image files of digits, such as photos, brought to what MNIST looks like."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from pipeline.errors import PipelineError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # Pillow's EPS, for one, would start Ghostscript
SIDE = 1000  # pixels; a digit needs no more, and photos have twelve millions
CONTRAST = 0.05  # of the full range; below it lie the traces that JPEG leaves on blank paper


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
        # the picture has a background of its own and a transparent margin
        paper = np.median(visible)
    else:
        paper = 1 - visible.mean().round()
    return alpha * luminance + (1 - alpha) * paper


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
