"""2×2 max-pooling, and a convolution followed by it.

oneDNN, which does torch's convolutions on a CPU, computes 16 channels at a time: of what is
written and, for the gradient, of what was read. Many convolutions here have fewer. Where they do
not fill oneDNN's vectors, `_PooledProduct` computes convolution and pooling as matrix products
along the batch. What that earns depends on the CPU: (c)/(d) in results/throughput.md.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHANNELS_AT_ONCE = 16  # of oneDNN with AVX-512
WINDOWS_AT_ONCE = 10_000  # of `_PooledProduct`: large images take up to a third less time so


def max_pool(images: Tensor) -> Tensor:
    """`F.max_pool2d(images, 2)`, `(N, C, H, W)` to `(N, C, H // 2, W // 2)`.

    torch's own computes the indices for the backward pass also where there will be none, as in what
    is exported. On a CPU, maxima of rows and of columns take a third of the time or less.
    """
    trains = torch.is_grad_enabled() and not torch.compiler.is_exporting()
    if trains or not images.is_cpu:
        return F.max_pool2d(images, 2)
    height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
    rows = torch.maximum(images[:, :, 0:height:2], images[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


class PooledConv2d(nn.Module):
    """`F.max_pool2d(F.conv2d(images, weight, bias), 2)`.

    Values, gradients and initialization are those of `nn.Conv2d(in_channels, out_channels,
    kernel_size)` followed by `nn.MaxPool2d(2)`; see `pooled_convolution`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        plain = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.weight, self.bias = plain.parameters()

    def forward(self, images: Tensor) -> Tensor:
        return pooled_convolution(images, self.weight, self.bias)


