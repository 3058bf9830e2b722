"""From theta, what a localization network predicts, to a sampling grid.

Coordinates are normalized to [-1, 1], x first, with `align_corners=False`: -1 and 1 are the outer
edges of the border pixels, as in `torch.nn.functional.affine_grid`. A grid tells for each output
(target) pixel which input (source) point it shows, so theta is the inverse of the motion that a
viewer sees. Output and input may differ in size: the grid has the size of the output, and
normalized coordinates do not depend on a size.

The table of transformations is in `pipeline/models/transforms.py`.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

HORIZON = 1e-3  # smallest denominator of a projective map; that of the image's centre is 1


def affine_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """The grid of an affine transformation (arXiv:1506.02025, equation 1).

    Args:
        theta: `(N, 6)` or `(N, 2, 3)`, the matrix that maps output to input coordinates.
        height, width: of the output, in pixels.

    Returns:
        `(N, height, width, 2)`, the input coordinates (x, y) that each output pixel shows.

    Example:
        >>> import torch
        >>> affine_grid(torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]]), 1, 2)
        tensor([[[[-0.5000,  0.0000],
                  [ 0.5000,  0.0000]]]])
    """
    # One matrix product for the batch; torch's affine_grid multiplies a small matrix per image.
    points = theta.reshape(-1, 6) @ _constant(_affine_basis, theta, height, width)
    return points.view(-1, height, width, 2)


def projective_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """The grid of a projective transformation, the 3×3 matrix of homogeneous coordinates.

    Args:
        theta: `(N, 8)`, the rows of the matrix that maps output to input coordinates, without the
            last entry, which is 1.
        height, width: of the output, in pixels.

    Returns:
        `(N, height, width, 2)`, the input coordinates (x, y) that each output pixel shows. A
        denominator below `HORIZON` is replaced by `HORIZON`: beyond the horizon nothing is visible,
        and this puts those pixels far outside the image and keeps grid and gradient finite.
    """
    matrix = torch.cat([theta, torch.ones_like(theta[:, :1])], dim=1).view(-1, 3)
    points = matrix @ _constant(_pixel_centers, theta, height, width)
    x_and_y, denominator = points.view(-1, 3, height, width).split([2, 1], dim=1)
    return (x_and_y / denominator.clamp(min=HORIZON)).permute(0, 2, 3, 1)


def affine_theta(*, angle: Tensor, shear: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The theta that shows an image scaled, then sheared, rotated and shifted.

    The motions are those of `torchvision.transforms.functional.affine`; theta is their inverse.

    Args:
        angle: `(N,)`, radians, clockwise as seen on the screen.
        shear: `(N,)`, radians, along x.
        scale: `(N,)`, greater than 1 magnifies.
        shift: `(N, 2)`, to the right and down, in normalized coordinates: 2 is the image's side.

    Returns:
        `(N, 6)`, for `affine_grid`.
    """
    cos, sin, tan = angle.cos() / scale, angle.sin() / scale, shear.tan()
    inverse = torch.stack([cos - tan * sin, sin + tan * cos, -sin, cos], dim=1).view(-1, 2, 2)
    return torch.cat([inverse, -inverse @ shift.unsqueeze(2)], dim=2).flatten(1)


CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))  # of an image, (x, y), clockwise


def homography_grid(corners: Tensor, height: int, width: int) -> Tensor:
    """The grid that shows an image with its four corners at the given places.

    Args:
        corners: `(N, 4, 2)`, where `CORNERS` of the input appear in the output, in the same order:
            a convex quadrilateral, in normalized coordinates (x, y).
        height, width: of the output, in pixels.

    Returns:
        `(N, height, width, 2)`, the input coordinates (x, y) that each output pixel shows.
        Coordinates beyond ±2, which lie outside the input, are clipped to ±2.
    """
    # Solved from the input to the output and then inverted: this way the denominator is 1 in the
    # middle of the image, which is always in sight.
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
    centers = _constant(_pixel_centers, corners, height, width)
    columns, rows, scale = (matrices @ centers).unbind(1)
    grid = torch.stack([columns / scale, rows / scale], dim=2)
    return grid.clamp_(-2, 2).view(-1, height, width, 2)


def tps_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """The grid of a thin plate spline (Bookstein 1989, doi:10.1109/34.24792; arXiv:1506.02025).

    Args:
        theta: `(N, 32)`, the displacement of each of the 4×4 `CONTROL_POINTS`, in normalized
            coordinates: a control point p of the output shows the input at p + displacement. All
            displacements along x come first, then those along y.
        height, width: of the output, in pixels.

    Returns:
        `(N, height, width, 2)`, the input coordinates (x, y) that each output pixel shows. Between
        the control points, the displacement is the interpolating surface that bends least.
    """
    centers = _constant(_pixel_centers, theta, height, width)
    shares = _constant(_tps_shares, theta, height, width)
    moves = theta.reshape(-1, len(CONTROL_POINTS)) @ shares
    points = centers[:2] + moves.view(-1, 2, height * width)
    return points.view(-1, 2, height, width).permute(0, 2, 3, 1)


