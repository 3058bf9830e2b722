"""The table of convolution layers, known without torch.

To add a layer, write its class and add its entry to `CONV_LAYERS`: the parameter `conv_layer` then
allows it, a study trains it beside the others, its best model gets an alias, and the tests of all
members include it.
"""

from typing import NamedTuple

CLASSIFIER_LAYER = "conv2d"  # of the classifier, and of what a localization network shares with it


class ConvLayer(NamedTuple):
    """A convolution layer, `(N, in, H, W)` to `(N, out, H - k + 1, W - k + 1)`.

    layer: its class, an `nn.Module`, written as `module:Class`. The constructor takes
        `in_channels`, `out_channels`, `kernel_size` (one number, k) and `bias` by keyword.
    pooled: a class that computes the layer and the 2×2 max-pooling after it at once; None if
        `nn.MaxPool2d(2)` follows the layer. Its constructor takes the same arguments.
    settings: what else both constructors take by keyword: parameters of the run by their names,
        and `side`, the side in pixels of the whole image or feature map, of which the layer may
        be given the upper left part only.
    local: whether an output depends only on the k×k inputs under the kernel, and on its position in
        the whole image. Such a layer may be given the part of its input that theta depends on.
    """

    layer: str
    pooled: str | None = None
    settings: tuple[str, ...] = ()
    local: bool = False


CONV_LAYERS = {
    "conv2d": ConvLayer(
        "torch.nn:Conv2d", pooled="pipeline.models.layers:PooledConv2d", local=True
    ),
    "coordconv2d": ConvLayer(
        "pipeline.models.coordconv:CoordConv2d",
        pooled="pipeline.models.coordconv:PooledCoordConv2d",
        settings=("radius_center", "side"),
        local=True,
    ),
}
