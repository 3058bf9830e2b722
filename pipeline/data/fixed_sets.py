"""Fixed sets of distorted digits, which models are evaluated on.

Training images are distorted anew in each batch. Test and validation images are distorted once,
by a seed, and kept as uint8, the type that a registered model takes: the scaled test set has
1.25 GB that way, and would have 5 GB as floats.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from pipeline.data.datasets import look_up
from pipeline.data.distortions import distort
from pipeline.data.mnist import Digits

TEST_SEED, VALIDATION_SEED = 0, 1

CHUNK = 100  # images distorted at a time; the images of a fixed set depend on it


class Posed(NamedTuple):
    """A fixed set of digits, and the pose that each was given.

    Attributes:
        digits: images uint8 `(N, 1, S, S)`, S being the data set's size, and labels; on the CPU.
        pose: float32 `(N,)` or `(N, 2)`, or None; see `distortions.Distorted`.
    """

    digits: Digits
    pose: Tensor | None


def posed_test_set(dataset: str, digits: Digits, clutter: Tensor) -> Posed:
    """The test set that models are scored on: each test image in all its copies.

    Args:
        dataset: a name in `DATASETS`, which has the number of copies.
        digits: the test images, as stored.
        clutter: uint8 `(M, 1, 28, 28)`, the training images, as stored.
    """
    return fixed_set(dataset, digits, clutter, copies=look_up(dataset).test_copies)


def fixed_set(
    dataset: str, digits: Digits, clutter: Tensor, *, copies: int = 1, seed: int = TEST_SEED
) -> Posed:
    """Distort each image `copies` times; the same seed gives the same set.

    Args:
        dataset: a name in `DATASETS`; one without distortion returns `digits` themselves.
        digits: as stored; the test images, or those held out for validation.
        clutter: uint8 `(M, 1, 28, 28)`, the training images, as stored.
        copies: a set of fewer copies is the beginning of a set of more.
        seed: of a generator of its own; torch's global generator is not used.

    Returns:
        All images once, then all of them in their second pose, and so on.
    """
    entry = look_up(dataset)
    if entry.distort is None:
        return Posed(digits, None)
    generator = Generator().manual_seed(seed)
    count = len(digits.labels)
    images = torch.empty(copies * count, 1, entry.size, entry.size, dtype=torch.uint8)
    poses = []
    chunks = digits.images.split(CHUNK) * copies
    for target, chunk in zip(images.split([len(chunk) for chunk in chunks]), chunks, strict=True):
        distorted = distort(dataset, chunk, clutter, generator=generator)
        target.copy_(distorted.images.mul_(255).round_())
        poses.append(distorted.pose)
    known = [pose for pose in poses if pose is not None]
    return Posed(Digits(images, digits.labels.repeat(copies)), torch.cat(known) if known else None)
