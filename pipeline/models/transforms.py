"""What the transformer may do to an image: the table of transformations, known without torch.

To add a transformation, write a function in `pipeline/grids.py`, from theta to its matrix if it is
affine, else from theta to its grid, and add its entry to `TRANSFORMS`: the parameter `transform`
then allows it, the localization network predicts as many numbers as its identity has, and the tests
of all members include it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the table is read by `--help`, which does without torch
    from torch import Tensor

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the rows of a 2×3 matrix


class Transform(NamedTuple):
    """A kind of transformation, which has either a matrix or a grid.

    identity: the theta that leaves every point where it is; its length is the number of
        parameters P.
    matrix: of an affine transformation, the function from theta `(N, P)` to matrices `(N, 2, 3)`,
        which map output to input coordinates; written as `module:name`. Only such a transformation
        may be iterated.
    grid: of any other transformation, the function from theta `(N, P)`, height and width to a grid
        `(N, height, width, 2)`; written as `module:name`.
    """

    identity: tuple[float, ...]
    matrix: str | None = None
    grid: str | None = None


TRANSFORMS = {
    "affine": Transform(_IDENTITY, matrix="pipeline.grids:affine_matrix"),
    "translation": Transform((0.0, 0.0), matrix="pipeline.grids:translation_matrix"),
    "rotation": Transform((0.0,), matrix="pipeline.grids:rotation_matrix"),
    "similarity": Transform((1.0, 0.0, 0.0, 0.0), matrix="pipeline.grids:similarity_matrix"),
    "projective": Transform((*_IDENTITY, 0.0, 0.0), grid="pipeline.grids:projective_grid"),
    "tps": Transform((0.0,) * 32, grid="pipeline.grids:tps_grid"),
}


@cache
def matrix_function(transform: str) -> Callable[[Tensor], Tensor]:
    """The function from theta `(N, P)` to matrices `(N, 2, 3)` of one of `TRANSFORMS`.

    Raises:
        ValueError: if the transformation is not affine.
    """
    matrix = TRANSFORMS[transform].matrix
    if matrix is None:
        raise ValueError(f"a transformation of the kind {transform} has no affine matrix")
    return pkgutil.resolve_name(matrix)


def sampling_grid(transform: str, theta: Tensor, height: int, width: int) -> Tensor:
    """The grid of one of `TRANSFORMS`.

    Args:
        transform: its name.
        theta: `(N, P)`, finite, with the transformation's number of parameters P.
        height, width: of the output, in pixels.

    Returns:
        `(N, height, width, 2)`, the input coordinates (x, y) that each output pixel shows,
        normalized to [-1, 1], `align_corners=False`; see `pipeline/grids.py`.

    Raises:
        KeyError: for a name that is not in `TRANSFORMS`.

    Example:
        >>> import torch
        >>> sampling_grid("translation", torch.tensor([[0.25, 0.0]]), 1, 2)
        tensor([[[[-0.2500,  0.0000],
                  [ 0.7500,  0.0000]]]])
    """
    return _grid_function(transform)(theta, height, width)


@cache
def _grid_function(transform: str) -> Callable[[Tensor, int, int], Tensor]:
    grid = TRANSFORMS[transform].grid
    if grid is not None:
        return pkgutil.resolve_name(grid)
    from pipeline.grids import affine_grid  # it imports torch

    matrix = matrix_function(transform)
    return lambda theta, height, width: affine_grid(matrix(theta), height, width)
