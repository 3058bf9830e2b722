"""`build_model` composes every member of the family (arXiv:2004.11678) from the same parts.

Where the transformer sits is in `placements.py`, what it may do in `transforms.py`, the kinds of
convolutions in `conv_layers.py`, and the numbers and sizes of layers in `layer_sizes.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.conv_layers import CLASSIFIER_LAYER, entry_of
from pipeline.models.layer_sizes import (
    CLASSES,
    Conv,
    LayerSizes,
    frame,
    layer_sizes,
    side_after,
    side_before,
)
from pipeline.models.layers import convolution, identity_linear
from pipeline.models.placements import ARCHITECTURES, Placement
from pipeline.models.stn import SpatialTransformer, SpatialTransformerNetwork
from pipeline.models.transforms import TRANSFORMS

NETWORKS = ("tutorial", "paper")
MakeLayer = Callable[..., list[nn.Module]]  # `layers.convolution` of one kind of layer
_classifier_layer = partial(convolution, layer=entry_of(CLASSIFIER_LAYER), settings={})


def build_model(
    *,
    conv_layer: str = CLASSIFIER_LAYER,
    layer_settings: Mapping[str, Any] | None = None,
    padding_mode: str = "border",
    image_size: int = 28,
    batch_norm: str = "none",
    architecture: str = "stn-c0",
    transform: str = "affine",
    transformer_iterations: int = 1,
    sampler_size: int = 0,
    network: str = "tutorial",
) -> SpatialTransformerNetwork:
    """A fresh network, its weights drawn from torch's global random state.

    The localization network ends in zero weights and the identity as its bias, so an untrained
    transformer leaves the image, or the feature map, as it is. Dropout and batch normalization
    belong to the classifier alone. The layers before a transformer, and those that a localization
    network shares with the classifier, are convolution, pooling and ReLU only.

    Args:
        conv_layer: one of `CONV_LAYERS`, or a layer of the user's own. It is the layer of the
            localization network's own convolutions, among them its copies of the classifier's, but
            not of those that it shares. In a `cnn`, which has no localization network, it is the
            layer of the classifier's convolutions.
        layer_settings: by name, the settings that the layer's entry in `CONV_LAYERS` lists, except
            `side`.
        padding_mode: of the sampler; see `SpatialTransformer`.
        image_size: side S of the images in pixels; the first linear layers grow with it.
        batch_norm: `classifier` normalizes batches after each ReLU of the classifier; `none`.
        architecture: one of `ARCHITECTURES`. The `cnn` ignores the next three.
        transform: one of `TRANSFORMS`.
        transformer_iterations: see `SpatialTransformer`.
        sampler_size: side of the transformer's output, in pixels of the image; 0: as its input.
            Feature maps shrink in proportion: of 60 pixels, 30 halve them too.
        network: `tutorial`, or `paper` for the layers of arXiv:2004.11678, Table VI, which has them
            for images of 28, 60 and 112 pixels. With affine transformations and, for 60 pixels,
            a sampler_size of 30, the numbers of trainable parameters are those of the table.

    Raises:
        PipelineError: for an unknown name, for another layer than the classifier's where the
            localization network has no convolution of its own, for more than one iteration of a
            transformation that is not affine, for sizes that the layers do not fit, and for a layer
            that is not what `layers.convolution` asks for.
    """
    _require("architecture", architecture, ARCHITECTURES)
    _require("transform", transform, TRANSFORMS)
    _require("network", network, NETWORKS)
    sizes = layer_sizes(network, image_size)
    layer = entry_of(conv_layer)
    make_layer = partial(convolution, layer=layer, settings=layer_settings or {})
    placement = ARCHITECTURES[architecture]
    if placement is None:
        return _plain_network(sizes, image_size, batch_norm, make_layer)

    if transformer_iterations > 1:
        affine = [name for name, kind in TRANSFORMS.items() if kind.matrix]
        _require("transform", transform, affine, f" with {transformer_iterations} iterations")
    if conv_layer != CLASSIFIER_LAYER and not _own_convolutions(sizes, placement):
        raise PipelineError(
            f"conv_layer: got {conv_layer!r}, but the localization network of {architecture} in "
            f"the {network} network has no convolution of its own; use {CLASSIFIER_LAYER}"
        )
    return _transformer_network(
        sizes,
        placement,
        make_layer,
        image_size=image_size,
        sampler_size=sampler_size,
        batch_norm=batch_norm,
        identity=TRANSFORMS[transform].identity,
        crops=layer.local,
        transformer_settings={
            "padding_mode": padding_mode,
            "transform": transform,
            "iterations": transformer_iterations,
        },
    )


def _transformer_network(
    sizes: LayerSizes,
    placement: Placement,
    make_layer: MakeLayer,
    *,
    image_size: int,
    sampler_size: int,
    batch_norm: str,
    identity: tuple[float, ...],
    crops: bool,
    transformer_settings: dict[str, Any],
) -> SpatialTransformerNetwork:
    """A network with a transformer.

    crops: whether the localization network gets only the part of its input that it needs.
    transformer_settings: further arguments of `SpatialTransformer`.
    """
    in_stem = sizes.classifier[: placement.stem]
    input_side = side_after(image_size, in_stem)
    output_side = round(input_side * sampler_size / image_size) if sampler_size else input_side
    last_side = side_after(output_side, sizes.classifier[placement.stem :])
    # first the localization network: the order of the random draws must not change
    localization = _localization(sizes, placement, input_side, identity, make_layer)
    stages = _classifier_stages(
        sizes,
        sizes.classifier,
        last_side=last_side,
        batch_norm=batch_norm,
        make_layer=_classifier_layer,
    )
    shared = stages[placement.stem :][: placement.shared]
    stem, classifier = _divide(stages, placement.stem)
    return SpatialTransformerNetwork(
        stem=nn.Sequential(*stem),
        transformer=SpatialTransformer(
            nn.Sequential(*chain(*(stage.convolution for stage in shared)), *localization),
            output_size=output_side if sampler_size else None,
            localization_size=_needed_side(sizes, placement, input_side) if crops else None,
            **transformer_settings,
        ),
        classifier=nn.Sequential(*classifier),
        frame=frame(image_size, in_stem),
    )


def _require(name: str, value: object, allowed: Collection[object], where: str = "") -> None:
    if value not in allowed:
        choice = ", ".join(map(str, allowed))
        raise PipelineError(f"{name}: got {value!r}{where}; allowed: {choice}")


class _Stage(NamedTuple):
    """A part of the classifier: a convolution with its pooling and ReLU, and what follows it.

    tail: batch normalization, dropout and, after the last convolution, the fully connected layers.
        It is the classifier's alone.
    """

    convolution: list[nn.Module]
    tail: list[nn.Module]


def _plain_network(
    sizes: LayerSizes, image_size: int, batch_norm: str, make_layer: MakeLayer
) -> SpatialTransformerNetwork:
    """The classifier alone."""
    convolutions = sizes.cnn or sizes.classifier
    last_side = side_after(image_size, convolutions)
    stages = _classifier_stages(
        sizes,
        convolutions,
        last_side=last_side,
        batch_norm=batch_norm,
        make_layer=make_layer,
        side=image_size,
    )
    _, classifier = _divide(stages, stem=0)
    return SpatialTransformerNetwork(nn.Sequential(), None, nn.Sequential(*classifier))


def _divide(stages: list[_Stage], stem: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers before the transformer, `stem` convolutions, and those after it.

    The stem ends with the ReLU of its last convolution; what follows that is the classifier's.
    """
    if stem == 0:
        return [], _modules_of(stages)
    *earlier, last = stages[:stem]
    return (
        [*_modules_of(earlier), *last.convolution],
        [*last.tail, *_modules_of(stages[stem:])],
    )


