"""Mini-batches of a data set that lies in memory, and their normalization."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.data.datasets import look_up


def shuffled_batches(
    images: Tensor, labels: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over all images in random order, from torch's global generator.

    Args:
        images: `(N, C, H, W)`.
        labels: `(N,)`, on the same device.
        batch_size: images per batch; the last batch holds what is left.
    """
    order = torch.randperm(len(labels), device=labels.device)
    for chosen in order.split(batch_size):
        # the same as images[chosen], which takes three times as long
        yield images.index_select(0, chosen), labels.index_select(0, chosen)


def normalize(dataset: str, images: Tensor) -> Tensor:
    """Scale pixels to mean 0 and standard deviation 1 over the data set's training images.

    Args:
        dataset: a name in `DATASETS`, whose mean and standard deviation are used.
        images: any shape, uint8 in [0, 255] or float in [0, 1].

    Returns:
        A new float tensor of the same shape.
    """
    entry = look_up(dataset)
    if images.dtype == torch.uint8:
        images = images / 255
    return images.sub(entry.mean).div_(entry.std)
