"""How a convolution and its max-pooling are computed; this is decided here only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.pooled_product import (
    CHANNELS_AT_ONCE,
    constant_contribution,
    pooled_product,
)


class PooledConv2d(nn.Module):
    """`F.max_pool2d(F.conv2d(images, weight, bias), 2)`.

    Values, gradients and initialization are those of `nn.Conv2d(in_channels, out_channels,
    kernel_size, bias=bias)` followed by `nn.MaxPool2d(2)`; see `convolve`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True
    ) -> None:
        super().__init__()
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, bias=bias)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, images: Tensor) -> Tensor:
        return convolve(images, self.weight, self.bias, pool=True)


def convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    constant: Tensor | None = None,
    pool: bool = False,
) -> Tensor:
    """`F.conv2d(images, weight, bias)`, then perhaps `F.max_pool2d(…, 2)`, by the fastest way.

    Args:
        images: `(N, I, H, W)`.
        weight: `(C, I, k, k)`, or `(C, I + J, k, k)` with J more channels that are the same in all
            images, such as coordinates.
        bias: `(C,)`.
        constant: the patches of these J channels, `(H' · W', J k²)`, with H' = H - k + 1 and
            W' = W - k + 1; a row holds what the kernel covers at one place of the output.
        pool: whether max-pooling follows.

    Returns:
        `(N, C, H', W')`, or with `pool` `(N, C, H' // 2, W' // 2)`.
    """
    if pool and bias is not None and _product_is_faster(images, weight):
        return pooled_product(images, weight, bias, constant)
    in_channels = images.shape[1]
    convolved = F.conv2d(images, weight[:, :in_channels], None if pool else bias)
    if constant is not None:
        height = convolved.shape[2]
        added = constant_contribution(weight[:, in_channels:], constant, height)
        convolved = convolved.add_(added)
    if not pool:
        return convolved
    pooled = max_pool(convolved)
    # The bias is added after the pooling: the same result, a quarter of the additions.
    return pooled if bias is None else pooled.add_(bias.view(-1, 1, 1))


def _product_is_faster(images: Tensor, weight: Tensor) -> bool:
    """Whether a pooled convolution is trained with channels that would not fill oneDNN's vectors.

    False where `pooled_product` cannot compute it, which includes an export.
    """
    out_channels, _, kernel_size, _ = weight.shape
    trains = torch.is_grad_enabled() and weight.requires_grad and not torch.compiler.is_exporting()
    fits = kernel_size % 2 == 1 and min(images.shape[2:]) > kernel_size
    fills_vectors = out_channels >= CHANNELS_AT_ONCE and (
        images.shape[1] >= CHANNELS_AT_ONCE or not images.requires_grad
    )
    return trains and fits and images.is_cpu and not fills_vectors


def max_pool(images: Tensor) -> Tensor:
    """`F.max_pool2d(images, 2)`, `(N, C, H, W)` to `(N, C, H // 2, W // 2)`.

    torch's own function also computes the indices for the backward pass where there will be none,
    as in an exported network. On a CPU, maxima of rows and of columns take at most a third of the
    time.
    """
    trains = torch.is_grad_enabled() and not torch.compiler.is_exporting()
    if trains or not images.is_cpu:
        return F.max_pool2d(images, 2)
    height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
    rows = torch.maximum(images[:, :, 0:height:2], images[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
