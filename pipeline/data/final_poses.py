"""The pose of each digit after a transformer: the pose that it had, changed by theta.

There is one function for each kind of pose in `datasets.py`, all with the same signature:

    pose: `(N,)` or `(N, 2)`, as `distortions.Distorted` has it.
    theta: float64 `(N, 2, 3)`, affine matrices that map output to input coordinates, normalized to
        [-1, 1] with `align_corners=False`. The image moves by the inverse of theta.
    size: side of the image in pixels; a shift of 1 in theta is half of it.

Each function returns the final pose in the shape and unit of `pose`. It counts only that part of
theta that is of its own kind: a rotation ignores scale and shift.
"""

import numpy as np


def rotation(pose: np.ndarray, theta: np.ndarray, size: int) -> np.ndarray:
    """Degrees, counter-clockwise as seen on the screen."""
    return pose + np.degrees(
        np.arctan2(theta[:, 1, 0] - theta[:, 0, 1], theta[:, 0, 0] + theta[:, 1, 1])
    )


def translation(pose: np.ndarray, theta: np.ndarray, size: int) -> np.ndarray:
    """Pixels from the centre, to the right and down."""
    return pose - theta[:, :, 2] * (size / 2)


def log_area(pose: np.ndarray, theta: np.ndarray, size: int) -> np.ndarray:
    """log2 of the factor by which the digit's area has grown."""
    determinant = theta[:, 0, 0] * theta[:, 1, 1] - theta[:, 0, 1] * theta[:, 1, 0]
    # A mirror image has a negative determinant. A matrix that maps the plane to a line has
    # determinant 0, for which the smallest float stands, because log2(0) is not finite.
    area = np.maximum(np.abs(determinant), np.finfo(np.float32).tiny)
    return pose - np.log2(area)
