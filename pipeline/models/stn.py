"""Spatial transformer networks (arXiv:1506.02025): localization, grid, sampler, classifier.

`build_model` composes every member of the family (arXiv:2004.11678) from the same parts. The
architecture says how many convolutions of the classifier come before the transformer, and how many
its localization network begins with:

    stn-cX     X layers ──> transformer ──> the rest    stn-c0 warps the image, others feature maps
    stn-dlX                 transformer ──> all layers  localization begins with copies of X layers
    stn-slX                 transformer ──> all layers  localization begins with X of them, shared

A new placement is a line in `ARCHITECTURES`; a new transformation one in `grids.TRANSFORMS`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.grids import TRANSFORMS, affine_grid, compose, sampling_grid
from pipeline.models.layers import convolution, halve, identity_linear

CLASSES = 10
FARTHEST = 1e4  # no theta of use comes near; in half image widths, for its shifts


class Placement(NamedTuple):
    """How many of the classifier's convolutions, each with its pooling and ReLU, …"""

    stem: int = 0  # … come before the transformer
    shared: int = 0  # … the localization network goes on with, as the classifier's
    copied: int = 0  # … it goes on with, as its own


ARCHITECTURES = {
    "cnn": None,
    "stn-c0": Placement(),
    "stn-c1": Placement(stem=1),
    "stn-c2": Placement(stem=2),
    "stn-dl1": Placement(copied=1),
    "stn-dl2": Placement(copied=2),
    "stn-sl1": Placement(shared=1),
    "stn-sl2": Placement(shared=2),
}


class Conv(NamedTuple):
    """A convolution without padding, 2×2 max-pooling and ReLU."""

    filters: int
    kernel_size: int
    pool: bool = True
    bias: bool = True


class Localization(NamedTuple):
    """A localization network: its own convolutions, then fully connected layers, then theta."""

    convolutions: tuple[Conv, ...]
    linear: tuple[int, ...]
    halve_input: bool = False


@dataclass(frozen=True)
class Layers:
    """The layer sizes of a network.

    classifier: its convolutions.
    localization: on the image; after one convolution of the classifier, be it in the stem, copied
        or shared; after two.
    cnn: the classifier's convolutions where there is no transformer, if they differ.
    linear: the classifier's fully connected layers before the last, each with dropout.
    dropout: of whole channels of the classifier's last feature map.
    """

    classifier: tuple[Conv, ...]
    localization: tuple[Localization, ...]
    cnn: tuple[Conv, ...] | None = None
    linear: tuple[int, ...] = ()
    dropout: bool = False


# The network that the PyTorch tutorial made known and the predecessor trained. It has stn-c0 only:
# elsewhere, the classifier's convolutions stand in for those of the localization network.
TUTORIAL = Layers(
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
    28: Layers(
        classifier=(Conv(16, 9), Conv(32, 7)),
        cnn=(Conv(32, 9), Conv(32, 7)),
        localization=(
            Localization((), (32, 16, 16)),
            Localization((), (16, 16, 16)),
            Localization((), (16, 16, 16)),
        ),
    ),
    60: Layers(
        classifier=(Conv(16, 9), Conv(32, 7)),
        cnn=(Conv(21, 9), Conv(32, 7)),
        localization=(
            Localization((Conv(20, 5), Conv(20, 5)), (10,)),
            Localization((Conv(20, 5), _UNPOOLED), (20,)),
            Localization((_UNPOOLED,), (20,)),
        ),
    ),
    112: Layers(
        classifier=(Conv(16, 9), Conv(16, 7)),
        cnn=(Conv(23, 9), Conv(21, 7)),
        localization=(
            Localization((Conv(16, 5), Conv(16, 5)), (16,), halve_input=True),
            Localization((Conv(16, 5), Conv(16, 5)), (16,)),
            Localization((Conv(16, 5),), (16,)),
        ),
    ),
}


