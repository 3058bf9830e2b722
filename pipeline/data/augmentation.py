"""Augmentation of training images: small random rotations, shears, scalings and shifts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.grids import affine_grid, affine_theta

ROTATION = 15.0  # degrees, clockwise or counter-clockwise
TRANSLATION = 0.10  # of the image's side, left or right, up or down
SCALE = (0.85, 1.15)
SHEAR = 10.0  # degrees, in either direction


def augment(images: Tensor) -> Tensor:
    """Rotate, shear, scale and shift each image at random, within the ranges above.

    Args:
        images: `(N, C, H, W)`, any float type and device. Outside of an image its border is
            repeated, which in MNIST is background.

    Returns:
        The same shape, sampled bilinearly. The random numbers come from torch's global generator.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape, device=images.device, dtype=images.dtype).uniform_(
            low, high
        )

    theta = affine_theta(
        angle=uniform(-math.radians(ROTATION), math.radians(ROTATION)),
        shear=uniform(-math.radians(SHEAR), math.radians(SHEAR)),
        scale=uniform(*SCALE),
        shift=uniform(-2 * TRANSLATION, 2 * TRANSLATION, 2),
    )
    grid = affine_grid(theta, *images.shape[-2:])
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
