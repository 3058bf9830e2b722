"""The layers that every network is built from.

The convolution layers that may be chosen are in `conv_layers.py`. `convolve.py` computes them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.conv_layers import ConvLayer
from pipeline.models.layer_class import check_output, construct


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    layer: ConvLayer,
    settings: Mapping[str, Any],
    bias: bool = True,
    pool: bool = False,
    side: int | None = None,
) -> list[nn.Module]:
    """A convolution layer without padding, and its pooling.

    Args:
        in_channels, out_channels, kernel_size, bias: as for `nn.Conv2d`.
        layer: its kind, with its class.
        settings: values by name, which hold those that the layer's entry names, except `side`.
        pool: whether the maximum of each 2×2 block follows, which halves height and width, rounded
            down.
        side: of the whole image or feature map, in pixels. The layer may be given only the upper
            left part of it. None if the layer is given the whole.

    Returns:
        The modules to be applied one after another, one where the layer also pools. Together they
        map `(N, in, H, W)` to `(N, out, H - k + 1, W - k + 1)`, and pooled to half of that.

    Raises:
        PipelineError: if a setting is missing, or if the layer's class is not found, refuses
            these arguments, or returns another shape.
    """
    together = layer.pooled if pool else None
    available = {**settings, "side": side}
    missing = ", ".join(name for name in layer.settings if name not in available)
    if missing:
        raise PipelineError(f"layer_settings: the layer {layer.layer} also needs: {missing}")
    convolution = construct(
        together or layer.layer,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel_size,
        bias=bias,
        **{name: available[name] for name in layer.settings},
    )
    if side is not None and not together:
        expected = (out_channels, side - kernel_size + 1)
        check_output(convolution, layer.layer, (in_channels, side), expected)
    return [convolution, nn.MaxPool2d(2)] if pool and not together else [convolution]


def identity_linear(in_features: int, identity: tuple[float, ...]) -> nn.Linear:
    """The last layer of a localization network: at first, weight 0 and the identity as its bias."""
    layer = nn.Linear(in_features, len(identity))
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(identity))
    return layer
