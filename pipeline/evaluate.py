"""Score a registered or logged model again, on the test set, as a run of its own."""

from dataclasses import dataclass

import numpy as np

from pipeline.data import mnist
from pipeline.data.fixed_sets import posed_test_set
from pipeline.machine import machine_tags
from pipeline.tracking.registry import load_model
from pipeline.tracking.runs import open_run
from pipeline.tracking.store import ensure_store
from pipeline.tracking.vocabulary import Metric, Tag
from pipeline.training.loop import EVALUATION_BATCH
from pipeline.training.metrics import Scores, score, score_files


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model, and the run that holds them.

    selection: what its best epoch was selected on; with `test`, the scores are optimistic.
    """

    run_id: str
    url: str
    scores: Scores
    selection: str | None


def evaluate_model(model_uri: str, data_dir: str, experiment: str | None) -> Evaluation:
    """Load a model as its users do, and score it on the test set of what it was trained on.

    Args:
        model_uri: `models:/stn-mnist@champion`, `models:/stn-mnist/3`, `models:/m-…`, or
            `runs:/<run id>/model`.
        data_dir: folder that holds `MNIST/raw/`.
        experiment: see `open_run`.

    Raises:
        PipelineError: if there is no such model, or on unusable data or store.
    """
    ensure_store()
    model = load_model(model_uri)
    train, test = mnist.load_mnist(data_dir)
    test = posed_test_set(model.dataset, test, train.images).digits
    images, labels = test.images.numpy(), test.labels.numpy()
    tags = {Tag.DATA_DIGEST: mnist.DIGEST, **machine_tags("cpu")}
    caution = ""
    if model.selection:
        tags[Tag.SELECTION] = model.selection
    if model.selection == "test":
        caution = " Its epoch was selected on this very set, so the scores are optimistic."
    with open_run(
        name=f"evaluate {model_uri}",
        description=f"Scores of `{model_uri}` (logged model {model.model_id}, of run "
        f"{model.source_run_id}) on the test set of *{model.dataset}* digits, computed "
        f"again.{caution}",
        experiment=experiment,
        params={"model_uri": model_uri, "data_dir": data_dir},
        tags=tags,
    ) as run:
        run.log_model_input(model.model_id)
        run.log_dataset(f"{model.dataset}-testing", "testing", images, labels)
        batches = range(0, len(labels), EVALUATION_BATCH)
        probabilities = [
            model.predict(images[start : start + EVALUATION_BATCH]) for start in batches
        ]
        scores = score(labels, np.concatenate(probabilities))
        metrics = {
            Metric.TEST_ACCURACY: scores.accuracy,
            Metric.TEST_F1: scores.f1,
            Metric.TEST_LOSS: scores.loss,
        }
        run.log_metrics(metrics, model_id=model.model_id)
        run.log_artifacts(score_files(scores))
    return Evaluation(run.run_id, run.url, scores, model.selection)