class SpatialTransformer(nn.Module):
    """Warps each image by the transformation that the localization network predicts for it.

    Args:
        localization: images `(N, C, S, S)` to theta `(N, P)`, which maps output to input
            coordinates, normalized to [-1, 1], `align_corners=False`.
        padding_mode: what the bilinear sampler reads outside the image: `border`, `zeros` or
            `reflection`.
        transform: one of `grids.TRANSFORMS`.
        iterations: how many times the image is localized, from the second time on as warped so far.
            The original is always sampled once, by the composed transformation, which must be
            affine (as in arXiv:1612.03897).
        output_size: side of what comes out, in pixels; None: as what comes in.
        localization_size: side of what the localization network is shown, the upper left part of
            what comes in; None: all of it. See `_side_before`.
    """

    def __init__(
        self,
        localization: nn.Module,
        padding_mode: str,
        transform: str = "affine",
        iterations: int = 1,
        output_size: int | None = None,
        localization_size: int | None = None,
    ) -> None:
        super().__init__()
        self.localization = localization
        self.padding_mode = padding_mode
        self.transform = transform
        self.iterations = iterations
        self.output_size = output_size
        self.localization_size = localization_size

    def theta(self, images: Tensor) -> Tensor:
        """`(N, C, S, S)` to `(N, P)`: what the localization network predicts; 0 for what is
        farther off than `FARTHEST` or not a number."""
        # In a diverged network theta is NaN or infinite, and on such grids the gradient of
        # grid_sample crashes the whole process (github.com/pytorch/pytorch/issues/24823).
        cropped = images[..., : self.localization_size, : self.localization_size]
        theta = self.localization(cropped)
        return torch.where(theta.detach().abs() <= FARTHEST, theta, 0.0)

    def matrix(self, images: Tensor) -> Tensor:
        """`(N, C, S, S)` to `(N, 2, 3)`: the affine map by which `forward` warps each image.

        It is the composition of all iterations, in normalized coordinates of the input.

        Raises:
            ValueError: if the transformation is not affine.
        """
        of_theta = TRANSFORMS[self.transform].matrix
        if of_theta is None:
            raise ValueError(f"a transformation of the kind {self.transform} has no affine matrix")
        matrix = of_theta(self.theta(images))
        for _ in range(self.iterations - 1):
            warped = self._sample(images, affine_grid(matrix, *images.shape[-2:]))
            matrix = compose(matrix, of_theta(self.theta(warped)))
            matrix = matrix.clamp(-FARTHEST, FARTHEST)  # finite, but may grow with each iteration
        return matrix

    def grid(self, images: Tensor, size: int | None = None) -> Tensor:
        """`(N, C, S, S)` to `(N, size, size, 2)`: the points of the input that the output shows.

        size: the output's by default; another one draws the same transformation finer or coarser.
        """
        height, width = images.shape[-2:]
        size = size or self.output_size
        if size is not None:
            height = width = size
        if self.iterations > 1:
            return affine_grid(self.matrix(images), height, width)
        return sampling_grid(self.transform, self.theta(images), height, width)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C, S, S)` to `(N, C, output_size, output_size)`."""
        return self._sample(images, self.grid(images))

    def _sample(self, images: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(
            images, grid, mode="bilinear", padding_mode=self.padding_mode, align_corners=False
        )


class SpatialTransformerNetwork(nn.Module):
    """Normalized images `(N, 1, S, S)` to logits `(N, 10)`.

    Args:
        stem: the layers before the transformer; empty if that warps the image.
        transformer: None in a plain convolutional network.
        classifier: the layers after it.
        frame: where the transformer's input lies in the image, scale and shift: the feature map's
            point u is the image's scale · u + shift, both normalized, alike in x and y.
    """

    def __init__(
        self,
        stem: nn.Module,
        transformer: SpatialTransformer | None,
        classifier: nn.Module,
        frame: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        super().__init__()
        self.stem = stem
        self.transformer = transformer
        self.classifier = classifier
        self.frame = frame

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        if self.transformer is not None:
            features = self.transformer(features)
        return self.classifier(features)

    def matrix(self, images: Tensor) -> Tensor:
        """`(N, 1, S, S)` to `(N, 2, 3)`: the transformer's final affine map, of the image.

        All iterations are in it. Where the transformer warps a feature map, this is the same motion
        in the normalized coordinates of the image: half an image's width for each unit of its
        shift. Output to input, as ever.

        Raises:
            ValueError: if the transformation is not affine, or there is no transformer.
        """
        scale, shift = self.frame
        linear, move = self._transformer().matrix(self.stem(images)).split([2, 1], dim=2)
        return torch.cat([linear, scale * move + shift * (1 - linear.sum(2, True))], dim=2)

    def grid(self, images: Tensor, size: int | None = None) -> Tensor:
        """`(N, 1, S, S)` to `(N, size, size, 2)`: the points of the image that the output shows.

        The same for every transformation and placement, in normalized coordinates of the image: the
        outer points outline what the transformer looks at.

        Raises:
            ValueError: if there is no transformer.
        """
        scale, shift = self.frame
        return scale * self._transformer().grid(self.stem(images), size) + shift

    def _transformer(self) -> SpatialTransformer:
        if self.transformer is None:
            raise ValueError("a network of the architecture cnn has no transformer")
        return self.transformer


def localization_parameters(model: SpatialTransformerNetwork) -> list[nn.Parameter]:
    """The localization network's own parameters, without those it shares with the classifier."""
    if model.transformer is None:
        return []
    shared = set(model.classifier.parameters())
    return [p for p in model.transformer.localization.parameters() if p not in shared]


def build_model(
    conv_layer: str,
    padding_mode: str,
    radius_center: float,
    image_size: int = 28,
    batch_norm: str = "none",
    architecture: str = "stn-c0",
    transform: str = "affine",
    transformer_iterations: int = 1,
    sampler_size: int = 0,
    network: str = "tutorial",
) -> SpatialTransformerNetwork:
    """A fresh network, its weights drawn from torch's global random state.

    The localization network ends in zero weights and the identity as its bias: untrained, it leaves
    the image, or the feature map, as it is. Dropout and batch normalization are the classifier's
    alone: what a transformer reads or a localization network shares is convolution, pooling, ReLU.

    Args:
        conv_layer: `conv2d` or `coordconv2d`, inside the localization network: in its copies of the
            classifier's layers too, but not in those it shares. In a `cnn`, which has none, it
            stands for the convolutions of the classifier.
        padding_mode: of the sampler; see `SpatialTransformer`.
        radius_center: of CoordConv; see `coordconv.coordinate_channels`.
        image_size: side S of the images in pixels; the first linear layers grow with it.
        batch_norm: `classifier` normalizes batches after each ReLU of the classifier; `none`.
        architecture: one of `ARCHITECTURES`. The `cnn` ignores the next three.
        transform: one of `grids.TRANSFORMS`.
        transformer_iterations: see `SpatialTransformer`.
        sampler_size: side of the transformer's output, in pixels of the image; 0: as its input.
            Feature maps shrink in proportion: of 60 pixels, 30 halve them too.
        network: `tutorial`, or `paper` for the layers of arXiv:2004.11678, Table VI, which has them
            for images of 28, 60 and 112 pixels. With affine transformations and, for 60 pixels,
            a sampler_size of 30, the numbers of trainable parameters are those of the table.

    Raises:
        PipelineError: for an unknown name, for CoordConv where the localization network has no
            convolution of its own, for more than one iteration of what is not affine, and for
            sizes that the layers do not fit.
    """
    _require("architecture", architecture, ARCHITECTURES)
    _require("transform", transform, TRANSFORMS)
    _require("network", network, ("tutorial", "paper"))
    if network == "paper" and image_size not in PAPER:
        sides = ", ".join(map(str, PAPER))
        raise PipelineError(
            f"network: got 'paper', which has layers for images of {sides} pixels, but these have "
            f"{image_size}; use tutorial"
        )
    layers = PAPER[image_size] if network == "paper" else TUTORIAL
    placement = ARCHITECTURES[architecture]
    if placement is None:
        convolutions = layers.cnn or layers.classifier
        side = _side_after(image_size, convolutions)
        parts = _classifier_parts(layers, convolutions, side, batch_norm, conv_layer, radius_center)
        return SpatialTransformerNetwork(nn.Sequential(), None, nn.Sequential(*chain(*parts)))

    if transformer_iterations > 1 and TRANSFORMS[transform].matrix is None:
        affine = [name for name, kind in TRANSFORMS.items() if kind.matrix is not None]
        _require("transform", transform, affine, f" with {transformer_iterations} iterations")
    own = layers.localization[sum(placement)]
    if conv_layer == "coordconv2d" and not (placement.copied or own.convolutions):
        raise PipelineError(
            f"conv_layer: got 'coordconv2d', but the localization network of {architecture} in the "
            f"{network} network has no convolution of its own; use conv2d"
        )
    input_side = _side_after(image_size, layers.classifier[: placement.stem])
    output_side = round(input_side * sampler_size / image_size) if sampler_size else input_side
    side = _side_after(output_side, layers.classifier[placement.stem :])
    localization, localization_side = _localization_layers(
        layers,
        placement,
        image_size,
        TRANSFORMS[transform].identity,
        conv_layer,
        radius_center,
    )
    parts = _classifier_parts(layers, layers.classifier, side, batch_norm)
    shared = chain(*parts[2 * placement.stem :: 2][: placement.shared])
    cut = max(2 * placement.stem - 1, 0)  # before the dropout and the norm of the stem's last stage
    return SpatialTransformerNetwork(
        nn.Sequential(*chain(*parts[:cut])),
        SpatialTransformer(
            nn.Sequential(*shared, *localization),
            padding_mode,
            transform,
            transformer_iterations,
            output_side if sampler_size else None,
            localization_side,
        ),
        nn.Sequential(*chain(*parts[cut:])),
        _frame(image_size, layers.classifier[: placement.stem]),
    )


def _require(name: str, value: object, allowed: Collection[object], where: str = "") -> None:
    if value not in allowed:
        choice = ", ".join(map(str, allowed))
        raise PipelineError(f"{name}: got {value!r}{where}; allowed: {choice}")


def _localization_layers(
    layers: Layers,
    placement: Placement,
    image_size: int,
    identity: tuple[float, ...],
    conv_layer: str,
    radius_center: float,
) -> tuple[list[nn.Module], int]:
    """The localization network without what it shares, and the side of what it must be shown."""
    begun = placement.stem + placement.shared
    depth = begun + placement.copied
    own = layers.localization[depth]
    channels = layers.classifier[begun - 1].filters if begun else 1
    halving = 2 if own.halve_input else 1
    side = _side_after(image_size, layers.classifier[:begun]) // halving
    convolutions = (*layers.classifier[begun:depth], *own.convolutions)
    left = _side_after(side, convolutions)
    shown = _side_before(left, convolutions) * halving
    shown = _side_before(shown, layers.classifier[placement.stem : begun])
    stages = _stages(channels, convolutions, conv_layer, radius_center, side)
    modules = [*([halve()] if own.halve_input else []), *chain(*stages), nn.Flatten()]
    channels = convolutions[-1].filters if convolutions else channels
    features = channels * left**2
    for neurons in own.linear:
        modules += [nn.Linear(features, neurons), nn.ReLU(inplace=True)]
        features = neurons
    return [*modules, identity_linear(features, identity)], shown


def _classifier_parts(
    layers: Layers,
    convolutions: Sequence[Conv],
    side: int,
    batch_norm: str,
    conv_layer: str = "conv2d",
    radius_center: float = 0.0,
) -> list[list[nn.Module]]:
    """The classifier's layers, in pairs: a convolution with pooling and ReLU, and what follows it.

    side: of the last feature map.
    """

    def norm(layer: type[nn.Module], features: int) -> list[nn.Module]:
        return [layer(features)] if batch_norm == "classifier" else []

    parts: list[list[nn.Module]] = []
    for stage, (filters, *_) in zip(
        _stages(1, convolutions, conv_layer, radius_center), convolutions, strict=True
    ):
        parts += [stage, norm(nn.BatchNorm2d, filters)]
    *_, last = parts
    if layers.dropout:
        # of whole channels: the same before the pooling, for four times the work
        last.insert(0, nn.Dropout2d())
    last.append(nn.Flatten())
    features = convolutions[-1].filters * side**2
    for neurons in layers.linear:
        last += [
            nn.Linear(features, neurons),
            nn.ReLU(inplace=True),
            *norm(nn.BatchNorm1d, neurons),
        ]
        last.append(nn.Dropout())
        features = neurons
    last.append(nn.Linear(features, CLASSES))
    return parts


def _stages(
    channels: int,
    convolutions: Sequence[Conv],
    conv_layer: str,
    radius_center: float,
    side: int | None = None,
) -> list[list[nn.Module]]:
    """For each convolution: itself, its pooling and its ReLU.

    side: of the whole image or feature map, which CoordConv's coordinates span, where only its
        upper left part comes in; None: all of it does.
    """
    stages: list[list[nn.Module]] = []
    for conv in convolutions:
        filters, kernel_size, pool, bias = conv
        layers = convolution(
            channels, filters, kernel_size, conv_layer, radius_center, bias, pool, side
        )
        stages.append([*layers, nn.ReLU(inplace=True)])
        channels = filters
        side = _side_after(side, [conv]) if side else None
    return stages


def _side_after(side: int, convolutions: Sequence[Conv]) -> int:
    """The side of the feature map after these convolutions and their pooling.

    Raises:
        PipelineError: if nothing is left of it.
    """
    left = side
    for _, kernel_size, pool, _ in convolutions:
        left = (left - kernel_size + 1) // (2 if pool else 1)
    if left < 1:
        kernels = ", ".join(f"{k}×{k}" for _, k, *_ in convolutions)
        raise PipelineError(
            f"sampler_size: {side} pixels are too few for the convolutions {kernels}"
        )
    return left


def _side_before(left: int, convolutions: Sequence[Conv]) -> int:
    """The least side that these convolutions and their pooling leave `left` of.

    Where pooling drops a last row and column, what only they depend on need not be computed. Of 28
    pixels the tutorial's localization network needs 26: a fifth less work for its convolutions.
    """
    side = left
    for _, kernel_size, pool, _ in reversed(convolutions):
        side = side * (2 if pool else 1) + kernel_size - 1
    return side


def _frame(image_size: int, convolutions: Sequence[Conv]) -> tuple[float, float]:
    """Where a feature map lies in the image; see `SpatialTransformerNetwork`.

    A convolution without padding takes half a kernel off each edge, and pooling may drop a last row
    and column.
    """
    first, stride = 0.5, 1.0  # centre of the first feature pixel and distance of two, in pixels
    for _, kernel_size, pool, _ in convolutions:
        first += stride * (kernel_size - 1) / 2
        if pool:
            first += stride / 2
            stride *= 2
    side = _side_after(image_size, convolutions)
    center = first + stride * (side - 1) / 2
    return stride * side / image_size, 2 * center / image_size - 1
