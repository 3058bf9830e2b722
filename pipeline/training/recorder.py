"""What a run keeps of each epoch: metrics, a frame of the animation, a checkpoint, a line."""

from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from pipeline.figures.animation import is_frame
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.params import RunParams
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.vocabulary import Metric
from pipeline.training.checkpoint import Checkpoint, save_checkpoint
from pipeline.training.loop import TrainingState
from pipeline.training.poses import transformed


class EpochRecorder:
    """Records the epochs of one run.

    Args:
        run: where the metrics are logged.
        model: the network that is trained.
        params: of the run.
        poses: uint8 `(8, 1, S, S)`, one digit in eight poses, for the animation.
        bar: the terminal's progress bar, which counts epochs.
        checkpoint_file: where a checkpoint is saved after each epoch; None saves none.
        resume_from: the checkpoint that the run continues from.

    Attributes:
        frames: what the transformer makes of the poses, by epoch from 0; empty without one.
    """

    def __init__(
        self,
        run: TrackedRun,
        model: SpatialTransformerNetwork,
        params: RunParams,
        *,
        poses: Tensor,
        bar: tqdm,
        checkpoint_file: Path | None = None,
        resume_from: Checkpoint | None = None,
    ) -> None:
        self._run, self._model, self._params, self._poses = run, model, params, poses
        self._bar, self._checkpoint_file = bar, checkpoint_file
        self.frames: dict[int, Tensor] = {}
        if resume_from is None:
            self._add_frame(0)
        else:
            self.frames.update(resume_from.frames)
            self._log_missing_epochs(resume_from.state)

    def record(self, state: TrainingState) -> None:
        """Record the epoch that has just ended."""
        if is_frame(state.epoch, self._params.planned_epochs):
            self._add_frame(state.epoch)
        if self._checkpoint_file is not None:
            # before the metrics are logged: `_log_missing_epochs` repairs an interruption here
            save_checkpoint(self._checkpoint_file, Checkpoint(state, self.frames))
        metrics = state.history[-1]
        self._run.log_metrics(metrics, step=state.epoch)
        if self._checkpoint_file is None:  # else a study reads the metrics and shows its progress
            self._bar.update()
            self._bar.write(
                f"epoch {state.epoch}/{self._params.planned_epochs}: "
                f"train loss {metrics[Metric.TRAIN_LOSS]:.4f}, "
                f"test accuracy {metrics[Metric.TEST_ACCURACY]:.2%}, "
                f"{metrics[Metric.EPOCH_SECONDS]:.1f} s"
            )

    def _add_frame(self, epoch: int) -> None:
        if self._model.transformer is not None:
            self.frames[epoch], _ = transformed(self._model.eval(), self._params, self._poses)

    def _log_missing_epochs(self, state: TrainingState) -> None:
        """Log the epochs that the interrupted process saved but did not log any more."""
        for epoch in range(self._run.logged_epochs() + 1, state.epoch + 1):
            self._run.log_metrics(state.history[epoch - 1], step=epoch)
