"""The files of a training run that `compare` reads back: each format is written and read here."""

import io
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Poses:
    """One digit in eight poses, before and after a transformer: the content of `poses.npz`.

    Attributes:
        before: uint8 `(8, H, W)`, the network's input.
        after: uint8 `(8, h, w)`, each image sampled by the transformation that is predicted for it.
        outline: float32 `(8, K, 2)`, points (x, y) around what the transformer samples, in
            normalized coordinates of the input image, `align_corners=False`; clockwise from the
            upper left corner of the output, the first K // 4 along its upper edge.
        warps_image: whether the transformer samples the image; False where it samples feature maps.
    """

    before: np.ndarray
    after: np.ndarray
    outline: np.ndarray
    warps_image: bool


def poses_to_npz(poses: Poses) -> bytes:
    """The content of `poses.npz`: an array for each attribute of `Poses`, without pickle."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        before=poses.before,
        after=poses.after,
        outline=poses.outline,
        warps_image=np.array(poses.warps_image),
    )
    return file.getvalue()


def poses_from_npz(content: bytes) -> Poses:
    """Read what `poses_to_npz` has written."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Poses(
            arrays["before"], arrays["after"], arrays["outline"], bool(arrays["warps_image"])
        )


def predictions_to_csv(labels: np.ndarray, predicted: np.ndarray) -> str:
    """The content of `predictions.csv`: a line for each test image, in their order.

    Args:
        labels: int `(N,)`, the true digits.
        predicted: int `(N,)`, the digits that the model predicts.
    """
    return _to_csv(["label", "predicted"], np.stack([labels, predicted], axis=1))


def predictions_from_csv(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Read what `predictions_to_csv` has written: the labels and the predictions."""
    labels, predicted = _from_csv(text).T
    return labels, predicted


def confusion_to_csv(confusion: np.ndarray) -> str:
    """The content of `confusion_matrix.csv`, where the first row and column name the digits.

    Args:
        confusion: int `(10, 10)`, rows true digit, columns predicted digit.
    """
    digits = np.arange(len(confusion))
    header = ["true\\predicted", *map(str, digits)]
    return _to_csv(header, np.column_stack([digits, confusion]))


def confusion_from_csv(text: str) -> np.ndarray:
    """Read what `confusion_to_csv` has written."""
    return _from_csv(text)[:, 1:]


def _to_csv(header: list[str], rows: np.ndarray) -> str:
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows.tolist())]
    return "\n".join(lines) + "\n"


def _from_csv(text: str) -> np.ndarray:
    """The integers under the header."""
    return np.loadtxt(io.StringIO(text), dtype=int, delimiter=",", skiprows=1, ndmin=2)
