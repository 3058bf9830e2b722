"""A convolution followed by 2×2 max-pooling, computed as matrix products along the batch.

oneDNN, which computes torch's convolutions on a CPU, works on 16 channels at a time: of the output
and, for the gradient, of the input. Many convolutions here have fewer channels and leave most of a
vector empty. There, these products are faster; how much depends on the CPU, see (c)/(d) in
results/throughput.md. `convolve.convolve` decides where they are used.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHANNELS_AT_ONCE = 16  # of oneDNN with AVX-512
WINDOWS_AT_ONCE = 10_000  # in one product: on large images it takes up to a third less time so


def pooled_product(
    images: Tensor, weight: Tensor, bias: Tensor, constant: Tensor | None = None
) -> Tensor:
    """`F.max_pool2d(F.conv2d(images, weight, bias), 2)`, on a CPU, for an odd kernel size.

    Args:
        images, weight, bias, constant: see `convolve.convolve`. Height and width of the images must
            be at least k + 1.

    Returns:
        `(N, C, (H - k + 1) // 2, (W - k + 1) // 2)`. Of equal outputs in a window, the gradient
        goes to the first, as in `F.max_pool2d`. Outputs that differ by rounding only, as on a
        constant background, may be rounded differently and pass the gradient to another.
    """
    kernel_size = weight.shape[2]
    height, width = ((side - kernel_size + 1) // 2 for side in images.shape[2:])
    at_once = max(8, WINDOWS_AT_ONCE // (height * width))
    if len(images) <= at_once:
        return _PooledProduct.apply(images, weight, bias, constant)
    parts = images.split(at_once)
    return torch.cat([_PooledProduct.apply(part, weight, bias, constant) for part in parts])


def constant_contribution(weight: Tensor, constant: Tensor, height: int) -> Tensor:
    """What channels that are the same in all images add to a convolution: `(C, H', W')`.

    Args:
        weight: the part of the weight that belongs to them, `(C, J, k, k)`.
        constant: the patches of these channels, `(H' · W', J k²)`, as of `convolve.convolve`.
        height: H', of the output.
    """
    return (constant @ weight.flatten(1).t()).t().view(len(weight), height, -1)


class _PooledProduct(torch.autograd.Function):
    """The products themselves.

    The shapes: N images with I channels and kernels of k × k, k odd, give C channels and, in each,
    h × w windows of 2 × 2 outputs, of which the largest is kept. `m = (k + 1) / 2`.

    Layout. The images of a batch lie next to each other, `(I, H, W, N)`, so that all copies and
    comparisons run along whole batches. A result of fewer than 16 channels lies so too.

    Strips. The 2 × 2 outputs of one window depend on 2m × 2m pixels. Taken as m pairs of rows,
    these are m strips of 2 × 2m pixels. For k = 5, m = 3, and the windows in the first column of
    windows see these rows of the image:

        row 0 ┐                                row 0, 1   strip 0 of window 0
        row 1 │ window 0                       row 2, 3   strip 1 of window 0, strip 0 of window 1
        row 2 │  ┐                             row 4, 5   strip 2 of window 0, strip 1 of window 1
        row 3 │  │ window 1                    row 6, 7   strip 2 of window 1, …
        row 4 │  │
        row 5 ┘  │
        row 6    │                             each strip: 2 rows × 6 columns × I channels
        row 7    ┘

    Neighbouring windows share strips, so each strip is stored once: `strips` has the shape
    `(4m · I, (h + m - 1) · w · N)`, for k = 5 `(12 I, (h + 2) · w · N)`, with one column for each
    pair of rows, window column and image. The r-th strips of all windows are the range of
    `h · w · N` columns that begins at `r · w · N`. The convolution of all windows is therefore a
    sum of m products, kernels `(4 C, 4m · I)` times a range of strips `(4m · I, h · w · N)`.
    What the constant channels add is computed for one image and added to all.

    Pooling. Of the 4 C rows of the result, the first C are the windows' upper left outputs, then
    come the upper right, lower left and lower right ones. The larger of left and right is taken in
    each row of a window, then the larger of upper and lower. Which one was larger is kept as 0 or 1
    in the images' own type, as torch multiplies by a boolean mask six times more slowly.

    Gradient. Let l be 1 where the lower output was the largest, r where the right one was, and g
    the gradient of the window. The gradient of the lower right output is then l·r·g, that of the
    upper right one r·g - l·r·g, and so on. These four are not formed: each of the shares g, l·g,
    r·g and l·r·g is multiplied by its sum of the four kernels instead; see `_SUMS`.
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

        window_views = images.permute(1, 2, 3, 0).contiguous().unfold(1, 2, 2).unfold(2, 2 * m, 2)
        window_views = window_views.permute(0, 4, 5, 1, 2, 3)  # (I, 2, 2m, pairs, w, N)
        # Rows that lie a large power of two apart share their places in the cache: hence the 16.
        strips = images.new_empty(in_channels * 4 * m, pairs * step + 16)[:, : pairs * step]
        strips.view(window_views.shape).copy_(window_views)

        kernels = _kernels(weight[:, :in_channels], _moves(kernel_size, weight.dtype)[0])
        by_row = strips.unfold(1, windows, step).unbind(1)  # the first strips of all windows, …
        (kernel, part), *others = zip(kernels, by_row, strict=True)
        outputs = kernel @ part
        for kernel, part in others:
            outputs.addmm_(kernel, part)
        if constant is not None:
            shift = constant_contribution(weight[:, in_channels:], constant, rows)
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
        whole, lower_share, *_ = shares
        whole.view(out_channels, height, width, count).copy_(gradient.permute(1, 2, 3, 0))
        torch.mul(whole, lower_won, out=lower_share)
        torch.mul(shares[:2], right_won, out=shares[2:])
        bias_gradient = whole.sum(1)

        shares = shares.view(-1, windows)
        moves = _moves(kernel_size, weight.dtype)[1]
        by_row = strips.unfold(1, windows, step).permute(1, 2, 0)
        kernels_gradient = torch.bmm(shares.expand(m, -1, -1), by_row)
        kernels_gradient = kernels_gradient.view(m, 4, out_channels, in_channels, 4 * m).permute(
            2, 3, 1, 0, 4
        )
        weight_gradient = (kernels_gradient.reshape(-1, 16 * m * m) @ moves.t()).view(
            out_channels, in_channels, kernel_size, kernel_size
        )
        if constant is not None:
            place_gradients = _SUMS.to(weight) @ shares.view(4, -1, count).sum(2)
            shift_gradient = gradient.new_zeros(
                out_channels, *(side - kernel_size + 1 for side in sides)
            )
            by_place = _by_place(shift_gradient)
            by_place.copy_(place_gradients.view(by_place.shape))
            constant_gradient = (shift_gradient.flatten(1) @ constant).view(
                len(weight), -1, *weight.shape[2:]
            )
            weight_gradient = torch.cat([weight_gradient, constant_gradient], dim=1)
        if not ctx.needs_input_grad[0]:
            return None, weight_gradient, bias_gradient, None

        kernels = _kernels(weight[:, :in_channels], moves)
        strips_gradient = strips.new_zeros(strips.shape)
        by_row = strips_gradient.unfold(1, windows, step).unbind(1)
        for kernel, part_gradient in zip(kernels.mT, by_row, strict=True):
            part_gradient.addmm_(kernel, shares)
        strips_gradient = strips_gradient.view(in_channels, 2, m, 2, pairs, width, count)
        images_gradient = gradient.new_zeros(in_channels, *sides, count)
        window_views = images_gradient.unfold(1, 2, 2).unfold(2, 2, 2)
        for column, part in enumerate(strips_gradient.permute(2, 0, 4, 5, 6, 1, 3)):
            window_views[:, :, column : column + width].add_(part)
        return images_gradient.permute(3, 0, 1, 2), weight_gradient, bias_gradient, None


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
