"""Digits in random poses: one function for each data set.

The distributions of the poses are those of arXiv:1506.02025 and arXiv:2004.11678. Other modules
call `distort`, which finds the function of a data set in the table `datasets.DATASETS`. All these
functions have the same arguments:

    digits: float32 `(N, 1, 28, 28)` in [0, 1].
    size: side S of the images to return, in pixels, from the table.
    clutter: `(M, 1, 28, 28)`, uint8 in [0, 255] or float32 in [0, 1], on the same device: images to
        cut clutter from.
    generator: on the device of the digits; None is torch's global generator.

and return `Distorted`. Coordinates are normalized to [-1, 1] over the image, x first, with
`align_corners=False`; a grid holds for each output pixel the input point that it shows, see
`grids.py`.
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pipeline.data.canvas import SQUARE, SQUARES, cut_squares, in_unit_range, paste, paste_scaled
from pipeline.data.datasets import DIGIT, look_up
from pipeline.errors import PipelineError
from pipeline.grids import (
    CONTROL_POINTS,
    CORNERS,
    affine_grid,
    affine_theta,
    homography_grid,
    tps_grid,
)


class Distorted(NamedTuple):
    """Distorted images and the pose that each digit was given.

    Attributes:
        images: float32 `(N, 1, S, S)` in [0, 1].
        pose: float32, or None for a data set without `Pose` in the table. Of a
            rotation: `(N,)`, degrees, counter-clockwise as seen on the screen;
            translation: `(N, 2)`, pixels from the centre, to the right and down;
            scale: `(N,)`, log2 of the factor by which the digit's area grew.
    """

    images: Tensor
    pose: Tensor | None


def distort(
    dataset: str, images: Tensor, clutter: Tensor, *, generator: Generator | None = None
) -> Distorted:
    """Show each digit in a random pose, drawn from the distribution of the data set.

    Args:
        dataset: a name in `DATASETS`; one without distortion returns the images as they are.
        images: `(N, 1, 28, 28)`, uint8 in [0, 255] or float32 in [0, 1].
        clutter: `(M, 1, 28, 28)` of the same kind, on the same device: the training images, also
            where `images` are of the test set. Only `translated` and `scaled` read it.
        generator: on the device of the images; None is torch's global generator.

    Raises:
        PipelineError: if there is no such data set, or if its entry in the table and its function
            do not fit together.
    """
    entry = look_up(dataset)
    digits = in_unit_range(images)
    if entry.distort is None:
        return Distorted(digits, None)
    if entry.pose is not None:
        _function(entry.pose.after, dataset)  # not called before the training has ended
    show = _function(entry.distort, dataset)
    distorted = show(digits, size=entry.size, clutter=clutter, generator=generator)
    shape, expected = tuple(distorted.images.shape), (len(images), 1, entry.size, entry.size)
    if shape != expected:
        raise PipelineError(
            f"data set {dataset}: {entry.distort} returned images of shape {shape}, but by its "
            f"entry in pipeline/data/datasets.py they have {expected}"
        )
    if (distorted.pose is None) != (entry.pose is None):
        raise PipelineError(
            f"data set {dataset}: {entry.distort} must return a pose if its entry in "
            "pipeline/data/datasets.py names one, and only then"
        )
    return distorted


def _function(name: str, dataset: str) -> Callable[..., Any]:
    """The function that the table names as `module:function`."""
    try:
        return resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise PipelineError(
            f"data set {dataset}: {name} was not found ({error}); correct its entry in "
            "pipeline/data/datasets.py"
        ) from error


def rotated(
    digits: Tensor, *, size: int, clutter: Tensor, generator: Generator | None
) -> Distorted:
    """Rotated by -90° to 90° about the centre (arXiv:2004.11678)."""
    degrees = _uniform(digits, -90, 90, shape=(), generator=generator)
    theta = _similarity(
        degrees, torch.ones_like(degrees), torch.zeros(len(digits), 2, device=degrees.device)
    )
    return Distorted(_sample(digits, affine_grid(theta, size, size)), degrees)


def rotated_scaled_translated(
    digits: Tensor, *, size: int, clutter: Tensor, generator: Generator | None
) -> Distorted:
    """Rotated by -45° to 45°, scaled by 0.7 to 1.2, and shifted (arXiv:1506.02025, appendix).

    The shift is random as far as the original image, without rotation, would fit.
    """
    degrees = _uniform(digits, -45, 45, shape=(), generator=generator)
    factor = _uniform(digits, 0.7, 1.2, shape=(), generator=generator)
    room = 1 - DIGIT / size
    shift = _uniform(digits, -room, room, shape=(2,), generator=generator)
    # from normalized coordinates of the output to those of the digit's smaller image
    theta = _similarity(degrees, factor, shift) * (size / DIGIT)
    return Distorted(_sample(digits, affine_grid(theta, size, size)), degrees)


def translated(
    digits: Tensor, *, size: int, clutter: Tensor, generator: Generator | None
) -> Distorted:
    """Shifted by whole pixels to a random place, in clutter (arXiv:2004.11678).

    The image of the digit stays whole. Squares of clutter are added to it, and sums above 1 are set
    to 1, as in the authors' code; so clutter may touch a digit but never erases it.
    """
    count, room = len(digits), size - DIGIT
    corner = _integers(digits, room + 1, shape=(count, 1, 2), generator=generator)
    squares = cut_squares(clutter, count, generator)
    corners = _integers(digits, size - SQUARE + 1, shape=(count, SQUARES, 2), generator=generator)
    canvas = torch.zeros(count, 1, size, size, device=digits.device)
    paste(digits, corners=corner, canvas=canvas)
    paste(squares, corners=corners, canvas=canvas)
    return Distorted(canvas.clamp_(max=1), corner.squeeze(1) - room / 2)


def scaled(digits: Tensor, *, size: int, clutter: Tensor, generator: Generator | None) -> Distorted:
    """Scaled by 0.5 to 4, log-uniform, about the centre, in clutter (arXiv:2004.11678).

    Each square of clutter has a factor of its own from the same distribution and a random place
    where it fits; it is added as in `translated`. (The authors' code draws the squares' sides
    uniformly from 2, 4, …, 18 pixels. That is about as much clutter: a mean area of 127 pixels,
    here 136.)
    """
    # The canvases of more than 64 images do not fit the cache, and take twice as long.
    parts = [
        _scaled(part, size=size, clutter=clutter, generator=generator) for part in digits.split(64)
    ]
    return Distorted(*map(torch.cat, zip(*parts, strict=True)))


def _scaled(
    digits: Tensor, *, size: int, clutter: Tensor, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    octaves = _uniform(digits, -1, 2, shape=(1,), generator=generator)
    factor = octaves.exp2()
    corner = (size - DIGIT * factor) / 2
    canvas = paste_scaled(
        digits, corners=corner.unsqueeze(2).expand(-1, -1, 2), factors=factor, size=size
    )
    squares = cut_squares(clutter, len(digits), generator)
    factors = _uniform(digits, -1, 2, shape=(SQUARES,), generator=generator).exp2()
    corners = _uniform(digits, 0, 1, shape=(SQUARES, 2), generator=generator)
    corners *= (size - SQUARE * factors).unsqueeze(2)
    canvas += paste_scaled(squares, corners=corners, factors=factors, size=size)
    return canvas.clamp_(max=1), 2 * octaves.squeeze(1)


def projective(
    digits: Tensor, *, size: int, clutter: Tensor, generator: Generator | None
) -> Distorted:
    """Scaled by 0.75 to 1, then each corner moved by N(0, 5 pixels) in x and in y.

    See the appendix of arXiv:1506.02025. Corners that do not form a convex quadrilateral, which no
    view of a plane shows, are drawn again.
    """
    corners = _moved_corners(digits, generator)
    while not (convex := _convex(corners)).all():
        corners = torch.where(convex.view(-1, 1, 1), corners, _moved_corners(digits, generator))
    return Distorted(_sample(digits, homography_grid(corners, size, size)), None)


def _moved_corners(digits: Tensor, generator: Generator | None) -> Tensor:
    factor = _uniform(digits, 0.75, 1, shape=(1, 1), generator=generator)
    moves = _normal(digits, 5 * 2 / DIGIT, shape=(4, 2), generator=generator)
    return torch.tensor(CORNERS, device=digits.device) * factor + moves


def _convex(corners: Tensor) -> Tensor:
    """Whether each quadrilateral turns the same way at each corner, as `CORNERS` do; `(N,)`."""
    x, y = (corners.roll(-1, dims=1) - corners).unbind(2)
    return (x * y.roll(-1, dims=1) - y * x.roll(-1, dims=1) > 0).all(dim=1)


def elastic(
    digits: Tensor, *, size: int, clutter: Tensor, generator: Generator | None
) -> Distorted:
    """Scaled by 0.75 to 1 and bent by a thin plate spline, N(0, 1.5 pixels) in x and in y.

    See the appendix of arXiv:1506.02025: the 16 control points lie on a regular grid on the image,
    which here includes its corners. A control point of the output shows the point of the scaled
    digit that lies the random distance away. The spline has therefore the same form as that of a
    transformer with `transform=tps`.
    """
    factor = _uniform(digits, 0.75, 1, shape=(1, 1), generator=generator)
    moves = _normal(digits, 1.5 * 2 / DIGIT, shape=(len(CONTROL_POINTS), 2), generator=generator)
    control = CONTROL_POINTS.to(digits)
    displacements = (control + moves) / factor - control
    return Distorted(_sample(digits, tps_grid(displacements.mT.flatten(1), size, size)), None)


def _similarity(degrees: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """The theta `(N, 6)` that shows an image scaled, rotated counter-clockwise and shifted."""
    zero = torch.zeros_like(degrees)
    return affine_theta(angle=-degrees.deg2rad(), shear=zero, scale=factor, shift=shift)


def _sample(digits: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(digits, grid, padding_mode="zeros", align_corners=False)


def _uniform(
    like: Tensor, low: float, high: float, *, shape: tuple[int, ...], generator: Generator | None
) -> Tensor:
    values = torch.empty(len(like), *shape, device=like.device)
    return values.uniform_(low, high, generator=generator)


def _normal(
    like: Tensor, deviation: float, *, shape: tuple[int, ...], generator: Generator | None
) -> Tensor:
    values = torch.empty(len(like), *shape, device=like.device)
    return values.normal_(0, deviation, generator=generator)


def _integers(
    like: Tensor, end: int, *, shape: tuple[int, ...], generator: Generator | None
) -> Tensor:
    """From 0 to `end` - 1."""
    return torch.randint(end, shape, generator=generator, device=like.device)
