"""2×2 max-pooling, and a convolution of one-channel images with it, as matrix products.

The classifier's first layer reads one channel, the warped image, and must pass a gradient back to
it. oneDNN pads that channel to sixteen: on a CPU the gradient alone takes a quarter of a training
step. Here the four convolution outputs of a pooling window are four rows of one matrix product: the
kernel moved by (0, 0), (0, 1), (1, 0) and (1, 1), times the patch that the window sees. Gradients
are products with the same matrices.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    """`F.max_pool2d(F.conv2d(images, weight, bias), 2)` for images of one channel.

    Values, gradients and initialization are those of `nn.Conv2d(1, out_channels, kernel_size)`
    followed by `nn.MaxPool2d(2)`; a tie in a window goes to its first output, as there.
    `(N, 1, H, W)` to `(N, out_channels, (H - k + 1) // 2, (W - k + 1) // 2)`.
    """

    weight: Tensor
    bias: Tensor
    moves: Tensor

    def __init__(self, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.pool = MaxPool2x2()
        plain = nn.Conv2d(1, out_channels, kernel_size)
        self.weight, self.bias = plain.parameters()
        self.kernel_size = kernel_size
        self.span = kernel_size // 2 + 1  # of the side of the patch that a window sees
        # The kernel moved to each place in the window, as a matrix of zeros and ones: so the four
        # kernels, and the gradient of the one, are a small product each.
        spare = 2 * self.span - kernel_size
        taps = torch.eye(kernel_size**2).view(-1, kernel_size, kernel_size)
        places = [(down, right) for down in (0, 1) for right in (0, 1)]
        moved = torch.stack(
            [F.pad(taps, (right, spare - right, down, spare - down)) for down, right in places],
            dim=1,
        )
        # columns: place in the window, then row and column in the patch, by pairs of pixels
        moved = moved.view(-1, 4, self.span, 2, self.span, 2).permute(0, 1, 2, 4, 3, 5)
        self.register_buffer("moves", moved.flatten(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if not (images.requires_grad and images.is_cpu):  # without that gradient, oneDNN is as fast
            return self.pool(F.conv2d(images, self.weight, self.bias))
        rows, columns = images.shape[2:]
        height, width = (rows - self.kernel_size + 1) // 2, (columns - self.kernel_size + 1) // 2
        at_once = max(8, WINDOWS // (height * width))
        if len(images) <= at_once:
            return self._pooled(images, height, width)
        return torch.cat([self._pooled(part, height, width) for part in images.split(at_once)])

    def _pooled(self, images: Tensor, height: int, width: int) -> Tensor:
        count, _, rows, columns = images.shape
        tall, wide = height + self.span - 1, width + self.span - 1
        # pixels by their place in pairs of rows and columns: (4, N, tall, wide)
        if (rows, columns) != (2 * tall, 2 * wide):  # F.pad copies even where it adds nothing
            images = F.pad(images, (0, 2 * wide - columns, 0, 2 * tall - rows))
        pixels = images.reshape(count, tall, 2, wide, 2).permute(2, 4, 0, 1, 3)
        pixels = pixels.reshape(4, count, tall, wide)
        kernels = (self.weight.flatten(1) @ self.moves).view(-1, 4, 4 * self.span**2)
        kernels = kernels.transpose(0, 1).flatten(0, 1)
        pooled = _ProductMax.apply(pixels, kernels, height, width)
        pooled = pooled.view(-1, count, height, width) + self.bias.view(-1, 1, 1, 1)
        return pooled.transpose(0, 1).contiguous(memory_format=torch.channels_last)


class _ProductMax(torch.autograd.Function):
    """Pixels `(4, N, h, w)` and kernels `(4 C, 4 m²)` to the maxima of the windows `(C, N H W)`.

    A window's maximum is found as in a tournament. Each comparison is kept as 0 or 1 in the
    numbers' own type: on a CPU, torch multiplies by a boolean mask six times slower.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, kernels: Tensor, height: int, width: int) -> Tensor:
        patches = pixels.unfold(2, height, 1).unfold(3, width, 1)  # (4, N, m, m, H, W)
        patches = patches.permute(2, 3, 0, 1, 4, 5).reshape(kernels.shape[1], -1)
        # one row of the window after the other, so that the second finds warm memory
        first, second, third, fourth = kernels.chunk(4)
        upper, second_won = _match(first @ patches, second @ patches)
        lower, fourth_won = _match(third @ patches, fourth @ patches)
        best, lower_won = _match(upper, lower)
        ctx.save_for_backward(kernels, patches, second_won, fourth_won, lower_won)
        ctx.pixels, ctx.window = pixels.shape, (height, width)
        return best

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        kernels, patches, second_won, fourth_won, lower_won = ctx.saved_tensors
        outputs = gradient.new_empty(4, *gradient.shape)
        first, second, third, fourth = outputs
        torch.mul(gradient, lower_won, out=third)
        torch.sub(gradient, third, out=first)
        torch.mul(first, second_won, out=second)
        first.sub_(second)
        torch.mul(third, fourth_won, out=fourth)
        third.sub_(fourth)
        outputs = outputs.view(len(kernels), -1)
        height, width = ctx.window
        of_patches = (kernels.t() @ outputs).view(-1, *ctx.pixels[:2], height, width)
        span = ctx.pixels[2] - height + 1
        of_pixels = gradient.new_zeros(ctx.pixels)
        for number, part in enumerate(of_patches):
            row, column = divmod(number, span)
            of_pixels[:, :, row : row + height, column : column + width].add_(part)
        return of_pixels, outputs @ patches.t(), None, None


def _match(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The larger numbers, written over `one`, and where `other` won: 1, elsewhere and on ties 0."""
    other_won = torch.gt(other, one, out=torch.empty_like(one))
    return torch.maximum(one, other, out=one), other_won
