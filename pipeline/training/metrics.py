"""The scores of a model's predictions, by scikit-learn's definitions, and the files of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

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
