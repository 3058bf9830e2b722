"""Whether a training has collapsed: it is no better than chance, or its transformer shows nothing.

A collapse does not end a training, and a training seldom recovers from it: where the transformer
shows nothing of the image, no gradient tells it where the image is.
"""

import math

import torch
from torch import Tensor

from pipeline.data.batches import normalize
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.params import RunParams

IMAGES = 100  # that the transformer is tried on after each epoch
STANDARD_ERRORS = 3  # by which an accuracy must exceed that of a constant answer to be better


def collapse_reason(
    network: SpatialTransformerNetwork,
    params: RunParams,
    train_accuracies: list[float],
    *,
    train_labels: Tensor,
    images: Tensor,
) -> str:
    """Why a training counts as collapsed after its last epoch so far; empty if it does not.

    Args:
        network: in evaluation mode.
        params: of the run.
        train_accuracies: of each epoch so far, fractions.
        train_labels: int `(N,)`, of all training images.
        images: uint8 `(M, 1, S, S)`, to try the transformer on.
    """
    device = next(network.parameters()).device
    if shows_nothing(network, normalize(params.dataset, images.to(device))):
        return "the transformer shows nothing of the image"
    return chance_reason(train_accuracies, train_labels, params)


def chance_reason(train_accuracies: list[float], train_labels: Tensor, params: RunParams) -> str:
    """Whether, and since when, the training accuracy is no better than chance; else empty.

    It counts if an earlier epoch was better. A training that has never been better than chance may
    be about to learn; that counts after the last epoch only.
    """
    count = len(train_labels)
    better = [
        accuracy > highest_chance(train_labels, params.images_of_epoch(epoch, count))
        for epoch, accuracy in enumerate(train_accuracies, start=1)
    ]
    accuracy = f"the training accuracy, {train_accuracies[-1]:.2%},"
    if better[-1]:
        return ""
    if any(better):
        return f"{accuracy} is back at chance"
    if len(better) == params.epochs_over(count):
        return f"{accuracy} has never been better than chance"
    return ""


def highest_chance(train_labels: Tensor, images: int) -> float:
    """The highest accuracy, a fraction, that counts as chance on a number of training images.

    A network that always gives the same answer is right as often as the most frequent digit occurs:
    11.24 % of MNIST's training images. On part of the images its accuracy varies, for which
    `STANDARD_ERRORS` of that share are added.
    """
    share = train_labels.bincount().max().item() / len(train_labels)
    return share + STANDARD_ERRORS * math.sqrt(share * (1 - share) / images)


@torch.inference_mode()
def shows_nothing(network: SpatialTransformerNetwork, images: Tensor) -> bool:
    """Whether every point of the sampling grid of each of these images lies outside.

    Outside means beyond the edges of what the transformer is given, the image or feature maps. With
    the padding mode `reflection`, a transformer shows mirror images there, so it shows something.

    Args:
        network: in evaluation mode.
        images: normalized, `(N, 1, S, S)`, on the network's device.
    """
    transformer = network.transformer
    if transformer is None or transformer.padding_mode == "reflection":
        return False
    grid = transformer.grid(network.stem(images))
    return bool((grid.abs() > 1).any(dim=-1).all())
