"""2×2 max-pooling, and a convolution followed by it.

The classifier's first convolution reads one channel, the warped image, and must pass a gradient
back to it. oneDNN pads that channel to sixteen: on a CPU the gradient alone takes a quarter of a
training step. `_PooledProduct` does it as matrix products: the four convolution outputs of a
pooling window are the kernel moved by (0, 0), (0, 1), (1, 0) and (1, 1), times the patch that the
window sees. Gradients are products with the same matrices.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Computed at once, to stay in the cache: large batches or images take up to 40 % less time so.
WINDOWS = 10_000


class MaxPool2x2(nn.Module):
    """`nn.MaxPool2d(2)`, `(N, C, H, W)` to `(N, C, H // 2, W // 2)`.

    torch's own computes the indices for the backward pass also where there will be none. On a CPU,
    maxima of rows and of columns take a third of the time or less.
    """

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not images.is_cpu:
            return F.max_pool2d(images, 2)
        height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
        rows = torch.maximum(images[:, :, 0:height:2], images[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


class PooledConv2d(nn.Module):
    """`F.max_pool2d(F.conv2d(images, weight, bias), 2)`.

    Values, gradients and initialization are those of `nn.Conv2d(in_channels, out_channels,
    kernel_size)` followed by `nn.MaxPool2d(2)`; a tie in a window goes to its first output, as
    there. `(N, in, H, W)` to `(N, out, (H - k + 1) // 2, (W - k + 1) // 2)`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.pool = MaxPool2x2()
        plain = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.weight, self.bias = plain.parameters()

    def forward(self, images: Tensor) -> Tensor:
        _, channels, kernel_size, _ = self.weight.shape
        backwards = torch.is_grad_enabled() and images.requires_grad
        # of more channels, without a gradient to pass back, or on a GPU, the usual way is as fast
        if channels > 1 or not backwards or not images.is_cpu:
            # a bias before the pooling comes to the same, for four times the work
            return self.pool(F.conv2d(images, self.weight)).add_(self.bias.view(-1, 1, 1))
        rows, columns = (side - kernel_size + 1 for side in images.shape[2:])
        at_once = max(8, WINDOWS // (rows // 2 * (columns // 2)))
        parts = [
            _PooledProduct.apply(part, self.weight, self.bias) for part in images.split(at_once)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class _PooledProduct(torch.autograd.Function):
    """Images `(N, 1, H, W)`, weight `(C, 1, k, k)` and bias `(C,)` to `(N, C, h, w)`, on a CPU.

    A window sees 2m rows and columns of an image, m = k // 2 + 1. Its pixels are taken by their
    place in pairs of rows and columns, so that windows next to each other see shifted pairs.

    A window's maximum is found as in a tournament, left against right and upper against lower. Each
    comparison is kept as 0 or 1 in the numbers' own type: torch multiplies by a boolean mask six
    times slower.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        channels, _, kernel_size, _ = weight.shape
        count, _, rows, columns = images.shape
        height, width = (rows - kernel_size + 1) // 2, (columns - kernel_size + 1) // 2
        m = kernel_size // 2 + 1
        tall, wide = height + m - 1, width + m - 1  # pairs of rows and of columns that are seen
        fit = (0, 2 * wide - columns, 0, 2 * tall - rows)  # negative where some are not seen
        if any(fit):  # F.pad copies even where it adds nothing
            images = F.pad(images, fit)
        pairs = images.reshape(count, tall, 2, wide, 2).permute(2, 4, 0, 1, 3).contiguous()
        windows = pairs.unfold(3, height, 1).unfold(4, width, 1)  # (2, 2, N, m, m, h, w)
        total = count * height * width
        # Rows that lie a multiple of 4096 bytes apart share their places in the cache: the products
        # would take a third longer.
        stride = total + 16 if total % 1024 == 0 else total
        patches = images.new_empty(4 * m**2, stride)[:, :total]
        patches.view(m, m, 2, 2, count, height, width).copy_(windows.permute(3, 4, 0, 1, 2, 5, 6))

        moves = _moves(kernel_size, weight.dtype)
        kernels = (weight.flatten(1) @ moves).flatten(0, 1)  # of the four places, (4 C, 4 m²)
        left, right = (kernels @ patches).view(2, 2, channels, total).unbind(1)
        (upper, lower), right_won = _match(left, right)
        best, lower_won = _match(upper, lower)
        ctx.save_for_backward(kernels, moves, patches, right_won, lower_won)
        ctx.weight, ctx.fit = weight.shape, fit
        ctx.sizes = m, count, tall, wide, height, width
        pooled = torch.empty(
            (count, channels, height, width),
            dtype=images.dtype,
            memory_format=torch.channels_last,
        )
        best = best.view(channels, count, height, width).transpose(0, 1)
        return torch.add(best, bias.view(-1, 1, 1), out=pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kernels, moves, patches, right_won, lower_won = ctx.saved_tensors
        m, count, tall, wide, height, width = ctx.sizes
        gradient = gradient.transpose(0, 1).flatten(1)
        halves = gradient.new_empty(2, *gradient.shape)  # of a window, upper and lower
        torch.mul(gradient, lower_won, out=halves[1])
        torch.sub(gradient, halves[1], out=halves[0])
        outputs = gradient.new_empty(2, 2, *gradient.shape)
        torch.mul(halves, right_won, out=outputs[:, 1])
        torch.sub(halves, outputs[:, 1], out=outputs[:, 0])
        outputs = outputs.flatten(0, 2)
        of_kernels = (outputs @ patches.t()).view(4, -1, len(patches))
        of_weight = (of_kernels @ moves.transpose(1, 2)).sum(0).view(ctx.weight)

        of_patches = (kernels.t() @ outputs).view(m, m, 2, 2, count, height, width)
        of_columns = gradient.new_zeros(m, 2, 2, count, tall, width)
        for row, part in enumerate(of_patches):
            of_columns[..., row : row + height, :].add_(part)
        of_pairs = gradient.new_zeros(2, 2, count, tall, wide)
        for column, part in enumerate(of_columns):
            of_pairs[..., column : column + width].add_(part)
        of_images = of_pairs.permute(2, 3, 0, 4, 1).reshape(count, 1, 2 * tall, 2 * wide)
        if any(ctx.fit):
            of_images = F.pad(of_images, [-added for added in ctx.fit])
        return of_images, of_weight, gradient.sum(1)


@lru_cache(maxsize=8)
def _moves(kernel_size: int, dtype: torch.dtype) -> Tensor:
    """Matrices `(4, k², 4 m²)` of zeros and ones: a kernel times them is the kernel in each place.

    A column is a pixel of the patch: pair of rows, pair of columns, row and column in the pair.
    """
    m = kernel_size // 2 + 1
    spare = 2 * m - kernel_size
    taps = torch.eye(kernel_size**2, dtype=dtype).view(-1, kernel_size, kernel_size)
    places = [(down, right) for down in (0, 1) for right in (0, 1)]
    moved = torch.stack(
        [F.pad(taps, (right, spare - right, down, spare - down)) for down, right in places]
    )
    return moved.view(4, -1, m, 2, m, 2).transpose(3, 4).flatten(2)


def _match(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The larger numbers, written over `one`, and where `other` won: 1, elsewhere and on ties 0."""
    other_won = torch.gt(other, one, out=torch.empty_like(one))
    return torch.maximum(one, other, out=one), other_won
