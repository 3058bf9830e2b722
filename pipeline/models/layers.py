"""The layer constructors that every network is built from.

How a layer computes is decided here only: a faster convolution or pooling goes in here, and the
networks stay as they are.
"""

import torch
from torch import nn

from pipeline.models.coordconv import CoordConv2d
from pipeline.models.pooled import PooledConv2d


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    conv_layer: str = "conv2d",
    radius_center: float = 0.0,
    bias: bool = True,
    pool: bool = False,
    side: int | None = None,
) -> list[nn.Module]:
    """A convolution without padding, `(N, in, H, W)` to `(N, out, H - k + 1, W - k + 1)`.

    Args:
        in_channels, out_channels, kernel_size, bias: as for `nn.Conv2d`.
        conv_layer: `conv2d` or `coordconv2d`.
        radius_center, side: of CoordConv; see `coordconv.AddCoords`.
        pool: then the maximum of each 2×2 block, in the same layer where that is faster: halves
            height and width, rounded down.
    """
    if conv_layer == "coordconv2d":
        return [
            CoordConv2d(in_channels, out_channels, kernel_size, radius_center, bias, side, pool)
        ]
    if pool and bias:
        return [PooledConv2d(in_channels, out_channels, kernel_size)]
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, bias=bias)
    return [layer, nn.MaxPool2d(2)] if pool else [layer]


def halve() -> nn.Module:
    """The mean of each 2×2 block, which is bilinear downsampling by 2."""
    return nn.AvgPool2d(2)


def identity_linear(in_features: int, identity: tuple[float, ...]) -> nn.Linear:
    """The last layer of a localization network: at first, weight 0 and the identity as its bias."""
    layer = nn.Linear(in_features, len(identity))
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(identity))
    return layer
