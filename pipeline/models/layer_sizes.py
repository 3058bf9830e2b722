"""The layer sizes of the two networks, and the sides of the feature maps that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.errors import PipelineError

CLASSES = 10


class Conv(NamedTuple):
    """A convolution without padding, 2×2 max-pooling and ReLU."""

    filters: int
    kernel_size: int
    pool: bool = True
    bias: bool = True


class Localization(NamedTuple):
    """A localization network: its own convolutions, then fully connected layers, then theta.

    linear: the numbers of neurons, each layer with ReLU.
    halve_input: whether it begins with the mean of each 2×2 block.
    """

    convolutions: tuple[Conv, ...]
    linear: tuple[int, ...]
    halve_input: bool = False


@dataclass(frozen=True)
class LayerSizes:
    """The layer sizes of a network.

    classifier: its convolutions.
    localization: three localization networks. Entry d is used at depth d, which is after d of the
        classifier's convolutions; see `Placement.depth`.
    cnn: the classifier's convolutions where there is no transformer, if they differ.
    linear: the classifier's fully connected layers before the last, each with dropout.
    dropout: whether whole channels of the classifier's last feature map are dropped.
    """

    classifier: tuple[Conv, ...]
    localization: tuple[Localization, ...]
    cnn: tuple[Conv, ...] | None = None
    linear: tuple[int, ...] = ()
    dropout: bool = False


# The network that the PyTorch tutorial made known and the predecessor trained. It has stn-c0 only:
# elsewhere, the classifier's convolutions stand in for those of the localization network.
TUTORIAL = LayerSizes(
    classifier=(Conv(10, 5), Conv(20, 5)),
    localization=(
        Localization((Conv(8, 7), Conv(10, 5)), (32,)),
        Localization((Conv(10, 5),), (32,)),
        Localization((), (32,)),
    ),
    linear=(50,),
    dropout=True,
)

# On translated digits, the last convolution of C1, DL1 and SL1 is not pooled. Table VI counts 20
# parameters fewer there than the authors' code has (github.com/luuf/stn-placement, CNN_translate);
# the count is met by leaving out that convolution's bias.
_UNPOOLED = Conv(20, 5, pool=False, bias=False)

# arXiv:2004.11678, Table VI, by the side of the images: rotated, translated and scaled digits. The
# table ends at X = 1; X = 2 is X = 1 without the first convolution of its localization network.
PAPER = {
    28: LayerSizes(
        classifier=(Conv(16, 9), Conv(32, 7)),
        cnn=(Conv(32, 9), Conv(32, 7)),
        localization=(
            Localization((), (32, 16, 16)),
            Localization((), (16, 16, 16)),
            Localization((), (16, 16, 16)),
        ),
    ),
    60: LayerSizes(
        classifier=(Conv(16, 9), Conv(32, 7)),
        cnn=(Conv(21, 9), Conv(32, 7)),
        localization=(
            Localization((Conv(20, 5), Conv(20, 5)), (10,)),
            Localization((Conv(20, 5), _UNPOOLED), (20,)),
            Localization((_UNPOOLED,), (20,)),
        ),
    ),
    112: LayerSizes(
        classifier=(Conv(16, 9), Conv(16, 7)),
        cnn=(Conv(23, 9), Conv(21, 7)),
        localization=(
            Localization((Conv(16, 5), Conv(16, 5)), (16,), halve_input=True),
            Localization((Conv(16, 5), Conv(16, 5)), (16,)),
            Localization((Conv(16, 5),), (16,)),
        ),
    ),
}


def layer_sizes(network: str, image_size: int) -> LayerSizes:
    """The layer sizes of the network `tutorial` or `paper` for images of a side in pixels.

    Raises:
        PipelineError: if the network has no layers for this size.
    """
    if network == "tutorial":
        return TUTORIAL
    if image_size not in PAPER:
        sides = ", ".join(map(str, PAPER))
        raise PipelineError(
            f"network: got 'paper', which has layers for images of {sides} pixels, but these have "
            f"{image_size}; use tutorial"
        )
    return PAPER[image_size]


def side_after(side: int, convolutions: Sequence[Conv]) -> int:
    """The side of the feature map after these convolutions and their pooling.

    Raises:
        PipelineError: if nothing is left of it.
    """
    output_side = side
    for conv in convolutions:
        output_side = (output_side - conv.kernel_size + 1) // (2 if conv.pool else 1)
    if output_side < 1:
        kernels = ", ".join(f"{conv.kernel_size}×{conv.kernel_size}" for conv in convolutions)
        raise PipelineError(
            f"sampler_size: {side} pixels are too few for the convolutions {kernels}"
        )
    return output_side


def side_before(output_side: int, convolutions: Sequence[Conv]) -> int:
    """The smallest input side for which these convolutions and their pooling give `output_side`.

    Pooling an odd side drops the last row and column, so the pixels that only they depend on need
    not be computed. Of 28 pixels the tutorial's localization network needs 26, which is a fifth
    less work for its convolutions.
    """
    side = output_side
    for conv in reversed(convolutions):
        side = side * (2 if conv.pool else 1) + conv.kernel_size - 1
    return side


def frame(image_size: int, convolutions: Sequence[Conv]) -> tuple[float, float]:
    """Where the feature map after these convolutions lies in the image: scale and shift.

    The feature map's point u is the image's point scale · u + shift, both in normalized
    coordinates, in x as in y. A convolution without padding takes half a kernel off each edge, and
    pooling may drop a last row and column.
    """
    first, stride = 0.5, 1.0  # centre of the first feature pixel and distance of two, in pixels
    for conv in convolutions:
        first += stride * (conv.kernel_size - 1) / 2
        if conv.pool:
            first += stride / 2
            stride *= 2
    side = side_after(image_size, convolutions)
    center = first + stride * (side - 1) / 2
    return stride * side / image_size, 2 * center / image_size - 1