def _modules_of(stages: list[_Stage]) -> list[nn.Module]:
    return [module for stage in stages for part in stage for module in part]


def _own_convolutions(sizes: LayerSizes, placement: Placement) -> tuple[Conv, ...]:
    """The localization network's convolutions but those that it shares: copies, then others."""
    copied = sizes.classifier[placement.stem + placement.shared : placement.depth]
    return copied + sizes.localization[placement.depth].convolutions


def _localization(
    sizes: LayerSizes,
    placement: Placement,
    input_side: int,
    identity: tuple[float, ...],
    make_layer: MakeLayer,
) -> list[nn.Module]:
    """The localization network without the layers that it shares.

    input_side: of the transformer's input, in pixels.
    """
    config = sizes.localization[placement.depth]
    first_layer = placement.stem + placement.shared
    side = side_after(input_side, sizes.classifier[placement.stem : first_layer])
    channels = sizes.classifier[first_layer - 1].filters if first_layer else 1
    modules: list[nn.Module] = []
    if config.halve_input:
        modules.append(nn.AvgPool2d(2))  # which is bilinear downsampling by 2
        side //= 2
    convolutions = _own_convolutions(sizes, placement)
    output_side = side_after(side, convolutions)
    modules += chain(*_convolution_stages(convolutions, make_layer, channels, side))
    modules.append(nn.Flatten())
    channels = convolutions[-1].filters if convolutions else channels
    features = channels * output_side**2
    for neurons in config.linear:
        modules += [nn.Linear(features, neurons), nn.ReLU(inplace=True)]
        features = neurons
    return [*modules, identity_linear(features, identity)]


