"""What a transformer makes of one digit in eight poses, for the gallery and the animation."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.distorted import fixed_set, normalize
from pipeline.data.mnist import Digits
from pipeline.figures.gallery import CAPTIONS
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.params import RunParams

POSES = 8
LABEL = 4  # looks like no other digit, and unlike itself, in any pose


def eight_poses(dataset: str, test_digits: Digits, clutter: Tensor) -> Tensor:
    """One test digit in eight poses of the data set, in order where a pose is one number.

    Upright digits have no pose: of `mnist`, it is eight digits of the kind.

    Args:
        dataset: a key of `warps.IMAGE_SIZES`.
        test_digits: as stored.
        clutter: the training images, as stored.

    Returns:
        uint8 `(8, 1, S, S)`, always the same.
    """
    images = test_digits.images[test_digits.labels == LABEL]
    if dataset == "mnist":
        return images[:POSES]
    labels = torch.full((POSES,), LABEL)
    digits, pose = fixed_set(dataset, Digits(images[:1].expand(POSES, -1, -1, -1), labels), clutter)
    return digits.images[pose.argsort()] if pose is not None and pose.dim() == 1 else digits.images


@torch.inference_mode()
def transformed(
    model: SpatialTransformerNetwork, params: RunParams, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample images by the transformation that the transformer predicts for each.

    A transformer of feature maps does not do so: there, it is a way to see its transformation.

    Args:
        model: with a transformer, in evaluation mode, on any device.
        params: dataset, sampler_size and padding_mode are read.
        images: uint8 `(N, 1, S, S)`, on the CPU.

    Returns:
        The images it shows, uint8 `(N, 1, S', S')`, S' being the sampler_size or S, and the outline
        of what it looks at: float32 `(N, 4 S' + 1, 2)`, the points x, y of the outermost pixels,
        normalized, `align_corners=False`, clockwise from the upper left one and back to it.
    """
    device = next(model.parameters()).device
    size = params.sampler_size or images.shape[-1]
    grid = model.grid(normalize(params.dataset, images.to(device)), size).cpu()
    shown = F.grid_sample(images / 255, grid, padding_mode=params.padding_mode, align_corners=False)
    sides = (grid[:, 0], grid[:, :, -1], grid[:, -1].flip(1), grid[:, :, 0].flip(1), grid[:, :1, 0])
    return (shown * 255).round().to(torch.uint8), torch.cat(sides, dim=1)


def poses_file(model: SpatialTransformerNetwork, params: RunParams, poses: Tensor) -> bytes:
    """What the transformer makes of the poses, as an .npz file without pickle.

    In it, see `transformed`: `before` and `after`, uint8 `(8, S, S)` and `(8, S', S')`; `outline`,
    float32 `(8, K, 2)`; and `warps_image`, false where the transformer warps feature maps.
    """
    after, outline = transformed(model, params, poses)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        before=poses.squeeze(1),
        after=after.squeeze(1),
        outline=outline,
        warps_image=_warps_image(model),
    )
    return file.getvalue()


def caption(model: SpatialTransformerNetwork) -> str:
    """What `transformed` shows, in words."""
    return CAPTIONS[_warps_image(model)]


def _warps_image(model: SpatialTransformerNetwork) -> bool:
    return not list(model.stem.children())
