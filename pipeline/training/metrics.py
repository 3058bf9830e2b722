"""How well class probabilities fit the labels, by scikit-learn's definitions; how well a spatial
transformer undoes a pose (arXiv:2004.11678)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

from pipeline.figures.confusion import confusion_matrix_figure
from pipeline.tracking.vocabulary import Artifact


@dataclass(frozen=True)
class Scores:
    """What is reported of a model on a set of images.

    accuracy: fraction in [0, 1].
    f1: macro F1, the unweighted mean of the ten digits' F1, in [0, 1].
    loss: mean cross-entropy, in nats.
    predicted: int `(N,)`, the digit that each image is taken for.
    confusion: int `(10, 10)`, rows true digit, columns predicted digit.
    report: precision, recall, F1 and support per digit, as scikit-learn's classification_report.
    """

    accuracy: float
    f1: float
    loss: float
    predicted: np.ndarray
    confusion: np.ndarray
    report: dict[str, Any]


def score(labels: np.ndarray, probabilities: np.ndarray) -> Scores:
    """Score predictions.

    Args:
        labels: int `(N,)` in [0, 9].
        probabilities: `(N, 10)`, each row sums to 1; the highest is the prediction.
    """
    digits = np.arange(10)
    predicted = probabilities.argmax(axis=1)
    # not sklearn's log_loss: it renormalizes and clips, and would differ from the training loss
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(np.float32).tiny
    return Scores(
        accuracy=float(accuracy_score(labels, predicted)),
        f1=float(f1_score(labels, predicted, labels=digits, average="macro", zero_division=0)),
        loss=float(-np.log(np.maximum(of_truth, smallest)).mean()),
        predicted=predicted,
        confusion=confusion_matrix(labels, predicted, labels=digits),
        report=classification_report(
            labels, predicted, labels=digits, output_dict=True, zero_division=0
        ),
    )


def score_files(scores: Scores) -> dict[str, Figure | str | dict]:
    """The files that show a model's scores on a test set, by name."""
    digits = ",".join(map(str, range(10)))
    rows = [",".join(map(str, [digit, *row])) for digit, row in enumerate(scores.confusion)]
    return {
        Artifact.CONFUSION_MATRIX: confusion_matrix_figure(
            scores.confusion, scores.accuracy, scores.f1
        ),
        Artifact.CONFUSION_COUNTS: "\n".join([f"true\\predicted,{digits}", *rows, ""]),
        Artifact.CLASSIFICATION_REPORT: scores.report,
    }


def pose_deviation(
    dataset: str,
    poses: np.ndarray,
    theta: np.ndarray,
    labels: np.ndarray,
    width: int,
) -> float:
    """How much the pose of a digit still varies after the transformer (arXiv:2004.11678).

    The standard deviation of the final pose over the images of a digit, averaged over the digits:
    0 where the transformer takes every image of a digit to the same pose, whichever that is.

    Args:
        dataset, poses, theta, width: see `final_pose`.
        labels: int `(N,)`, the digits.

    Returns:
        Degrees for `rotated` and `rts`; log2 of the area for `scaled`; pixels for `translated`,
        where the variances of x and y are added. (The authors' code averages over the digits
        before it takes the root, which gives a little more where they vary differently.)
    """
    poses = final_pose(dataset, poses, theta, width)
    deviations = []
    for digit in np.unique(labels):
        of_digit = poses[labels == digit]
        if dataset in _ROTATIONS:
            of_digit = _unwrapped(of_digit)
        deviations.append(np.sqrt(of_digit.var(axis=0).sum()))
    return float(np.mean(deviations))


_ROTATIONS = ("rotated", "rts")


def final_pose(dataset: str, poses: np.ndarray, theta: np.ndarray, width: int) -> np.ndarray:
    """The pose of each digit after the transformer: the one it had and what theta adds.

    theta maps output to input coordinates, so what it does to the image is its inverse. Only its
    part of the kind that the data set varies is counted.

    Args:
        dataset: `rotated`, `rts`, `translated` or `scaled`.
        poses: `(N,)` or `(N, 2)`, as `data.warps.Distorted` has them.
        theta: `(N, 6)`, the affine matrices (a11, a12, a13, a21, a22, a23), in normalized
            coordinates with `align_corners=False`.
            They are those of the image, also where feature maps are transformed: what
            `SpatialTransformerNetwork.matrix` returns.
        width: of the image in pixels; one unit of theta's shift is half of it.

    Returns:
        As `poses`. Rotations are counter-clockwise in degrees, within ±180.

    Raises:
        ValueError: for another data set, where no pose is known.
    """
    a11, a12, a13, a21, a22, a23 = theta.astype(np.float64).reshape(-1, 6).T
    if dataset in _ROTATIONS:
        return _wrapped(poses + np.degrees(np.arctan2(a21 - a12, a11 + a22)))
    if dataset == "translated":
        return poses - np.stack([a13, a23], axis=1) * (width / 2)
    if dataset == "scaled":
        # the area's change is also that of a mirror image; and a line has an area that has a log
        area = np.maximum(np.abs(a11 * a22 - a12 * a21), np.finfo(np.float32).tiny)
        return poses - np.log2(area)
    raise ValueError(f"dataset: got {dataset!r}; allowed: rotated, rts, translated, scaled")


def _wrapped(degrees: np.ndarray) -> np.ndarray:
    """The same angles within [-180, 180)."""
    return (degrees + 180) % 360 - 180


def _unwrapped(degrees: np.ndarray) -> np.ndarray:
    """Differences from the circular mean: without a jump at ±180, unless the angles lie there."""
    radians = np.radians(degrees)
    mean = np.degrees(np.arctan2(np.sin(radians).mean(), np.cos(radians).mean()))
    return _wrapped(degrees - mean)
