"""How well a transformer undoes the pose of a digit (arXiv:2004.11678)."""

from pkgutil import resolve_name

import numpy as np

from pipeline.data.datasets import DATASETS, Pose, look_up


def pose_deviation(
    dataset: str, *, poses: np.ndarray, theta: np.ndarray, labels: np.ndarray
) -> float:
    """How much the pose of a digit still varies after the transformer (arXiv:2004.11678).

    The standard deviation of the final pose over the images of a digit, averaged over the digits:
    0 where the transformer takes every image of a digit to the same pose, whichever that is.

    Args:
        dataset, poses, theta: see `final_pose`.
        labels: int `(N,)`, the digits.

    Returns:
        The deviation in the unit of the data set's pose. Of a pose in x and y, the variances are
        added. (The authors' code averages over the digits before it takes the root, which gives a
        little more where they vary differently.)
    """
    final = final_pose(dataset, poses=poses, theta=theta)
    period = _pose_of(dataset).period
    deviations = []
    for digit in np.unique(labels):
        of_digit = final[labels == digit]
        if period is not None:
            of_digit = _about_the_mean(of_digit, period)
        deviations.append(np.sqrt(of_digit.var(axis=0).sum()))
    return float(np.mean(deviations))


def final_pose(dataset: str, *, poses: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """The pose of each digit after the transformer: the pose that it had, changed by theta.

    Args:
        dataset: a name in `DATASETS` whose entry has a pose.
        poses: `(N,)` or `(N, 2)`, as `data.distortions.Distorted` has them.
        theta: `(N, 6)`, the affine matrices (a11, a12, a13, a21, a22, a23) that map output to
            input coordinates, normalized with `align_corners=False`. They are those of the image,
            also where feature maps are transformed: what `SpatialTransformerNetwork.matrix`
            returns.

    Returns:
        As `poses`. Angles are within half a period of 0, `[-180, 180)` degrees.

    Raises:
        ValueError: for a data set without a pose.
    """
    pose = _pose_of(dataset)
    matrices = theta.astype(np.float64).reshape(-1, 2, 3)
    final = resolve_name(pose.after)(poses, matrices, look_up(dataset).size)
    return final if pose.period is None else _wrapped(final, pose.period)


def _pose_of(dataset: str) -> Pose:
    pose = look_up(dataset).pose
    if pose is None:
        allowed = ", ".join(name for name, entry in DATASETS.items() if entry.pose)
        raise ValueError(f"dataset: got {dataset!r}, which has no pose; allowed: {allowed}")
    return pose


def _wrapped(angles: np.ndarray, period: float) -> np.ndarray:
    """The same angles within half a period of 0."""
    return (angles + period / 2) % period - period / 2


def _about_the_mean(angles: np.ndarray, period: float) -> np.ndarray:
    """Differences from the circular mean, within half a period: they do not jump where angles do.

    Angles that lie half a period from their mean still jump.
    """
    radians = angles * (2 * np.pi / period)
    mean = np.arctan2(np.sin(radians).mean(), np.cos(radians).mean()) * (period / (2 * np.pi))
    return _wrapped(angles - mean, period)