def affine_matrix(theta: Tensor) -> Tensor:
    """theta `(N, 6)`, the rows, to matrices `(N, 2, 3)`."""
    return theta.reshape(-1, 2, 3)


def translation_matrix(theta: Tensor) -> Tensor:
    """theta `(N, 2)`, the shift along x and y, to matrices `(N, 2, 3)`."""
    x, y = theta.split(1, dim=1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return torch.cat([one, zero, x, zero, one, y], dim=1).view(-1, 2, 3)


def rotation_matrix(theta: Tensor) -> Tensor:
    """theta `(N, 1)`, an angle in radians, to matrices `(N, 2, 3)`.

    A positive angle rotates the sampled points clockwise as seen on the screen, so the image that
    they show is rotated counter-clockwise. Images that are not square are also sheared.
    """
    cos, sin, zero = theta.cos(), theta.sin(), torch.zeros_like(theta)
    return torch.cat([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)


def similarity_matrix(theta: Tensor) -> Tensor:
    """theta `(N, 4)`, scale · cos(angle), scale · sin(angle), and the shift, to `(N, 2, 3)`.

    The matrix is linear in theta, as in `affine_matrix`, so there is no angle that could grow
    without limit. Directions are those of `rotation_matrix`.
    """
    cos, sin, x, y = theta.split(1, dim=1)
    return torch.cat([cos, -sin, x, sin, cos, y], dim=1).view(-1, 2, 3)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine map that applies `inner` to a point and then `outer`; all `(N, 2, 3)`.

    An image sampled by the grid of `outer`, and the result by that of `inner`, is the image sampled
    once by the grid of `compose(outer, inner)`.
    """
    linear, shift = outer.split([2, 1], dim=2)
    product = linear @ inner
    return torch.cat([product[..., :2], product[..., 2:] + shift], dim=2)


def _constant(of: Callable[..., Tensor], like: Tensor, height: int, width: int) -> Tensor:
    """The result of `of` for this size and the device and dtype of `like`, computed only once."""
    # While a model is exported, tensors are stand-ins without values, which must not be kept.
    call = _call if torch.compiler.is_exporting() else _call_once
    return call(of, height, width, like.device, like.dtype)


def _call(of: Callable[..., Tensor], *arguments: object) -> Tensor:
    with torch.inference_mode(False):  # a training cannot use tensors made in inference mode
        return of(*arguments)


_call_once = lru_cache(maxsize=16)(_call)


def _pixel_centers(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`(3, height · width)`: rows x, y and 1."""
    x = torch.arange(1 - width, width, 2, device=device, dtype=dtype) / width
    y = torch.arange(1 - height, height, 2, device=device, dtype=dtype) / height
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows, torch.ones_like(rows)]).flatten(1)


def _affine_basis(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`(6, height · width · 2)`: what each entry of theta contributes to x and y of each pixel."""
    centers = _pixel_centers(height, width, device, dtype)
    of_x = torch.stack([centers, torch.zeros_like(centers)], dim=2)
    return torch.cat([of_x, of_x.flip(2)]).flatten(1)


def _tps_shares(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`(16, height · width)`: the weight of each control point's displacement at each pixel.

    The spline is linear in the displacements. It is computed in float64, so that the logarithms
    lose no precision.
    """
    centers = _pixel_centers(height, width, device, dtype)
    return (_TPS_SOLUTION.to(device) @ _tps_terms(centers[:2].t().double())).to(dtype)


def _tps_terms(points: Tensor) -> Tensor:
    """The terms whose weighted sum is a spline, at points `(M, 2)` in float64: `(19, M)`.

    They are r² log r², r being the distance to each control point, then 1, x and y.
    """
    offsets = points - CONTROL_POINTS.to(points.device).unsqueeze(1)
    squares = offsets.square().sum(dim=2)
    return torch.cat([torch.xlogy(squares, squares), torch.ones_like(squares[:1]), points.t()])


def _tps_solution() -> Tensor:
    """`(16, 19)`: the weights of the terms in 16 splines, each 1 at one control point, 0 at others.

    They solve Bookstein's system of equations: the spline takes the given values at the control
    points, and its bending part is orthogonal to the affine functions.
    """
    terms = _tps_terms(CONTROL_POINTS)
    system = torch.zeros(19, 19, dtype=torch.float64)
    system[:16] = terms.t()
    system[16:, :16] = terms[16:]
    return torch.linalg.inv(system)[:, :16].t().clone()


_SIDE = torch.linspace(-1, 1, 4, dtype=torch.float64)
CONTROL_POINTS = torch.cartesian_prod(_SIDE, _SIDE).flip(1)  # (16, 2): x and y, row by row
_TPS_SOLUTION = _tps_solution()
