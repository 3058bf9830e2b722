"""CoordConv: a convolution that also sees where it is (arXiv:1807.03247)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.convolve import convolve


def coordinate_channels(
    height: int,
    width: int,
    radius_center: float,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The channels that CoordConv adds to an image.

    Args:
        height, width: of the image, in pixels.
        radius_center: c; the radius is the distance from the point `(c, c)`. The authors' code
            measures it from the image centre, 0. Several ports measure it from 0.5, the
            predecessor's among them.
        device, dtype: of the result.

    Returns:
        `(1, 3, height, width)`: row and column coordinate, each from -1 in the first row or column
        to 1 in the last, and the radius, in the same unit.
    """
    rows = torch.linspace(-1, 1, height, device=device, dtype=dtype)
    columns = torch.linspace(-1, 1, width, device=device, dtype=dtype)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    radius = torch.hypot(row - radius_center, column - radius_center)
    return torch.stack([row, column, radius]).unsqueeze(0)


class CoordConv2d(nn.Module):
    """`nn.Conv2d` on an image and its three coordinate channels, those of `coordinate_channels`.

    The coordinates are the same for every image, so their contribution is computed once and added
    to all images: conv([x, c]) = conv(x, W_x) + conv(c, W_c). The latter is the product of W_c with
    the patches of c, which are kept as long as c is.

    The coordinates are a buffer that is not saved. They are computed again when the input's size,
    device or dtype changes.

    Args:
        in_channels: of the image, without the coordinates.
        out_channels, kernel_size, bias: as for `nn.Conv2d`.
        radius_center: see `coordinate_channels`.
        side: in pixels, of the whole image, which the coordinates span, where the input may be its
            upper left part only. With None, the coordinates span the input.
    """

    pools = False
    coordinates: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        radius_center: float,
        bias: bool = True,
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.radius_center, self.side = kernel_size, radius_center, side
        self.conv = nn.Conv2d(in_channels + 3, out_channels, kernel_size, bias=bias)
        self.register_buffer("coordinates", torch.empty(1, 3, 0, 0), persistent=False)
        # No buffer: it would be in every archive, where the coordinates are enough.
        self.patches: tuple[Tensor, Tensor] | None = None  # and the coordinates they are of

    def forward(self, images: Tensor) -> Tensor:
        patches = self._patches_for(images)
        return convolve(images, self.conv.weight, self.conv.bias, constant=patches, pool=self.pools)

    def coordinates_for(self, images: Tensor) -> Tensor:
        """`(1, 3, H, W)` for images `(N, C, H, W)`, on their device and in their dtype."""
        height, width = images.shape[-2:]
        known = self.coordinates
        if (*known.shape[-2:], known.device, known.dtype) != (
            height,
            width,
            images.device,
            images.dtype,
        ):
            with torch.inference_mode(False):  # else no training could use them afterwards
                of_whole = coordinate_channels(
                    self.side or height,
                    self.side or width,
                    self.radius_center,
                    images.device,
                    images.dtype,
                )
                self.coordinates = of_whole[:, :, :height, :width].contiguous()
        return self.coordinates

    def _patches_for(self, images: Tensor) -> Tensor:
        """The patches of the coordinates, `(H' · W', 3 k²)`, as of `convolve.convolve`."""
        coordinates = self.coordinates_for(images)
        if torch.compiler.is_exporting():
            return self._patches_of(coordinates)
        if self.patches is None or self.patches[1] is not coordinates:
            with torch.inference_mode(False):  # as for the coordinates
                self.patches = self._patches_of(coordinates), coordinates
        return self.patches[0]

    def _patches_of(self, coordinates: Tensor) -> Tensor:
        return F.unfold(coordinates, self.kernel_size)[0].t().contiguous()


class PooledCoordConv2d(CoordConv2d):
    """`CoordConv2d` followed by `nn.MaxPool2d(2)`."""

    pools = True
