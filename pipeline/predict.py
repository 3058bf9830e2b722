"""Which digit an image file shows: ask a model, and draw what happened."""

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipeline.data.datasets import DIGIT, look_up
from pipeline.data.photos import read_gray, to_mnist
from pipeline.errors import PipelineError
from pipeline.figures import of_predictions
from pipeline.tracking.registry import load_model
from pipeline.tracking.store import ensure_store

PICTURES = ("png", "jpg", "jpeg", "webp", "pdf", "svg")
SHOWN = 50  # files in one picture


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
