"""Digits and clutter on a larger canvas, for the data sets `translated` and `scaled`.

Clutter is what arXiv:2004.11678 puts around a digit: small squares that are cut out of other
digits. Coordinates here are pixels of the canvas, x to the right and y down, from its upper left
corner.
"""

import torch
from torch import Generator, Tensor

from pipeline.data.datasets import DIGIT

SQUARES = 6  # squares of clutter in an image
SQUARE = 6  # pixels, the side of each before it is scaled


def cut_squares(clutter: Tensor, count: int, generator: Generator | None) -> Tensor:
    """Cut squares out of random images at random places, six for each of `count` canvases.

    Args:
        clutter: `(M, 1, 28, 28)`, uint8 in [0, 255] or float in [0, 1].
        generator: on the device of `clutter`; None is torch's global generator.

    Returns:
        Float `(count, 6, 6, 6)` in [0, 1], squares and then pixels; some squares show no ink.
    """
    shape, device = (count, SQUARES, 1, 1), clutter.device
    chosen = torch.randint(len(clutter), shape, generator=generator, device=device)
    row, column = torch.randint(DIGIT - SQUARE + 1, (2, *shape), generator=generator, device=device)
    side = torch.arange(SQUARE, device=device)
    return in_unit_range(clutter[chosen, 0, row + side.view(-1, 1), column + side])


def paste(patches: Tensor, *, corners: Tensor, canvas: Tensor) -> None:
    """Add patches to canvases, in place, at whole pixels.

    Args:
        patches: `(N, K, P, P)`, K patches for each of N canvases.
        corners: int64 `(N, K, 2)`, x and y of each patch's upper left pixel.
        canvas: `(N, 1, S, S)`.
    """
    side = torch.arange(patches.shape[-1], device=canvas.device)
    columns, rows = corners[..., None, None].unbind(2)
    pixels = (rows + side.view(-1, 1)) * canvas.shape[-1] + columns + side
    canvas.flatten(1).scatter_add_(1, pixels.flatten(1), patches.flatten(1))


def paste_scaled(patches: Tensor, *, corners: Tensor, factors: Tensor, size: int) -> Tensor:
    """Scale patches bilinearly and add them up on black canvases.

    Args:
        patches: `(N, K, P, P)`, K patches for each of N canvases.
        corners: float `(N, K, 2)`, x and y of each scaled patch's upper left corner.
        factors: `(N, K)`, greater than 1 magnifies.
        size: side of the canvases.

    Returns:
        `(N, 1, size, size)`.
    """
    # Without rotation, bilinear sampling is a product of two matrices, one for each axis, and
    # several patches are a longer product. On 112×112 this takes a third of grid_sample's time
    # for one patch, and an eighth for six.
    columns = _interpolation(corners[..., 0], factors, patches.shape[-1], size)
    rows = _interpolation(corners[..., 1], factors, patches.shape[-1], size)
    stretched = (patches @ columns).flatten(1, 2)
    return (rows.flatten(1, 2).mT @ stretched).unsqueeze(1)


def _interpolation(start: Tensor, factor: Tensor, patch: int, size: int) -> Tensor:
    """The weight of each pixel of a patch in each pixel of the canvas, along one axis.

    Returns:
        `(N, K, patch, size)`; 0 where the scaled patch does not cover a canvas pixel's centre.
    """
    centers = torch.arange(size, device=start.device) + 0.5
    source = (centers - start.unsqueeze(-1)) / factor.unsqueeze(-1)
    inside = (source >= 0) & (source < patch)
    source = (source - 0.5).clamp_(0, patch - 1)  # the outer half of a border pixel repeats it
    source.masked_fill_(~inside, -1)  # a distance of at least 1 from every pixel: weight 0
    distance = source.unsqueeze(-2) - torch.arange(patch, device=start.device).view(-1, 1)
    return distance.abs_().neg_().add_(1).relu_()


def in_unit_range(images: Tensor) -> Tensor:
    """Pixels as floats in [0, 1], from uint8 in [0, 255] or from such floats."""
    return images / 255 if images.dtype == torch.uint8 else images
