"""From theta, what a localization network predicts, to a sampling grid.

Coordinates are normalized to [-1, 1], x first, with `align_corners=False`: -1 and 1 are the outer
edges of the border pixels, as in `torch.nn.functional.affine_grid`. A grid tells for each output
(target) pixel which input (source) point it shows, so theta is the inverse of the motion that a
viewer sees.
"""

import torch
from torch import Tensor

AFFINE_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def affine_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """The grid of an affine transformation (arXiv:1506.02025, equation 1).

    Args:
        theta: `(N, 6)`, the rows of the 2×3 matrix that maps output to input coordinates.
        height, width: of the output, in pixels.

    Returns:
        `(N, height, width, 2)`, the input coordinates (x, y) that each output pixel shows.

    Example:
        >>> import torch
        >>> affine_grid(torch.tensor([AFFINE_IDENTITY]), 1, 2)
        tensor([[[[-0.5000,  0.0000],
                  [ 0.5000,  0.0000]]]])
    """
    # One product with all pixel centres, where torch's affine_grid multiplies small matrices
    # image by image.
    x = torch.arange(1 - width, width, 2, device=theta.device, dtype=theta.dtype) / width
    y = torch.arange(1 - height, height, 2, device=theta.device, dtype=theta.dtype) / height
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    centers = torch.stack([columns, rows, torch.ones_like(rows)]).flatten(1)
    return (theta.reshape(-1, 3) @ centers).view(-1, 2, height, width).permute(0, 2, 3, 1)
