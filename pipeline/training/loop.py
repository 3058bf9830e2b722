"""The training loop: epochs, learning rate, which epoch is best. No MLflow, no files.

    python -m pipeline train
    python -m pipeline train --conv_layer coordconv2d --epochs 3
    python -m pipeline train --preset params/replication.yaml --seed 1

all end up in `train`, called by `training/run.py`.
"""

import copy
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.augmentation import augment
from pipeline.data.batches import normalize, shuffled_batches
from pipeline.data.distortions import distort
from pipeline.data.mnist import Digits
from pipeline.errors import PipelineError
from pipeline.models.stn import SpatialTransformerNetwork, localization_parameters
from pipeline.params import RunParams
from pipeline.tracking.vocabulary import Metric

EVALUATION_BATCH = 250  # images per forward pass; a speed setting, results do not depend on it

EpochEnded = Callable[[int, dict[str, float]], None]  # epoch (from 1) and its metrics
Checkpoint = dict[str, Any]  # of what torch.load(weights_only=True) reads; see `train`


@dataclass(frozen=True)
class BestEpoch:
    """The epoch with the highest accuracy on the selection set; of equals, the last.

    accuracy (a fraction) and loss are those on the selection set: the validation images where
    there are some, else the test set, which makes them optimistic.
    """

    epoch: int
    accuracy: float
    loss: float
    weights: dict[str, Tensor]


