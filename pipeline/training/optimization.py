"""The optimizer, the schedule of the learning rate, and an average of the weights."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.data.datasets import DATASETS
from pipeline.models.stn import SpatialTransformerNetwork, localization_parameters
from pipeline.params import RunParams


def sgd(model: nn.Module, params: RunParams) -> Optimizer:
    """SGD as `lr`, `localization_lr_scale`, `momentum` and `weight_decay` say.

    The weight decay is torch's, an L2 penalty on all weights, biases and normalizations included.
    """
    return torch.optim.SGD(
        _parameter_groups(model, params),
        lr=params.lr,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        fused=True,
    )


def _parameter_groups(model: nn.Module, params: RunParams) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: two if the localization network's learning rate differs."""
    if params.localization_lr_scale == 1 or not isinstance(model, SpatialTransformerNetwork):
        return [{"params": list(model.parameters())}]
    own = localization_parameters(model)
    known = set(own)
    others = [parameter for parameter in model.parameters() if parameter not in known]
    scaled = [{"params": own, "lr": params.lr * params.localization_lr_scale}] if own else []
    return [{"params": others}, *scaled]


def lr_schedule(optimizer: Optimizer, params: RunParams, image_count: int) -> LRScheduler:
    """The schedule of the learning rate, which advances as `params.decays_by_step` says.

    `schedule=step` multiplies the learning rate by `lr_gamma` every `lr_step` epochs. `cosine`
    lowers it along half a cosine from `lr` in the first step to nearly 0 in the last one
    (SGDR without restarts, arXiv:1608.03983).

    Args:
        image_count: of the training set.
    """
    if params.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=params.steps_in_all(image_count))
    return StepLR(optimizer, params.lr_step_iterations or params.lr_step, params.lr_gamma)


def averaged_model(model: nn.Module, params: RunParams) -> AveragedModel | None:
    """A copy of the network whose weights are an exponential moving average; None without one.

    After each training step, `averaged = ema_decay * averaged + (1 - ema_decay) * weights`. The
    statistics of batch normalization are averaged in the same way.

    Args:
        model: of `params.dataset`'s images, on the device of the training.
    """
    if params.ema_decay == 0:
        return None
    side = DATASETS[params.dataset].size
    device = next(model.parameters()).device
    # A layer may fill its buffers at the first image, and the copy must have them in their size.
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, side, side, device=device))
    return AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(params.ema_decay), use_buffers=True
    )