def _needed_side(sizes: LayerSizes, placement: Placement, input_side: int) -> int:
    """The side of the upper left part of the transformer's input that theta depends on.

    input_side: of all of it, in pixels.
    """
    first_layer = placement.stem + placement.shared
    shared = sizes.classifier[placement.stem : first_layer]
    halving = 2 if sizes.localization[placement.depth].halve_input else 1
    convolutions = _own_convolutions(sizes, placement)
    output_side = side_after(side_after(input_side, shared) // halving, convolutions)
    return side_before(side_before(output_side, convolutions) * halving, shared)


def _classifier_stages(
    sizes: LayerSizes,
    convolutions: Sequence[Conv],
    *,
    last_side: int,
    batch_norm: str,
    make_layer: MakeLayer,
    side: int | None = None,
) -> list[_Stage]:
    """The classifier, convolution by convolution.

    last_side: of the last feature map, in pixels.
    side: of the input; only layers other than the classifier's usual one need it.
    """

    def norm(layer: type[nn.Module], features: int) -> list[nn.Module]:
        return [layer(features)] if batch_norm == "classifier" else []

    stages = [
        _Stage(modules, norm(nn.BatchNorm2d, conv.filters))
        for conv, modules in zip(
            convolutions, _convolution_stages(convolutions, make_layer, 1, side), strict=True
        )
    ]
    tail = stages[-1].tail
    if sizes.dropout:
        # Dropping whole channels after the pooling is the same as before it, for a quarter of the
        # work.
        tail.insert(0, nn.Dropout2d())
    tail.append(nn.Flatten())
    features = convolutions[-1].filters * last_side**2
    for neurons in sizes.linear:
        tail += [nn.Linear(features, neurons), nn.ReLU(inplace=True)]
        tail += [*norm(nn.BatchNorm1d, neurons), nn.Dropout()]
        features = neurons
    tail.append(nn.Linear(features, CLASSES))
    return stages


def _convolution_stages(
    convolutions: Sequence[Conv], make_layer: MakeLayer, channels: int, side: int | None
) -> list[list[nn.Module]]:
    """For each convolution: itself, its pooling and its ReLU.

    channels, side: of the whole input; see `layers.convolution`.
    """
    stages = []
    for conv in convolutions:
        layers = make_layer(
            channels, conv.filters, conv.kernel_size, bias=conv.bias, pool=conv.pool, side=side
        )
        # in place of what the pooling returns only: a layer may need its output for its gradient
        stages.append([*layers, nn.ReLU(inplace=conv.pool)])
        channels = conv.filters
        side = side_after(side, [conv]) if side else None
    return stages
