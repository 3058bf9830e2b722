"""CoordConv: a convolution that also sees where it is (arXiv:1807.03247)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.pooled import max_pool, of_constant, pooled_convolution


def coordinate_channels(
    height: int,
    width: int,
    radius_center: float = 0.0,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The channels that CoordConv adds to an image.

    Args:
        height, width: of the image, in pixels.
        radius_center: the radius is the distance from `(c, c)`. The authors' code measures it from
            the image centre, 0; several ports, the predecessor's among them, from 0.5.
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


class AddCoords(nn.Module):
    """`(N, C, H, W)` to `(N, C + 3, H, W)`: append the channels of `coordinate_channels`.

    They are a buffer that is not saved, made anew when the input's size, device or dtype changes.

    Args:
        radius_center: see `coordinate_channels`.
        side: of the image that the coordinates span, in pixels, where what comes in may be its
            upper left part only; None: they span what comes in.
    """

    coordinates: Tensor

    def __init__(self, radius_center: float = 0.0, side: int | None = None) -> None:
        super().__init__()
        self.radius_center = radius_center
        self.side = side
        self.register_buffer("coordinates", torch.empty(1, 3, 0, 0), persistent=False)

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

    def forward(self, images: Tensor) -> Tensor:
        coordinates = self.coordinates_for(images).expand(images.shape[0], -1, -1, -1)
        return torch.cat([images, coordinates], dim=1)


class CoordConv2d(nn.Module):
    """`nn.Conv2d` on an image and its three coordinate channels, `conv(AddCoords(images))`.

    The coordinates are the same for every image, so their part of the convolution is computed for
    one image and added to all: conv([x, c]) = conv(x, W_x) + conv(c, W_c). The latter is the
    product of W_c with the patches of c, which are kept as long as c is.

    Args:
        in_channels: of the image, without the coordinates.
        out_channels, kernel_size, bias: as for `nn.Conv2d`.
        radius_center, side: see `AddCoords`.
        pool: then `nn.MaxPool2d(2)` of that.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        radius_center: float = 0.0,
        bias: bool = True,
        side: int | None = None,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.kernel_size = kernel_size
        self.pool = pool
        self.add_coords = AddCoords(radius_center, side)
        self.conv = nn.Conv2d(in_channels + 3, out_channels, kernel_size, bias=bias)
        # No buffer: it would be in every archive, where the coordinates are enough.
        self.patches: tuple[Tensor, Tensor] | None = None  # and what they are of

    def forward(self, images: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        patches = self._patches_for(images)
        if self.pool and bias is not None:
            return pooled_convolution(images, weight, bias, patches)
        of_images, of_coordinates = weight.split([self.in_channels, 3], dim=1)
        convolved = F.conv2d(images, of_images, bias)
        convolved = convolved.add_(of_constant(of_coordinates, patches, convolved.shape[2]))
        return max_pool(convolved) if self.pool else convolved

    def _patches_for(self, images: Tensor) -> Tensor:
        """`(H' · W', 3 k²)`: what each place of the output sees of the coordinates."""
        coordinates = self.add_coords.coordinates_for(images)
        if torch.compiler.is_exporting():
            return self._patches_of(coordinates)
        if self.patches is None or self.patches[1] is not coordinates:
            with torch.inference_mode(False):  # as for the coordinates
                self.patches = self._patches_of(coordinates), coordinates
        return self.patches[0]

    def _patches_of(self, coordinates: Tensor) -> Tensor:
        return F.unfold(coordinates, self.kernel_size)[0].t().contiguous()
