"""Random warps of whole batches, in torch: the augmentation policy and the distorted data sets.

A data set is MNIST in another pose: `distort` shows each digit of a batch rotated, displaced,
scaled or bent at random, by the laws of two papers (arXiv:1506.02025 and arXiv:2004.11678), and
tells the pose that it gave to each.

All geometry is in normalized coordinates, x first, [-1, 1] over the image, `align_corners=False`;
a grid tells for each output pixel which input point it shows, see `grids.py`.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pipeline.grids import CONTROL_POINTS, affine_grid, tps_grid

# the augmentation policy
ROTATION = 15.0  # degrees, either way
TRANSLATION = 0.10  # of the image's side, either way, in each direction
SCALE = (0.85, 1.15)
SHEAR = 10.0  # degrees, either way

DIGIT = 28  # pixels, the side of an MNIST image

# Side of the images of each data set, in pixels. arXiv:1506.02025 names none for its projective
# and its elastic digits. They are no larger than the original, which leaves a margin for what the
# distortion pushes outwards; so the original's side.
IMAGE_SIZES = {
    "mnist": DIGIT,
    "rotated": DIGIT,
    "translated": 60,
    "scaled": 112,
    "rts": 42,
    "projective": DIGIT,
    "elastic": DIGIT,
}

SQUARES = 6  # of clutter in an image
SQUARE = 6  # pixels, the side of each, where it is not scaled


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


class Distorted(NamedTuple):
    """Distorted images and the pose that each digit was given.

    images: float32 `(N, 1, S, S)` in [0, 1], S by `IMAGE_SIZES`.
    pose: what `metrics.pose_deviation` wants, float32:
        rotated, rts: `(N,)`, the rotation in degrees, counter-clockwise as one sees it;
        translated: `(N, 2)`, pixels from the centre, to the right and down;
        scaled: `(N,)`, log2 of the squared factor, by which its area grew;
        and None for the other data sets.
    """

    images: Tensor
    pose: Tensor | None


def distort(
    dataset: str, images: Tensor, clutter: Tensor, generator: Generator | None = None
) -> Distorted:
    """Show each digit in a random pose, by the law of `dataset`.

    Args:
        dataset: a key of `IMAGE_SIZES`; `mnist` leaves the images as they are.
        images: `(N, 1, 28, 28)`, uint8 in [0, 255] or float in [0, 1].
        clutter: `(M, 1, 28, 28)` of the same kind, on the same device: the training images, also
            where `images` are of the test set. Read by `translated` and `scaled`.
        generator: on the device of the images; None is torch's global random state.

    Raises:
        ValueError: for a data set that does not exist.
    """
    digits = _in_unit_range(images)
    match dataset:
        case "mnist":
            return Distorted(digits, None)
        case "rotated":
            return _rotated(digits, generator)
        case "translated":
            return _translated(digits, clutter, generator)
        case "scaled":
            # a larger part than this does not fit the cache, and takes twice as long
            parts = [_scaled(part, clutter, generator) for part in digits.split(64)]
            return Distorted(*map(torch.cat, zip(*parts, strict=True)))
        case "rts":
            return _rotated_scaled_translated(digits, generator)
        case "projective":
            return _projective(digits, generator)
        case "elastic":
            return _elastic(digits, generator)
    raise ValueError(f"dataset: got {dataset!r}; allowed: {', '.join(IMAGE_SIZES)}")


def _rotated(digits: Tensor, generator: Generator | None) -> Distorted:
    """By -90° to 90° about the centre (arXiv:2004.11678)."""
    degrees = _uniform(digits, -90, 90, (), generator)
    theta = _similarity(
        degrees, torch.ones_like(degrees), torch.zeros(len(digits), 2, device=degrees.device)
    )
    return Distorted(_sample(digits, affine_grid(theta, DIGIT, DIGIT)), degrees)


def _rotated_scaled_translated(digits: Tensor, generator: Generator | None) -> Distorted:
    """By -45° to 45° and a factor of 0.7 to 1.2, on 42×42 (arXiv:1506.02025, appendix).

    The place is random as far as the original image, unrotated, would fit.
    """
    size = IMAGE_SIZES["rts"]
    degrees = _uniform(digits, -45, 45, (), generator)
    factor = _uniform(digits, 0.7, 1.2, (), generator)
    room = 1 - DIGIT / size
    shift = _uniform(digits, -room, room, (2,), generator)
    # in normalized units of the canvas, and from there to those of the digit's image
    theta = _similarity(degrees, factor, shift) * (size / DIGIT)
    return Distorted(_sample(digits, affine_grid(theta, size, size)), degrees)


def _translated(digits: Tensor, clutter: Tensor, generator: Generator | None) -> Distorted:
    """At a random place on 60×60, by whole pixels, in clutter (arXiv:2004.11678).

    The image of the digit stays whole. The clutter's squares are added to it and cut off at
    white, as in the authors' code; so they may touch a digit but never erase it.
    """
    size, count = IMAGE_SIZES["translated"], len(digits)
    room = size - DIGIT
    corner = _integers(digits, room + 1, (count, 1, 2), generator)
    squares = _squares(clutter, count, generator)
    corners = _integers(digits, size - SQUARE + 1, (count, SQUARES, 2), generator)
    canvas = torch.zeros(count, 1, size, size, device=digits.device)
    _paste(digits, corner, canvas)
    _paste(squares, corners, canvas)
    return Distorted(canvas.clamp_(max=1), corner.squeeze(1) - room / 2)


def _scaled(digits: Tensor, clutter: Tensor, generator: Generator | None) -> Distorted:
    """By a factor of 0.5 to 4, log-uniform, about the centre of 112×112 (arXiv:2004.11678).

    Of the clutter each square has a factor of its own from the same law and a random place where
    it fits; it is added as in `translated`. (The authors' code draws the squares' sides uniformly
    from 2, 4, …, 18 pixels. That is about as much clutter: a mean area of 127 pixels, here 136.)
    """
    size, count = IMAGE_SIZES["scaled"], len(digits)
    octaves = _uniform(digits, -1, 2, (1,), generator)
    factor = octaves.exp2()
    corner = (size - DIGIT * factor) / 2
    canvas = _placed(digits, corner.unsqueeze(2).expand(-1, -1, 2), factor, size)
    squares = _squares(clutter, count, generator)
    factors = _uniform(digits, -1, 2, (SQUARES,), generator).exp2()
    corners = _uniform(digits, 0, 1, (SQUARES, 2), generator)
    corners *= (size - SQUARE * factors).unsqueeze(2)
    canvas += _placed(squares, corners, factors, size)
    return Distorted(canvas.clamp_(max=1), 2 * octaves.squeeze(1))


def _projective(digits: Tensor, generator: Generator | None) -> Distorted:
    """By a factor of 0.75 to 1, then each corner moved by N(0, 5 pixels) in x and in y.

    arXiv:1506.02025, appendix. Corners that make no convex quadrilateral, in which a plane could
    not be seen, are drawn again.
    """
    corners = _moved_corners(digits, generator)
    while not (convex := _convex(corners)).all():
        corners = torch.where(convex.view(-1, 1, 1), corners, _moved_corners(digits, generator))
    return Distorted(_sample(digits, homography_grid(corners, DIGIT)), None)


def _elastic(digits: Tensor, generator: Generator | None) -> Distorted:
    """By a factor of 0.75 to 1 and a thin plate spline, moved by N(0, 1.5 pixels) in x and y.

    arXiv:1506.02025, appendix: the 16 control points lie on a regular grid on the image, which
    here includes its corners. A control point of the output shows the point of the scaled digit
    that lies the random amount away; so the spline has the form that a transformer with one learns.
    """
    factor = _uniform(digits, 0.75, 1, (1, 1), generator)
    moves = _normal(digits, 1.5 * 2 / DIGIT, (len(CONTROL_POINTS), 2), generator)
    control = CONTROL_POINTS.to(digits)
    displacements = (control + moves) / factor - control
    return Distorted(_sample(digits, tps_grid(displacements.mT.flatten(1), DIGIT, DIGIT)), None)


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


# the corners of an image, around it
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


def homography_grid(corners: Tensor, size: int) -> Tensor:
    """The grid that shows an image with its corners at the given places.

    Args:
        corners: `(N, 4, 2)`, where the corners (-1, -1), (1, -1), (1, 1), (-1, 1) of the input
            appear in the output: a convex quadrilateral, in this order around it.
        size: of the output, in pixels.

    Returns:
        `(N, size, size, 2)`, the input coordinates (x, y) that each output pixel shows; what lies
        outside the input is clipped to 2 away from its centre.
    """
    # From the input to the output and then inverted: this way the denominator is 1 in the middle of
    # the image, which is always in sight.
    u, v = corners.unbind(2)
    x, y = torch.tensor(CORNERS, device=corners.device).T.expand(len(corners), 2, 4).unbind(1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    # u = (h1 x + h2 y + h3) / (h7 x + h8 y + 1) at each corner, times the denominator; v likewise
    equations = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=2),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=2),
        ],
        dim=1,
    )
    solution = torch.linalg.solve(equations, torch.cat([u, v], dim=1))
    matrices = torch.cat([solution, one[:, :1]], dim=1).view(-1, 3, 3).inverse()
    centers = _centers(size, corners.device)
    columns, rows, scale = (matrices @ F.pad(centers, (0, 1), value=1).T).unbind(1)
    grid = torch.stack([columns / scale, rows / scale], dim=2)
    return grid.clamp_(-2, 2).view(-1, size, size, 2)


def _paste(patches: Tensor, corners: Tensor, canvas: Tensor) -> None:
    """Add patches `(N, K, P, P)` to canvases `(N, 1, S, S)`, in place.

    Args:
        corners: int64 `(N, K, 2)`, column and row of each patch's upper left pixel.
    """
    side = torch.arange(patches.shape[-1], device=canvas.device)
    columns, rows = corners[..., None, None].unbind(2)
    pixels = (rows + side.view(-1, 1)) * canvas.shape[-1] + columns + side
    canvas.flatten(1).scatter_add_(1, pixels.flatten(1), patches.flatten(1))


def _placed(patches: Tensor, corners: Tensor, factors: Tensor, size: int) -> Tensor:
    """Enlarge patches bilinearly and add them up on black canvases.

    Args:
        patches: `(N, K, P, P)`, K for each of N canvases.
        corners: `(N, K, 2)`, x and y of each patch's upper left corner, in pixels of the canvas
            from its own upper left corner.
        factors: `(N, K)`, greater than 1 magnifies.
        size: of the canvases, in pixels.

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
    """How much of each of a patch's pixels is in each of the canvas', along one axis.

    Returns:
        `(N, K, patch, size)`; zero where the patch does not reach the centre of a canvas pixel.
    """
    centers = torch.arange(size, device=start.device) + 0.5
    source = (centers - start.unsqueeze(-1)) / factor.unsqueeze(-1)
    inside = (source >= 0) & (source < patch)
    source = (source - 0.5).clamp_(0, patch - 1)  # the outer half of a border pixel repeats it
    source.masked_fill_(~inside, -1)  # where no pixel is near
    distance = source.unsqueeze(-2) - torch.arange(patch, device=start.device).view(-1, 1)
    return distance.abs_().neg_().add_(1).relu_()


