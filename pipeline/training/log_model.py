"""What a run logs of its selected model: scores, figures, predictions, and the model itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batches import normalize
from pipeline.data.datasets import DATASETS
from pipeline.data.fixed_sets import Posed
from pipeline.data.mnist import Digits
from pipeline.figures.animation import animation
from pipeline.figures.of_run import before_after_figure, learning_curves_figure
from pipeline.models.portable import PortableModel
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.models.transforms import TRANSFORMS
from pipeline.params import RunParams
from pipeline.tracking.recorded import recorded_run
from pipeline.tracking.result_files import predictions_to_csv
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.vocabulary import Artifact, Metric
from pipeline.training.loop import EVALUATION_BATCH, TrainingState
from pipeline.training.metrics import Scores, score, score_files
from pipeline.training.pose_deviation import pose_deviation
from pipeline.training.poses import caption, poses_file, transformed


@dataclass(frozen=True)
class TrainedModel:
    """A network after its training.

    network: on the CPU, in evaluation mode, with the weights of the best epoch.
    state: of the training after its last epoch.
    poses: uint8 `(8, 1, S, S)`, one digit in eight poses.
    frames: what the transformer made of these poses, by epoch; empty without a transformer.
    collapsed: the epoch in which the training collapsed, and why; empty if it has not.
    """

    network: SpatialTransformerNetwork
    state: TrainingState
    poses: Tensor
    frames: dict[int, Tensor]
    collapsed: str


def log_selected_model(
    run: TrackedRun, params: RunParams, trained: TrainedModel, test: Posed
) -> tuple[Scores, str]:
    """Score the model on the test set, in all its poses, and log it with its metrics and files.

    Returns:
        The scores, and the id of the logged model.
    """
    best = trained.state.best
    data = DATASETS[params.dataset]
    portable = PortableModel(trained.network, data.mean, data.std).eval().requires_grad_(False)
    scores = _score(portable, test.digits)
    run.log_artifacts(_files(params, trained, test.digits, scores))
    model_id = run.log_model(portable, test.digits.images[:4].numpy(), best.epoch)
    # an earlier attempt at this run may have logged them just before it was killed
    if not recorded_run(run.run_id).has_results:
        metrics = {
            Metric.BEST_TEST_ACCURACY: scores.accuracy,
            Metric.BEST_TEST_F1: scores.f1,
            Metric.BEST_TEST_LOSS: scores.loss,
            Metric.BEST_EPOCH: best.epoch,
            **_pose_metric(params, trained.network, test),
        }
        run.log_metrics(metrics, step=best.epoch, model_id=model_id)
    return scores, model_id


@torch.inference_mode()
def _score(portable: PortableModel, digits: Digits) -> Scores:
    probabilities = [portable(images) for images in digits.images.split(EVALUATION_BATCH)]
    return score(digits.labels.numpy(), torch.cat(probabilities).numpy())


@torch.inference_mode()
def _files(
    params: RunParams, trained: TrainedModel, test_digits: Digits, scores: Scores
) -> dict[str, object]:
    """The run's artifacts, by file name."""
    network, state = trained.network, trained.state
    files: dict[str, object] = {
        **score_files(scores),
        Artifact.PREDICTIONS: predictions_to_csv(test_digits.labels.numpy(), scores.predicted),
        Artifact.LEARNING_CURVES: learning_curves_figure(state.history, state.best.epoch),
    }
    if network.transformer is not None:
        before = test_digits.images[:64]
        after, _ = transformed(network, params, before)
        files[Artifact.BEFORE_AFTER] = before_after_figure(
            before.squeeze(1).numpy(), after.squeeze(1).numpy(), caption(network)
        )
        files[Artifact.POSES] = poses_file(network, params, trained.poses)
        files[Artifact.TRANSFORMER] = animation(
            trained.poses.squeeze(1).numpy(),
            {epoch: frame.squeeze(1).numpy() for epoch, frame in trained.frames.items()},
            caption(network),
        )
    return files


@torch.inference_mode()
def _pose_metric(
    params: RunParams, network: SpatialTransformerNetwork, test: Posed
) -> dict[str, float]:
    """How much the digits' pose still varies after the transformer, where both are known."""
    if test.pose is None or network.transformer is None:
        return {}
    if TRANSFORMS[params.transform].matrix is None:
        return {}
    matrices = [
        network.matrix(normalize(params.dataset, images)).flatten(1)
        for images in test.digits.images.split(EVALUATION_BATCH)
    ]
    deviation = pose_deviation(
        params.dataset,
        poses=test.pose.numpy(),
        theta=torch.cat(matrices).numpy(),
        labels=test.digits.labels.numpy(),
    )
    return {Metric.POSE_DEVIATION: deviation}
