"""The files of a training run that `compare` reads back: each format is written and read here.

Anybody may have put a file of that name into a run. So each reader checks what it reads, and raises
a ValueError that says what is wrong. Nothing is unpickled.
"""

import io
import zipfile
from dataclasses import dataclass

import numpy as np

LARGEST_POSES = 10**7  # bytes, unpacked; those of the largest images are 220 kB


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
    """Read what `poses_to_npz` has written.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        unpacked = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(content)).infolist())
        if unpacked > LARGEST_POSES:
            raise ValueError("too large")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            poses = Poses(
                arrays["before"], arrays["after"], arrays["outline"], bool(arrays["warps_image"])
            )
    except Exception as error:  # a damaged archive makes NumPy raise almost anything
        raise ValueError("it is no archive of poses") from error
    images = all(
        array.dtype == np.uint8 and array.ndim == 3 and len(array) == 8 and array.size
        for array in (poses.before, poses.after)
    )
    outline = poses.outline
    points = outline.dtype == np.float32 and outline.ndim == 3 and outline.shape[::2] == (8, 2)
    if not images or not points or outline.shape[1] < 4 or not np.isfinite(outline).all():
        raise ValueError("its arrays are no poses")
    return poses


def predictions_to_csv(labels: np.ndarray, predicted: np.ndarray) -> str:
    """The content of `predictions.csv`: a line for each test image, in their order.

    Args:
        labels: int `(N,)`, the true digits.
        predicted: int `(N,)`, the digits that the model predicts.
    """
    return _to_csv(["label", "predicted"], np.stack([labels, predicted], axis=1))


def predictions_from_csv(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read what `predictions_to_csv` has written: the labels and the predictions.

    Raises:
        ValueError: if it is anything else.
    """
    labels, predicted = _from_csv(content, columns=2).T
    return labels, predicted


def confusion_to_csv(confusion: np.ndarray) -> str:
    """The content of `confusion_matrix.csv`, where the first row and column name the digits.

    Args:
        confusion: int `(10, 10)`, rows true digit, columns predicted digit.
    """
    digits = np.arange(len(confusion))
    header = ["true\\predicted", *map(str, digits)]
    return _to_csv(header, np.column_stack([digits, confusion]))


def confusion_from_csv(content: bytes) -> np.ndarray:
    """Read what `confusion_to_csv` has written.

    Raises:
        ValueError: if it is anything else.
    """
    counts = _from_csv(content, columns=11)[:, 1:]
    if len(counts) != 10 or counts.min() < 0:
        raise ValueError("it is no table of counts for ten digits")
    return counts


def _to_csv(header: list[str], rows: np.ndarray) -> str:
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows.tolist())]
    return "\n".join(lines) + "\n"


def _from_csv(content: bytes, columns: int) -> np.ndarray:
    """The integers under the header."""
    try:
        lines = content.decode().splitlines()[1:]
        rows = np.array([line.split(",") for line in lines], dtype=np.int64)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except (ValueError, OverflowError):
        raise ValueError("it is no table of integers") from None
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ValueError(f"it is no table of {columns} columns")
    return rows
