"""Metrics of a model: scores of its predictions, and how well its transformer undoes a pose.

Scores follow scikit-learn's definitions, the pose deviation that of arXiv:2004.11678.
"""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

from pipeline.data.datasets import DATASETS, Pose, look_up
from pipeline.figures.confusion import confusion_matrix_figure
from pipeline.models.layer_sizes import CLASSES
from pipeline.tracking.result_files import confusion_to_csv
from pipeline.tracking.vocabulary import Artifact


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a set of images.

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
    digits = np.arange(CLASSES)
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


def score_files(scores: Scores) -> dict[str, Figure | str | dict[str, Any]]:
    """The files that show a model's scores on a test set, by name."""
    return {
        Artifact.CONFUSION_MATRIX: confusion_matrix_figure(
            scores.confusion, scores.accuracy, scores.f1
        ),
        Artifact.CONFUSION_COUNTS: confusion_to_csv(scores.confusion),
        Artifact.CLASSIFICATION_REPORT: scores.report,
    }


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
