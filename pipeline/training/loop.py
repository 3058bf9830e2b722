"""The training loop: epochs, learning rate, which epoch is best. No MLflow, no files.

    python -m pipeline train
    python -m pipeline train --conv_layer coordconv2d --epochs 3
    python -m pipeline train --preset params/replication.yaml --seed 1

all end up in `train`, called by `training/run.py`.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from pipeline.data.augmentation import augment
from pipeline.data.batches import normalize, shuffled_batches
from pipeline.data.distortions import distort
from pipeline.data.mnist import Digits
from pipeline.errors import PipelineError
from pipeline.params import RunParams
from pipeline.tracking.vocabulary import Metric
from pipeline.training.optimization import lr_schedule, sgd

EVALUATION_BATCH = 250  # images per forward pass, to bound the memory; results do not depend on it


@dataclass(frozen=True)
class BestEpoch:
    """The epoch with the highest accuracy on the selection set.

    Of epochs with the same accuracy, the last one is the best: that is the replicated protocol.
    (Models of different runs have no order in time; among them the loss breaks a tie, see
    `tracking.registry.Candidate`.)

    accuracy, loss: on the selection set, accuracy as a fraction. The selection set is the
        validation images where there are some, else the test set, which makes both optimistic.
    weights: the `state_dict` after that epoch, of the averaged network where there is one.
    """

    epoch: int
    accuracy: float
    loss: float
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands after an epoch: all that its next epochs depend on.

    model, optimizer, schedule: their `state_dict`. The tensors are the live ones, which the next
        epoch changes.
    best: the best epoch so far.
    history: the metrics of each epoch so far; see `train`.
    random: the state of torch's random number generators, of the CPU and of each GPU.
    averaged: the `state_dict` of the averaged network, if there is one.
    """

    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    best: BestEpoch
    history: list[dict[str, float]]
    random: dict[str, Any]
    averaged: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """The number of the last epoch, from 1."""
        return len(self.history)


def train(
    model: nn.Module,
    train_set: Digits,
    test_set: Digits,
    params: RunParams,
    *,
    averaged: AveragedModel | None = None,
    validation_set: Digits | None = None,
    on_epoch_end: Callable[[TrainingState], None] = lambda state: None,
    resume_from: TrainingState | None = None,
) -> TrainingState:
    """Train `model` in place with SGD and cross-entropy, and select the best epoch.

    Args:
        model: images `(N, 1, S, S)` to logits `(N, 10)`, on the device of the images.
        train_set: the digits as stored, uint8 to save memory. Each batch is distorted as
            `params.dataset` says, and normalized, when it is used.
        test_set, validation_set: uint8, distorted already.
        params: dataset, augmentation, label_smoothing, and those of the length, the optimizer and
            the schedule are read. With `iterations`, the last epoch may be cut short.
        averaged: follows the weights; see `optimization.averaged_model`. With it, the averaged
            network is evaluated and selected, and `model` is only trained.
        on_epoch_end: called after each epoch. The epoch's metrics, `state.history[-1]`, are
            `train_loss` and `train_accuracy` (means over the epoch's images, with dropout),
            `test_loss` and `test_accuracy`, with a validation set `val_loss` and `val_accuracy`,
            `learning_rate` (in the epoch's first step), `epoch_seconds`, and `images_per_second`
            of the training steps.
        resume_from: what `on_epoch_end` got in an earlier process. The training continues after
            that epoch; on the same machine, with the same number of threads, its result is that of
            a training without interruption.

    Returns:
        The state after the last epoch, with the best epoch and the metrics of all epochs.

    Raises:
        PipelineError: if a weight is no longer a finite number, or `resume_from` is of a network
            with other layers.
    """
    optimizer = sgd(model, params)
    schedule = lr_schedule(optimizer, params, len(train_set.labels))
    state = resume_from
    if state is not None:
        _restore(state, model, averaged, optimizer, schedule)
    evaluated = model if averaged is None else averaged.module
    first_epoch = state.epoch + 1 if state else 1
    for epoch in range(first_epoch, params.epochs_over(len(train_set.labels)) + 1):
        start = time.perf_counter()
        metrics = _train_steps(
            model, train_set, optimizer, params, schedule, epoch=epoch, averaged=averaged
        )
        _check_finite(model, params, epoch=epoch, train_loss=metrics[Metric.TRAIN_LOSS])
        selection_loss, selection_accuracy = evaluate(evaluated, test_set, params.dataset)
        metrics |= {Metric.TEST_LOSS: selection_loss, Metric.TEST_ACCURACY: selection_accuracy}
        if validation_set is not None:  # then it selects
            selection_loss, selection_accuracy = evaluate(evaluated, validation_set, params.dataset)
            metrics |= {Metric.VAL_LOSS: selection_loss, Metric.VAL_ACCURACY: selection_accuracy}
        best = state.best if state else None
        if best is None or selection_accuracy >= best.accuracy:
            weights = copy.deepcopy(evaluated.state_dict())
            best = BestEpoch(epoch, selection_accuracy, selection_loss, weights)
        metrics[Metric.EPOCH_SECONDS] = time.perf_counter() - start
        state = TrainingState(
            model=model.state_dict(),
            optimizer=optimizer.state_dict(),
            schedule=schedule.state_dict(),
            best=best,
            history=[*(state.history if state else []), metrics],
            random=_random_state(),
            averaged=None if averaged is None else averaged.state_dict(),
        )
        on_epoch_end(state)

    assert state is not None  # there is at least one epoch
    return state


