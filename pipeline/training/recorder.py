"""What a run keeps of each epoch: metrics, a frame of the animation, a checkpoint, a collapse."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from pipeline.figures.animation import is_frame
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.params import RunParams
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.vocabulary import Metric, Tag
from pipeline.training.checkpoint import Checkpoint, save_checkpoint
from pipeline.training.loop import TrainingState
from pipeline.training.poses import transformed


class EpochRecorder:
    """Records the epochs of one run.

    Args:
        run: where metrics and tags are logged.
        network: what is trained.
        params: of the run.
        poses: uint8 `(8, 1, S, S)`, one digit in eight poses, for the animation.
        collapse_reason: given the training accuracies of the epochs so far, why the training counts
            as collapsed, or an empty text; see `collapse.collapse_reason`.
        bar: the progress bar of the terminal, which counts epochs.
        checkpoint_file: where a checkpoint is saved after each epoch.
        quiet: print nothing. A study reads the metrics and tags from the store, and prints what
            matters.
        share_checkpoint: called with that file whenever it has been saved.
        resume_from: the checkpoint that the run continues from.

    Attributes:
        frames: what the transformer makes of the poses, by epoch from 0; empty without one.
        collapsed: the epoch in which the training collapsed, and why; empty if it has not, or has
            recovered.
    """

    def __init__(
        self,
        run: TrackedRun,
        network: SpatialTransformerNetwork,
        params: RunParams,
        *,
        poses: Tensor,
        collapse_reason: Callable[[list[float]], str],
        bar: tqdm,
        checkpoint_file: Path,
        quiet: bool = False,
        share_checkpoint: Callable[[Path], None] | None = None,
        resume_from: Checkpoint | None = None,
    ) -> None:
        self._run, self._network, self._params, self._poses = run, network, params, poses
        self._collapse_reason = collapse_reason
        self._bar, self._checkpoint_file, self._quiet = bar, checkpoint_file, quiet
        self._share_checkpoint = share_checkpoint
        self.frames: dict[int, Tensor] = {}
        self.collapsed = ""
        if resume_from is None:
            self._add_frame(0)
        else:
            self.frames.update(resume_from.frames)
            self.collapsed = resume_from.collapsed
            self._log_what_is_missing(resume_from.state)

    def record(self, state: TrainingState) -> None:
        """Record the epoch that has just ended."""
        self._network.eval()
        if is_frame(state.epoch, self._params.planned_epochs):
            self._add_frame(state.epoch)
        reason = self._collapse_reason(
            [metrics[Metric.TRAIN_ACCURACY] for metrics in state.history]
        )
        before = self.collapsed
        if not reason or not before:
            self.collapsed = f"epoch {state.epoch}: {reason}" if reason else ""
        # before anything is logged: `_log_what_is_missing` repairs an interruption in between
        checkpoint = Checkpoint(state, self.frames, self.collapsed)
        save_checkpoint(self._checkpoint_file, checkpoint)
        if self._share_checkpoint is not None:
            self._share_checkpoint(self._checkpoint_file)
        if self.collapsed != before:
            self._tag_collapse()
        self._run.log_metrics(state.history[-1], step=state.epoch)
        if not self._quiet:
            self._print(state, reason=reason, is_news=self.collapsed != before)

    def _add_frame(self, epoch: int) -> None:
        if self._network.transformer is not None:
            self.frames[epoch], _ = transformed(self._network.eval(), self._params, self._poses)

    def _tag_collapse(self) -> None:
        if self.collapsed:
            self._run.set_tags({Tag.COLLAPSED: self.collapsed})
        else:
            self._run.remove_tag(Tag.COLLAPSED)

    def _print(self, state: TrainingState, *, reason: str, is_news: bool) -> None:
        metrics = state.history[-1]
        self._bar.update()
        self._bar.write(
            f"epoch {state.epoch}/{self._params.planned_epochs}: "
            f"train loss {metrics[Metric.TRAIN_LOSS]:.4f}, "
            f"test accuracy {metrics[Metric.TEST_ACCURACY]:.2%}, "
            f"{metrics[Metric.EPOCH_SECONDS]:.1f} s"
        )
        if is_news and reason:
            remedy = f"a smaller lr (now {self._params.lr:g})"
            if self._network.transformer is not None:
                scale = self._params.localization_lr_scale
                remedy += f" or localization_lr_scale (now {scale:g})"
            self._bar.write(f"the training has collapsed: {reason}; {remedy} may prevent it")
        elif is_news:
            self._bar.write("the training has recovered from its collapse")

    def _log_what_is_missing(self, state: TrainingState) -> None:
        """Log what the interrupted process had saved, but perhaps not logged any more."""
        self._tag_collapse()
        for epoch in range(self._run.logged_epochs() + 1, state.epoch + 1):
            self._run.log_metrics(state.history[epoch - 1], step=epoch)