def pooled_convolution(
    images: Tensor, weight: Tensor, bias: Tensor, constant: Tensor | None = None
) -> Tensor:
    """`F.max_pool2d(F.conv2d(images, weight, bias), 2)`, some of whose channels may be constant.

    Of outputs that are equal the first counts, as there. But outputs that differ by rounding only,
    as on a constant background, may round apart in another way, and pass their gradient to another.

    Args:
        images: `(N, I, H, W)`.
        weight: `(C, I, k, k)`, or `(C, I + J, k, k)` with J more channels that are the same in all
            images.
        bias: `(C,)`.
        constant: what each place of the output sees of these, `(H' · W', J k²)`, with
            H' = H - k + 1 and W' = W - k + 1.

    Returns:
        `(N, C, (H - k + 1) // 2, (W - k + 1) // 2)`.
    """
    out_channels, _, kernel_size, _ = weight.shape
    in_channels = images.shape[1]
    trains = torch.is_grad_enabled() and weight.requires_grad and not torch.compiler.is_exporting()
    fills_vectors = out_channels >= CHANNELS_AT_ONCE and (
        in_channels >= CHANNELS_AT_ONCE or not images.requires_grad
    )
    height, width = ((side - kernel_size + 1) // 2 for side in images.shape[2:])
    fits = kernel_size % 2 == 1 and min(height, width) > 0
    if trains and fits and images.is_cpu and not fills_vectors:
        at_once = max(8, WINDOWS_AT_ONCE // (height * width))
        if len(images) <= at_once:
            return _PooledProduct.apply(images, weight, bias, constant)
        parts = images.split(at_once)
        return torch.cat([_PooledProduct.apply(part, weight, bias, constant) for part in parts])
    convolved = F.conv2d(images, weight[:, :in_channels])
    if constant is not None:
        shift = of_constant(weight[:, in_channels:], constant, convolved.shape[2])
        convolved = convolved.add_(shift)
    # a bias before the pooling comes to the same, for four times the work
    return max_pool(convolved).add_(bias.view(-1, 1, 1))


def of_constant(weight: Tensor, constant: Tensor, rows: int) -> Tensor:
    """What constant channels add to a convolution, `(C, H', W')`, the same for all images.

    Args:
        weight: the part of theirs, `(C, J, k, k)`.
        constant: as of `pooled_convolution`, `(H' · W', J k²)`.
        rows: H'.
    """
    return (constant @ weight.flatten(1).t()).t().view(len(weight), rows, -1)


class _PooledProduct(torch.autograd.Function):
    """`pooled_convolution` by matrix products, on a CPU, for an odd kernel size k.

    Of N images with I channels, h × w windows of four outputs each are pooled, in C channels. In
    memory the images of a batch lie next to each other, `(I, H, W, N)`, so that all copies and
    comparisons run along whole batches. A result of fewer than 16 channels lies so too.

    A window sees 2m = k + 1 rows and columns of an image, six for k = 5. Taken as m pairs of rows,
    these are m strips of 2 rows and 2m columns, one below the other. `strips`, of the shape
    `(I · 4m, (h + m - 1) · w · N)`, has a column for each strip, pair of rows by pair of rows. As
    windows are two rows apart, the r-th strips of all windows are a range of its columns, r · w · N
    further on. So a convolution is a sum of m products. What the constant channels add is computed
    for one image and added to all.

    A window's outputs are those of the kernel in four places: upper left, upper right, lower left
    and lower right. The largest is found as in a tournament, left against right and upper against
    lower. Who won is kept as 0 or 1 in the numbers' own type, as torch multiplies by a boolean mask
    six times slower.

    Backwards, with l and r, 1 where the lower and where the right output won, and a window's
    gradient g, the lower right output's gradient is lrg, the upper right one's rg - lrg, and so on.
    Instead of forming the four, each of the shares g, lg, rg and lrg is multiplied by its sum of
    the four kernels; see `_SUMS`.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, constant: Tensor | None
    ) -> Tensor:
        out_channels, _, kernel_size, _ = weight.shape
        count, in_channels, *sides = images.shape
        rows, columns = (side - kernel_size + 1 for side in sides)  # of outputs
        height, width = rows // 2, columns // 2
        m = kernel_size // 2 + 1
        pairs, step, windows = height + m - 1, width * count, height * width * count

        seen = images.permute(1, 2, 3, 0).contiguous().unfold(1, 2, 2).unfold(2, 2 * m, 2)
        seen = seen.permute(0, 4, 5, 1, 2, 3)  # (I, 2, 2m, pairs, w, N)
        # Rows that lie a large power of two apart share their places in the cache: hence the 16.
        strips = images.new_empty(in_channels * 4 * m, pairs * step + 16)[:, : pairs * step]
        strips.view(seen.shape).copy_(seen)

        kernels = _kernels(weight[:, :in_channels], _moves(kernel_size, weight.dtype)[0])
        by_row = strips.unfold(1, windows, step).unbind(1)  # the first strips of all windows, …
        (kernel, part), *others = zip(kernels, by_row, strict=True)
        outputs = kernel @ part
        for kernel, part in others:
            outputs.addmm_(kernel, part)
        if constant is not None:
            shift = of_constant(weight[:, in_channels:], constant, rows)
            by_place = _by_place(shift).reshape(len(outputs), -1, 1)
            outputs.view(len(outputs), -1, count).add_(by_place)

        left, right = outputs.view(2, 2, out_channels, windows).unbind(1)
        right_won_above, right_won_below = torch.gt(right, left, out=left.new_empty(left.shape))
        upper, lower = torch.maximum(left, right, out=left)
        lower_won = torch.gt(lower, upper, out=torch.empty_like(upper))
        right_won = torch.lerp(right_won_above, right_won_below, lower_won)
        best = torch.maximum(upper, lower, out=upper).view(out_channels, height, width, count)
        # as a product reads it next, or, with so many channels, as oneDNN does: channels_last
        strides = (
            (1, windows, step, count)
            if out_channels < CHANNELS_AT_ONCE
            else (height * width * out_channels, 1, width * out_channels, out_channels)
        )
        pooled = images.new_empty_strided((count, out_channels, height, width), strides)
        torch.add(best.permute(3, 0, 1, 2), bias.view(-1, 1, 1), out=pooled)
        ctx.save_for_backward(weight, constant, strips, lower_won, right_won)
        ctx.images_shape = images.shape
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, constant, strips, lower_won, right_won = ctx.saved_tensors
        out_channels, _, kernel_size, _ = weight.shape
        _, in_channels, *sides = ctx.images_shape
        count, _, height, width = gradient.shape
        m = kernel_size // 2 + 1
        pairs, step, windows = height + m - 1, width * count, height * width * count

        shares = gradient.new_empty(4, out_channels, windows)
        whole, of_lower, *_ = shares
        whole.view(out_channels, height, width, count).copy_(gradient.permute(1, 2, 3, 0))
        torch.mul(whole, lower_won, out=of_lower)
        torch.mul(shares[:2], right_won, out=shares[2:])
        of_bias = whole.sum(1)

        shares = shares.view(-1, windows)
        moves = _moves(kernel_size, weight.dtype)[1]
        by_row = strips.unfold(1, windows, step).permute(1, 2, 0)
        of_kernels = torch.bmm(shares.expand(m, -1, -1), by_row)
        of_kernels = of_kernels.view(m, 4, out_channels, in_channels, 4 * m).permute(2, 3, 1, 0, 4)
        of_weight = (of_kernels.reshape(-1, 16 * m * m) @ moves.t()).view(
            out_channels, in_channels, kernel_size, kernel_size
        )
        if constant is not None:
            of_places = _SUMS.to(weight) @ shares.view(4, -1, count).sum(2)
            of_shift = gradient.new_zeros(out_channels, *(side - kernel_size + 1 for side in sides))
            by_place = _by_place(of_shift)
            by_place.copy_(of_places.view(by_place.shape))
            of_others = (of_shift.flatten(1) @ constant).view(len(weight), -1, *weight.shape[2:])
            of_weight = torch.cat([of_weight, of_others], dim=1)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, of_bias, None

        kernels = _kernels(weight[:, :in_channels], moves)
        of_strips = strips.new_zeros(strips.shape)
        by_row = of_strips.unfold(1, windows, step).unbind(1)
        for kernel, of_part in zip(kernels.mT, by_row, strict=True):
            of_part.addmm_(kernel, shares)
        of_strips = of_strips.view(in_channels, 2, m, 2, pairs, width, count)
        of_images = gradient.new_zeros(in_channels, *sides, count)
        seen = of_images.unfold(1, 2, 2).unfold(2, 2, 2)
        for column, part in enumerate(of_strips.permute(2, 0, 4, 5, 6, 1, 3)):
            seen[:, :, column : column + width].add_(part)
        return of_images.permute(3, 0, 1, 2), of_weight, of_bias, None


# The gradients of the upper left, upper right, lower left and lower right outputs are these sums of
# the shares g, lg, rg and lrg.
_SUMS = torch.tensor([[1.0, -1, -1, 1], [0, 0, 1, -1], [0, 1, 0, -1], [0, 0, 0, 1]])


@lru_cache(maxsize=8)
def _moves(kernel_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two matrices `(k², 4 · 2m · 2m)`.

    The first takes a kernel to its four places among the 2m × 2m pixels that a window sees, the
    second to the four sums of these that the shares of the gradient are multiplied by.
    """
    taps = torch.eye(kernel_size**2, dtype=dtype).view(-1, kernel_size, kernel_size)
    places = [(down, right) for down in (0, 1) for right in (0, 1)]
    moved = torch.stack(
        [F.pad(taps, (right, 1 - right, down, 1 - down)) for down, right in places], dim=1
    ).flatten(2)
    return moved.flatten(1), (_SUMS.to(dtype).t() @ moved).flatten(1)


def _kernels(weight: Tensor, moves: Tensor) -> Tensor:
    """`(m, 4 C, I · 4m)`: for each pair of a window's rows, the kernels in their places."""
    out_channels, in_channels, kernel_size, _ = weight.shape
    m = kernel_size // 2 + 1
    moved = weight.reshape(-1, kernel_size**2) @ moves
    moved = moved.view(out_channels, in_channels, 4, m, 4 * m).permute(3, 2, 0, 1, 4)
    return moved.reshape(m, 4 * out_channels, -1)


def _by_place(shift: Tensor) -> Tensor:
    """A view of `(C, H', W')` by place in a window, `(2, 2, C, h, w)`; windows drop the rest."""
    return shift.unfold(1, 2, 2).unfold(2, 2, 2).permute(3, 4, 0, 1, 2)
