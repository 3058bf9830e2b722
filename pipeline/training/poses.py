"""What a transformer does to one digit in eight poses, for the gallery and the animation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.batches import normalize
from pipeline.data.datasets import look_up
from pipeline.data.fixed_sets import fixed_set
from pipeline.data.mnist import Digits
from pipeline.figures.gallery import CAPTIONS
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.params import RunParams
from pipeline.tracking.result_files import Poses, poses_to_npz

POSES = 8
LABEL = 4  # a 4 is not mistaken for another digit or another pose, however it is turned


def eight_poses(dataset: str, test_digits: Digits, clutter: Tensor) -> Tensor:
    """One test digit in eight poses of the data set.

    Where a pose is one number, the images are in its order. Of a data set without distortion, they
    are eight different digits with the same label.

    Args:
        dataset: a name in `DATASETS`.
        test_digits: as stored.
        clutter: the training images, as stored.

    Returns:
        uint8 `(8, 1, S, S)`, S being the data set's size; the same in each run.
    """
    images = test_digits.images[test_digits.labels == LABEL]
    if look_up(dataset).distort is None:
        return images[:POSES]
    labels = torch.full((POSES,), LABEL)
    digits, pose = fixed_set(dataset, Digits(images[:1].expand(POSES, -1, -1, -1), labels), clutter)
    return digits.images[pose.argsort()] if pose is not None and pose.dim() == 1 else digits.images


@torch.inference_mode()
def transformed(
    model: SpatialTransformerNetwork, params: RunParams, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample images by the transformation that the transformer predicts for each.

    A transformer of feature maps applies this transformation to the feature maps only; here it is
    applied to the image, to show it.

    Args:
        model: with a transformer, in evaluation mode, on any device.
        params: dataset, sampler_size and padding_mode are read.
        images: uint8 `(N, 1, S, S)`, on the CPU.

    Returns:
        The transformed images, uint8 `(N, 1, S', S')`, S' being the sampler_size or S; and the
        outline of the region that they show: float32 `(N, 4 S' + 1, 2)`, the centres (x, y) of the
        outermost pixels in the input, normalized to [-1, 1] with `align_corners=False`, clockwise
        from the upper left pixel and back to it.
    """
    device = next(model.parameters()).device
    size = params.sampler_size or images.shape[-1]
    grid = model.grid(normalize(params.dataset, images.to(device)), size).cpu()
    shown = F.grid_sample(images / 255, grid, padding_mode=params.padding_mode, align_corners=False)
    sides = (grid[:, 0], grid[:, :, -1], grid[:, -1].flip(1), grid[:, :, 0].flip(1), grid[:, :1, 0])
    return (shown * 255).round().to(torch.uint8), torch.cat(sides, dim=1)


def poses_file(model: SpatialTransformerNetwork, params: RunParams, poses: Tensor) -> bytes:
    """The poses before and after the transformer, as the content of a `poses.npz`."""
    after, outline = transformed(model, params, poses)
    return poses_to_npz(
        Poses(
            before=poses.squeeze(1).numpy(),
            after=after.squeeze(1).numpy(),
            outline=outline.numpy(),
            warps_image=_warps_image(model),
        )
    )


def caption(model: SpatialTransformerNetwork) -> str:
    """A caption for the images that `transformed` returns."""
    return CAPTIONS[_warps_image(model)]


def _warps_image(model: SpatialTransformerNetwork) -> bool:
    return not list(model.stem.children())