def _restore(
    state: TrainingState,
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: Optimizer,
    schedule: LRScheduler,
) -> None:
    """Take up a training where it stood.

    Raises:
        PipelineError: if the state is of a network with other layers.
    """
    try:
        model.load_state_dict(state.model)
        if averaged is not None and state.averaged is not None:
            averaged.load_state_dict(state.averaged)
    except RuntimeError as error:  # names each weight that is missing or too much
        raise PipelineError(
            "the checkpoint does not fit the network: another version of the pipeline saved "
            "it; start the study again, which repeats this run from its beginning"
        ) from error
    optimizer.load_state_dict(state.optimizer)
    schedule.load_state_dict(state.schedule)
    torch.set_rng_state(state.random["cpu"])
    if state.random["cuda"]:
        torch.cuda.set_rng_state_all(state.random["cuda"])


def _random_state() -> dict[str, Any]:
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": gpus}


def _train_steps(
    model: nn.Module,
    train_set: Digits,
    optimizer: Optimizer,
    params: RunParams,
    schedule: LRScheduler,
    *,
    epoch: int,
    averaged: AveragedModel | None,
) -> dict[str, float]:
    """The training steps of an epoch and its decay of the learning rate; their metrics."""
    image_count = len(train_set.labels)
    learning_rate = float(schedule.get_last_lr()[0])
    start = time.perf_counter()
    metrics = train_epoch(
        model,
        train_set,
        optimizer,
        params,
        steps=params.steps_of_epoch(epoch, image_count),
        schedule=schedule if params.decays_by_step else None,
        averaged=averaged,
    )
    seconds = time.perf_counter() - start
    metrics[Metric.IMAGES_PER_SECOND] = params.images_of_epoch(epoch, image_count) / seconds
    metrics[Metric.LEARNING_RATE] = learning_rate
    if not params.decays_by_step:
        schedule.step()
    return metrics


def _check_finite(model: nn.Module, params: RunParams, *, epoch: int, train_loss: float) -> None:
    """Raises PipelineError if a weight is infinite or not a number."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise PipelineError(
            f"training diverged in epoch {epoch}: weights are not finite, "
            f"train loss {train_loss:g}; "
            f"use a smaller lr (now {params.lr:g}) or momentum (now {params.momentum:g})"
        )


def train_epoch(
    model: nn.Module,
    train_set: Digits,
    optimizer: Optimizer,
    params: RunParams,
    *,
    steps: int | None = None,
    schedule: LRScheduler | None = None,
    averaged: AveragedModel | None = None,
) -> dict[str, float]:
    """One pass over the training images, in random order.

    Args:
        steps: the pass ends after this number of steps; None uses all images.
        schedule: of the learning rate; it advances with each step.
        averaged: follows the weights after each step.

    Returns:
        `train_loss` and `train_accuracy`, means over the images used, with dropout; the loss also
        with label smoothing.
    """
    model.train()
    count = 0
    loss_sum = torch.zeros((), device=train_set.labels.device)
    correct = torch.zeros((), device=train_set.labels.device, dtype=torch.long)
    for pixels, labels in islice(shuffled_batches(*train_set, params.batch_size), steps):
        images = normalize(params.dataset, distort(params.dataset, pixels, train_set.images).images)
        if params.augmentation == "affine":
            images = augment(images)
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=params.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if averaged is not None:
            averaged.update_parameters(model)
        if schedule is not None:
            schedule.step()
        count += len(labels)
        # summed on the device and read once an epoch: reading waits for the device
        loss_sum += loss.detach() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum()
    return {
        Metric.TRAIN_LOSS: loss_sum.item() / count,
        Metric.TRAIN_ACCURACY: correct.item() / count,
    }


@torch.inference_mode()
def evaluate(model: nn.Module, data: Digits, dataset: str) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) of `model` in evaluation mode."""
    model.eval()
    logits = torch.cat(
        [model(normalize(dataset, pixels)) for pixels in data.images.split(EVALUATION_BATCH)]
    )
    loss = F.cross_entropy(logits, data.labels).item()
    return loss, (logits.argmax(dim=1) == data.labels).sum().item() / len(data.labels)