def train(
    model: nn.Module,
    train_set: Digits,
    test_set: Digits,
    params: RunParams,
    validation_set: Digits | None = None,
    on_epoch_end: EpochEnded = lambda epoch, metrics: None,
    on_checkpoint: Callable[[Checkpoint], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> BestEpoch:
    """Train `model` in place with SGD and cross-entropy, and say which epoch was best.

    Args:
        model: images `(N, 1, S, S)` to logits `(N, 10)`, on the device of the images.
        train_set: the digits as stored, uint8; each batch is distorted anew, as `params.dataset`
            says, and normalized, which costs next to nothing and a fifth of the memory.
        test_set, validation_set: the same, but distorted already.
        params: dataset, epochs, iterations, batch_size, augmentation, lr, localization_lr_scale,
            momentum, lr_step, lr_step_iterations and lr_gamma are read. With `iterations`, the last
            epoch may be cut short.
        on_epoch_end: called after each epoch with its number and metrics: `train_loss` and
            `train_accuracy` (means over the epoch's images, with dropout), `test_loss` and
            `test_accuracy`, with a validation set `val_loss` and `val_accuracy`,
            `learning_rate` (in its first step), `epoch_seconds`, and `images_per_second` of the
            training steps.
        on_checkpoint: called before that with all that the next epochs depend on, and with the
            metrics of all epochs so far as `history`. The tensors are the live ones: save them
            before returning.
        checkpoint: what `on_checkpoint` got; training goes on after its epoch. On the same machine
            and with as many threads, the result is that of a training without a break.

    Raises:
        PipelineError: if a weight is no longer a finite number, or the checkpoint is of a network
            with other layers.
    """
    optimizer = torch.optim.SGD(
        _parameter_groups(model, params), lr=params.lr, momentum=params.momentum, fused=True
    )
    schedule = torch.optim.lr_scheduler.StepLR(
        optimizer, params.lr_step_iterations or params.lr_step, params.lr_gamma
    )
    decays_by_step = params.lr_step_iterations > 0
    whole = params.steps_over(len(train_set.labels))
    best: BestEpoch | None = None
    history: list[dict[str, float]] = []
    if checkpoint is not None:
        try:
            model.load_state_dict(checkpoint["model"])
        except RuntimeError as error:  # names each weight that is missing or too much
            raise PipelineError(
                "the checkpoint does not fit the network: another version of the pipeline saved "
                "it; start the study again, which repeats this run from its beginning"
            ) from error
        optimizer.load_state_dict(checkpoint["optimizer"])
        schedule.load_state_dict(checkpoint["schedule"])
        best = BestEpoch(**checkpoint["best"])
        history = checkpoint["history"]
        _set_random_state(checkpoint["random"])

    for epoch in range(len(history) + 1, params.epochs_over(len(train_set.labels)) + 1):
        steps = min(whole, params.iterations - (epoch - 1) * whole) if params.iterations else whole
        learning_rate = float(schedule.get_last_lr()[0])
        start = time.perf_counter()
        metrics = train_epoch(
            model, train_set, optimizer, params, steps, schedule if decays_by_step else None
        )
        images = min(steps * params.batch_size, len(train_set.labels))
        metrics[Metric.IMAGES_PER_SECOND] = images / (time.perf_counter() - start)
        metrics[Metric.LEARNING_RATE] = learning_rate
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise PipelineError(
                f"training diverged in epoch {epoch}: weights are not finite, "
                f"train loss {metrics[Metric.TRAIN_LOSS]:g}; "
                f"use a smaller lr (now {params.lr:g}) or momentum (now {params.momentum:g})"
            )
        if not decays_by_step:
            schedule.step()

        loss, accuracy = evaluate(model, test_set, params.dataset)
        metrics |= {Metric.TEST_LOSS: loss, Metric.TEST_ACCURACY: accuracy}
        if validation_set is not None:
            loss, accuracy = evaluate(model, validation_set, params.dataset)
            metrics |= {Metric.VAL_LOSS: loss, Metric.VAL_ACCURACY: accuracy}
        if best is None or accuracy >= best.accuracy:
            best = BestEpoch(epoch, accuracy, loss, copy.deepcopy(model.state_dict()))

        metrics[Metric.EPOCH_SECONDS] = time.perf_counter() - start
        history.append(metrics)
        if on_checkpoint is not None:
            on_checkpoint(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "best": vars(best),
                    "history": history,
                    "random": _random_state(),
                }
            )
        on_epoch_end(epoch, metrics)

    assert best is not None  # there is at least one epoch
    return best


def _parameter_groups(model: nn.Module, params: RunParams) -> list[dict[str, Any]]:
    if params.localization_lr_scale == 1 or not isinstance(model, SpatialTransformerNetwork):
        return [{"params": list(model.parameters())}]
    own = localization_parameters(model)
    known = set(own)
    others = [parameter for parameter in model.parameters() if parameter not in known]
    scaled = [{"params": own, "lr": params.lr * params.localization_lr_scale}] if own else []
    return [{"params": others}, *scaled]


def train_epoch(
    model: nn.Module,
    train_set: Digits,
    optimizer: torch.optim.Optimizer,
    params: RunParams,
    steps: int | None = None,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> dict[str, float]:
    """One pass over the training images; `train_loss` and `train_accuracy` over all its steps.

    steps: ends the pass after so many.
    schedule: of the learning rate, told of each step.
    """
    _keep_freed_memory()
    model.train()
    count = 0
    loss_sum = torch.zeros((), device=train_set.labels.device)
    correct = torch.zeros((), device=train_set.labels.device, dtype=torch.long)
    for pixels, labels in islice(shuffled_batches(*train_set, params.batch_size), steps):
        images = normalize(params.dataset, distort(params.dataset, pixels, train_set.images).images)
        if params.augmentation == "affine":
            images = augment(images)
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
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


@cache
def _keep_freed_memory() -> None:
    """Have glibc, if that is there, keep up to 1 GiB of what this process frees.

    A training step needs what the one before freed. Of large images glibc returns it to the system
    each time, and getting it anew takes about a tenth of a step (60 or 112 pixels; mallopt(3)).
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)  # the most that it may be


@torch.inference_mode()
def evaluate(model: nn.Module, data: Digits, dataset: str) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) of `model` in evaluation mode."""
    model.eval()
    logits = torch.cat(
        [model(normalize(dataset, pixels)) for pixels in data.images.split(EVALUATION_BATCH)]
    )
    loss = F.cross_entropy(logits, data.labels).item()
    return loss, (logits.argmax(dim=1) == data.labels).sum().item() / len(data.labels)


def _random_state() -> dict[str, Any]:
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": gpus}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
