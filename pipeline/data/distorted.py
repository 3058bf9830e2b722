"""The distorted data sets: fixed sets to evaluate on, and the constants that normalize them.

Training images are distorted anew in each batch, by `warps.distort`. What is evaluated on is
distorted once, by a seed, and kept as uint8: the scaled test set is 1.25 GB, which as floats would
be 5 GB. So are the pixels that a registered model is given, which takes uint8.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from pipeline.data.mnist import Digits
from pipeline.data.warps import IMAGE_SIZES, distort

# Mean and standard deviation of the pixels, in [0, 1], of each data set: of the 60,000 training
# images, distorted once; tests/data/test_distorted.py holds them to it. (The authors of
# arXiv:2004.11678 note in their code that they measured 0.1302 and 0.2892 for rotated, 0.0394 and
# 0.1798 for translated digits.)
NORMALIZATION = {
    "mnist": (0.1307, 0.3081),
    "rotated": (0.1306, 0.2898),
    "translated": (0.0394, 0.1797),
    "scaled": (0.0429, 0.1779),
    "rts": (0.0536, 0.1961),
    "projective": (0.0884, 0.2454),
    "elastic": (0.1001, 0.2590),
}

# Transformed copies of each test image. The authors' code evaluates ten times, each time with the
# whole test set in new poses; arXiv:1506.02025 does not say so of its data sets.
TEST_COPIES = {"rotated": 10, "translated": 10, "scaled": 10}
TEST_SEED, VALIDATION_SEED = 0, 1

CHUNK = 100  # images distorted at a time; the images of a fixed set depend on it


class Posed(NamedTuple):
    """A fixed set of digits, and the pose that each was given.

    digits: uint8 `(N, 1, S, S)`, S by `warps.IMAGE_SIZES`, on the CPU.
    pose: float32 `(N,)` or `(N, 2)`, or None; see `warps.Distorted`.
    """

    digits: Digits
    pose: Tensor | None


def posed_test_set(dataset: str, digits: Digits, clutter: Tensor) -> Posed:
    """What a model is scored on: every test image in all its poses; see `fixed_set`."""
    return fixed_set(dataset, digits, clutter, TEST_COPIES.get(dataset, 1))


def fixed_set(
    dataset: str, digits: Digits, clutter: Tensor, copies: int = 1, seed: int = TEST_SEED
) -> Posed:
    """Distort each image `copies` times; the same seed gives the same set.

    Args:
        dataset: a key of `warps.IMAGE_SIZES`; `mnist` leaves the digits as they are.
        digits: as stored; the test images, or those held out for validation.
        clutter: uint8 `(M, 1, 28, 28)`, the training images.
        copies: fewer of them are the beginning of more.

    Returns:
        All images once, then all of them in their second pose, and so on.
    """
    if dataset == "mnist":
        return Posed(digits, None)
    generator = Generator().manual_seed(seed)
    size, count = IMAGE_SIZES[dataset], len(digits.labels)
    images = torch.empty(copies * count, 1, size, size, dtype=torch.uint8)
    poses = []
    chunks = digits.images.split(CHUNK) * copies
    for target, chunk in zip(images.split([len(chunk) for chunk in chunks]), chunks, strict=True):
        distorted = distort(dataset, chunk, clutter, generator)
        target.copy_(distorted.images.mul_(255).round_())
        poses.append(distorted.pose)
    known = [pose for pose in poses if pose is not None]
    return Posed(Digits(images, digits.labels.repeat(copies)), torch.cat(known) if known else None)


def normalize(dataset: str, images: Tensor) -> Tensor:
    """Pixels, uint8 or in [0, 1], to mean 0 and standard deviation 1 over the data set."""
    mean, deviation = NORMALIZATION[dataset]
    if images.dtype == torch.uint8:
        images = images / 255
    return images.sub(mean).div_(deviation)
