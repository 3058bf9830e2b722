"""The runs of one group: their results, their summary, and the files of the best one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pipeline.comparison import statistics
from pipeline.comparison.plausible import described, is_curve
from pipeline.comparison.statistics import Summary
from pipeline.machine import ran_on
from pipeline.names import kind_of
from pipeline.params import TEST_IMAGES, RunParams
from pipeline.tracking.histories import metric_histories
from pipeline.tracking.recorded import RecordedRun, artifact_bytes
from pipeline.tracking.result_files import (
    Poses,
    confusion_from_csv,
    poses_from_npz,
    predictions_from_csv,
)
from pipeline.tracking.vocabulary import Artifact, Metric

CURVES = (Metric.TEST_ACCURACY, Metric.TRAIN_LOSS)

_Content = TypeVar("_Content")


@dataclass(frozen=True)
class RunResult:
    """One training run's selected model on the test set; accuracies and macro F1 as fractions.

    Attributes:
        last_accuracy: after the last epoch, which no selection touches; None if it was not logged.
        pose_deviation: see `training.pose_deviation`, also for the unit; None where there is none.
        collapsed: the epoch in which the training collapsed, and why; empty if it has not. See
            `training.collapse`.
        ran_on: versions, CPU and so on, see `machine.ran_on`.
        curves: the value of each epoch, by metric; those of `CURVES` that were logged.
    """

    group: str
    seed: int
    accuracy: float
    f1: float
    loss: float
    best_epoch: int
    last_accuracy: float | None
    pose_deviation: float | None
    collapsed: str
    run_id: str
    name: str
    url: str
    ran_on: dict[str, str]
    curves: dict[str, dict[int, float]]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, in the order of their seeds.

    Attributes:
        params: the parameter values by which this group differs from the others.
        accuracy, f1, last_accuracy: in percent; the last is None unless every run has it.
        pose: the runs' pose deviation, in its own unit; None unless every run has one.
        champion: the best run, by the rule that moves an alias of the registered model: the highest
            accuracy, at a tie the lowest loss, on the images that selected the epoch. So the report
            shows the model that has the alias; and where validation images select, the test images
            have no part in it.
        confusion: the champion's, int `(10, 10)`, rows true digit; None if it is not stored.
        poses: the champion's; None if they are not stored.
        correct: which test images the champion classifies correctly, bool `(N,)`; None if that is
            not stored. Of an image in several poses, only the first pose counts: McNemar's test
            needs independent images.
        missing: a line for each file or curve that is stored, but is not what its name says.
    """

    name: str
    params: dict[str, Any]
    runs: list[RunResult]
    accuracy: Summary
    f1: Summary
    last_accuracy: Summary | None
    pose: Summary | None
    champion: RunResult
    confusion: np.ndarray | None
    poses: Poses | None
    correct: np.ndarray | None
    missing: list[str]

    @property
    def percentages(self) -> list[float]:
        """The test accuracies of the runs in percent."""
        return [100 * run.accuracy for run in self.runs]


def group_of(values: dict[str, Any], members: list[tuple[RunParams, RecordedRun]]) -> Group:
    """Summarize the runs of one group; reads their learning curves and the champion's files.

    Args:
        values: the parameter values by which this group differs from the others.
        members: the runs with their parameters, in the order of their seeds.
    """
    name = kind_of(values)
    run_ids = [run.run_id for _, run in members]
    histories = {metric: metric_histories(run_ids, metric) for metric in CURVES}
    missing: list[str] = []
    runs = []
    for params, run in members:
        curves = {metric: histories[metric][run.run_id] for metric in CURVES}
        if not all(map(is_curve, curves.values())):
            missing.append(
                f"the learning curves of {described(run.name, run.run_id)}, left out because they "
                "are not those of a training"
            )
            curves = {}
        runs.append(_result(name, params, run, curves))
    params, _ = members[0]
    last = [run.last_accuracy for run in runs if run.last_accuracy is not None]
    poses = [run.pose_deviation for run in runs if run.pose_deviation is not None]
    champion = _champion(runs, params.selection)
    return Group(
        name=name,
        params=values,
        runs=runs,
        accuracy=_summary([run.accuracy for run in runs]),
        f1=_summary([run.f1 for run in runs]),
        last_accuracy=_summary(last) if len(last) == len(runs) else None,
        pose=statistics.summarize(poses, math.inf) if len(poses) == len(runs) else None,
        champion=champion,
        confusion=_stored(champion, Artifact.CONFUSION_COUNTS, confusion_from_csv, missing),
        poses=_stored(champion, Artifact.POSES, poses_from_npz, missing),
        correct=_stored(champion, Artifact.PREDICTIONS, _correctly_classified, missing),
        missing=missing,
    )


def _stored(
    run: RunResult, name: str, read: Callable[[bytes], _Content], missing: list[str]
) -> _Content | None:
    """The content of a run's file; None if it is not stored, or with a line in `missing`."""
    content = artifact_bytes(run.run_id, name)
    try:
        return None if content is None else read(content)
    except ValueError as error:
        missing.append(f"{name} of {described(run.name, run.run_id)}, left out because {error}")
        return None


def _correctly_classified(predictions: bytes) -> np.ndarray:
    label, predicted = predictions_from_csv(predictions)
    return (label == predicted)[:TEST_IMAGES]


def _result(
    group: str, params: RunParams, run: RecordedRun, curves: dict[str, dict[int, float]]
) -> RunResult:
    return RunResult(
        group=group,
        seed=params.seed,
        accuracy=run.best_test_accuracy,
        f1=run.best_test_f1,
        loss=run.best_test_loss,
        best_epoch=run.best_epoch,
        last_accuracy=run.last_test_accuracy,
        pose_deviation=run.pose_deviation,
        collapsed=run.collapsed,
        run_id=run.run_id,
        name=run.name,
        url=run.url,
        ran_on=ran_on(run.tags),
        curves={name: curve for name, curve in curves.items() if curve},
    )


def _champion(runs: list[RunResult], selection: str) -> RunResult:
    """The best run by accuracy, then loss, on the images that selected the epoch.

    Both are those of the selected epoch. Runs that have not logged them are judged by the test
    images.
    """
    accuracy_of, loss_of = {
        "test": (Metric.TEST_ACCURACY, Metric.TEST_LOSS),
        "validation": (Metric.VAL_ACCURACY, Metric.VAL_LOSS),
    }[selection]
    if accuracy_of in CURVES:
        accuracies = {run.run_id: run.curves.get(accuracy_of, {}) for run in runs}
    else:
        accuracies = metric_histories([run.run_id for run in runs], accuracy_of)
    selected = [accuracies[run.run_id].get(run.best_epoch, run.accuracy) for run in runs]
    highest = max(selected)
    best = [run for run, accuracy in zip(runs, selected, strict=True) if not accuracy < highest]
    if len(best) == 1:
        return best[0]
    losses = metric_histories([run.run_id for run in best], loss_of)
    return min(best, key=lambda run: losses[run.run_id].get(run.best_epoch, run.loss))


def _summary(fractions: list[float]) -> Summary:
    return statistics.summarize([100 * fraction for fraction in fractions])
