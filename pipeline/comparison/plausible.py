"""What a training may have logged: others may have logged anything into the same experiment."""

from pipeline.params import MOST_EPOCHS, shortened
from pipeline.tracking.recorded import RESULTS, RecordedRun
from pipeline.tracking.vocabulary import Metric

LARGEST = 1e30  # of a loss or a deviation; a database has its largest number in place of infinity

# the lowest and the highest value of the metrics that a comparison reads
_BOUNDS = {
    Metric.BEST_TEST_ACCURACY: (0, 1),
    Metric.BEST_TEST_F1: (0, 1),
    Metric.BEST_TEST_LOSS: (0, LARGEST),
    Metric.BEST_EPOCH: (1, MOST_EPOCHS),
    Metric.TEST_ACCURACY: (0, 1),
    Metric.POSE_DEVIATION: (0, LARGEST),
}


def problem_of(run: RecordedRun) -> str:
    """Why the results of a run cannot be those of a training; empty if they can."""
    for name, (low, high) in _BOUNDS.items():
        value = run.metrics.get(name)
        if value is None and name in RESULTS:
            return f"it has no metric {name}"
        # NaN fails this comparison, so it is refused
        if value is not None and not low <= value <= high:
            return f"its metric {name} is {value:g}"
    if run.best_epoch != run.metrics[Metric.BEST_EPOCH]:
        return f"its metric {Metric.BEST_EPOCH} is {run.metrics[Metric.BEST_EPOCH]:g}"
    return ""


def has_no_results(run: RecordedRun) -> bool:
    """Whether a run has logged none of the results of a training."""
    return not RESULTS & run.metrics.keys()


def is_curve(values: dict[int, float]) -> bool:
    """Whether a training may have logged these losses or accuracies, by epoch."""
    return all(1 <= epoch <= MOST_EPOCHS and 0 <= y <= LARGEST for epoch, y in values.items())


def described(name: str, run_id: str) -> str:
    """A run by its name and its id, such as `run conv2d seed=0 (5f…)`."""
    return f"run {shortened(name)} ({run_id})"