def _squares(clutter: Tensor, count: int, generator: Generator | None) -> Tensor:
    """Random 6×6 cuttings of random images, `(count, SQUARES, 6, 6)`; some show no ink."""
    shape, side = (count, SQUARES, 1, 1), torch.arange(SQUARE, device=clutter.device)
    chosen = _integers(clutter, len(clutter), shape, generator)
    row, column = _integers(clutter, DIGIT - SQUARE + 1, (2, *shape), generator)
    return _in_unit_range(clutter[chosen, 0, row + side.view(-1, 1), column + side])


def _moved_corners(digits: Tensor, generator: Generator | None) -> Tensor:
    factor = _uniform(digits, 0.75, 1, (1, 1), generator)
    moves = _normal(digits, 5 * 2 / DIGIT, (4, 2), generator)
    return torch.tensor(CORNERS, device=digits.device) * factor + moves


def _convex(corners: Tensor) -> Tensor:
    """Whether each quadrilateral turns the same way at each corner, as `CORNERS` do; `(N,)`."""
    x, y = (corners.roll(-1, dims=1) - corners).unbind(2)
    return (x * y.roll(-1, dims=1) - y * x.roll(-1, dims=1) > 0).all(dim=1)


def _similarity(degrees: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """The theta that shows an image scaled, rotated counter-clockwise and shifted."""
    return affine_theta(-degrees.deg2rad(), torch.zeros_like(degrees), factor, shift)


def _sample(digits: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(digits, grid, padding_mode="zeros", align_corners=False)


def _centers(size: int, device: torch.device | None = None) -> Tensor:
    """The pixel centres (x, y) of an image, row by row; `(size², 2)`."""
    line = torch.arange(1 - size, size, 2, device=device) / size
    return torch.cartesian_prod(line, line).flip(1)


def _in_unit_range(images: Tensor) -> Tensor:
    return images / 255 if images.dtype == torch.uint8 else images


def _uniform(
    like: Tensor, low: float, high: float, shape: tuple[int, ...], generator: Generator | None
) -> Tensor:
    values = torch.empty(len(like), *shape, device=like.device)
    return values.uniform_(low, high, generator=generator)


def _normal(
    like: Tensor, deviation: float, shape: tuple[int, ...], generator: Generator | None
) -> Tensor:
    values = torch.empty(len(like), *shape, device=like.device)
    return values.normal_(0, deviation, generator=generator)


def _integers(
    like: Tensor, end: int, shape: tuple[int, ...], generator: Generator | None
) -> Tensor:
    """From 0 to `end` - 1."""
    return torch.randint(end, shape, generator=generator, device=like.device)
