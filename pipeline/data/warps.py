"""Random warps of whole batches, in torch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.grids import affine_grid

# the augmentation policy
ROTATION = 15.0  # degrees, either way
TRANSLATION = 0.10  # of the image's side, either way, in each direction
SCALE = (0.85, 1.15)
SHEAR = 10.0  # degrees, either way


def augment(images: Tensor) -> Tensor:
    """Rotate, shear, scale and shift each image at random, by the policy above.

    Args:
        images: `(N, C, H, W)`, any float type and device. What comes in from outside repeats the
            border, which in MNIST is background.

    Returns:
        The same shape, sampled bilinearly; from torch's global random state.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape, device=images.device, dtype=images.dtype).uniform_(
            low, high
        )

    theta = affine_theta(
        uniform(-math.radians(ROTATION), math.radians(ROTATION)),
        uniform(-math.radians(SHEAR), math.radians(SHEAR)),
        uniform(*SCALE),
        uniform(-2 * TRANSLATION, 2 * TRANSLATION, 2),
    )
    grid = affine_grid(theta, *images.shape[-2:])
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def affine_theta(angle: Tensor, shear: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The theta that shows an image scaled, then sheared, rotated and shifted.

    The motions are those of `torchvision.transforms.functional.affine`; theta is their inverse.

    Args:
        angle: `(N,)`, radians, clockwise as one sees it.
        shear: `(N,)`, radians, along x.
        scale: `(N,)`, greater than 1 magnifies.
        shift: `(N, 2)`, to the right and down, in normalized units: 2 is the image's side.

    Returns:
        `(N, 6)`; see `grids.affine_grid`.
    """
    cos, sin, tan = angle.cos() / scale, angle.sin() / scale, shear.tan()
    inverse = torch.stack([cos - tan * sin, sin + tan * cos, -sin, cos], dim=1).view(-1, 2, 2)
    return torch.cat([inverse, -inverse @ shift.unsqueeze(2)], dim=2).flatten(1)
