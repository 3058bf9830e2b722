"""The table of convolution layers, and how a user's own layer is named. It imports no torch.

To add a layer, write its class and add its entry to `CONV_LAYERS`: the parameter `conv_layer` then
allows it, a study trains it beside the others, its best model gets an alias, and the tests of all
members include it.

A layer of the user's own is named by its module and class, `my_layers:BlurConv2d`. The module is
found as Python finds it, first in the working directory. When a command starts, `pinned` appends
the digest of the module's source file, `my_layers:BlurConv2d@1f3a5c7e`; with another source, the
layer has another name, and so is another layer for a study and for a comparison. Only a command
that trains imports the module.
"""

import hashlib
import re
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError

CLASSIFIER_LAYER = "conv2d"  # of the classifier, and of what a localization network shares with it
OWN_LAYER = "module:Class"  # how a user's own layer is written


class ConvLayer(NamedTuple):
    """A convolution layer, `(N, in, H, W)` to `(N, out, H - k + 1, W - k + 1)`.

    layer: its class, an `nn.Module`, written as `module:Class`. The constructor takes
        `in_channels`, `out_channels`, `kernel_size` (one number, k) and `bias` by keyword.
    pooled: a class that computes the layer and the 2×2 max-pooling after it at once; None if
        `nn.MaxPool2d(2)` follows the layer. Its constructor takes the same arguments.
    settings: the names of further keyword arguments of both constructors. Each is a parameter of
        the run, or `side`: the side of the whole image or feature map, in pixels. (The layer may be
        given only the upper left part of it; see `local`.)
    local: whether an output depends only on the k×k inputs under the kernel, and on its position in
        the whole image. Such a layer may be given the part of its input that theta depends on.
        Of a user's own layer this is not known (it may normalize by the mean of the image, or
        compute from positions), so it is always given its whole input.
    """

    layer: str
    pooled: str | None = None
    settings: tuple[str, ...] = ()
    local: bool = False


CONV_LAYERS = {
    "conv2d": ConvLayer(
        "torch.nn:Conv2d", pooled="pipeline.models.convolve:PooledConv2d", local=True
    ),
    "coordconv2d": ConvLayer(
        "pipeline.models.coordconv:CoordConv2d",
        pooled="pipeline.models.coordconv:PooledCoordConv2d",
        settings=("radius_center", "side"),
        local=True,
    ),
}

_NAME = r"[^\W\d]\w*"
_OWN = re.compile(rf"({_NAME}(?:\.{_NAME})*):({_NAME})(?:@([0-9a-f]{{8}}))?")


def is_own(conv_layer: str) -> bool:
    """Whether this names a layer of the user's own, with or without a digest."""
    return _OWN.fullmatch(conv_layer) is not None


def parts_of(own_layer: str) -> tuple[str, str, str | None]:
    """The module, the class and the digest, if there is one, of `my_layers:BlurConv2d@1f3a5c7e`."""
    match = _OWN.fullmatch(own_layer)
    if match is None:
        raise ValueError(f"{own_layer!r} is not written as {OWN_LAYER}")
    return match[1], match[2], match[3]


def entry_of(conv_layer: str) -> ConvLayer:
    """The entry of a layer of the table or of the user's own.

    Raises:
        PipelineError: if it is neither.
    """
    if conv_layer in CONV_LAYERS:
        return CONV_LAYERS[conv_layer]
    if is_own(conv_layer):
        return ConvLayer(conv_layer)
    allowed = ", ".join([*CONV_LAYERS, OWN_LAYER])
    raise PipelineError(f"conv_layer: got {conv_layer!r}; allowed: {allowed}")


def alias_of(conv_layer: str) -> str:
    """The layer's name in an alias of MLflow, which allows letters, digits, `_` and `-`.

    It has no digest: `my_layers-BlurConv2d` is the best of all versions of a user's own layer.
    """
    if not is_own(conv_layer):
        return conv_layer
    module, class_name, _ = parts_of(conv_layer)
    return f"{module}-{class_name}".replace(".", "-")


def pinned(conv_layer: str) -> str:
    """A layer of the user's own with the digest of its source file; one of the table as it is.

    Raises:
        PipelineError: if the module is not found, or if the name has another digest already.
    """
    if not is_own(conv_layer):
        return conv_layer
    module, class_name, digest = parts_of(conv_layer)
    source = source_of(module)
    if digest not in (None, source.digest):
        raise PipelineError(
            f"conv_layer: got {conv_layer!r}, but {source.file} has changed since then, its digest "
            f"is {source.digest}; restore the file, which each run of the layer holds as an "
            f"artifact, or go on with the layer as it is now: {module}:{class_name}"
        )
    return f"{module}:{class_name}@{source.digest}"


class Source(NamedTuple):
    """A source file, and its content when it was first read by this process."""

    file: Path
    content: bytes

    @property
    def digest(self) -> str:
        """The first eight hexadecimal digits of the content's SHA-256."""
        return hashlib.sha256(self.content).hexdigest()[:8]


@cache
def source_of(module: str) -> Source:
    """The source file of a module, which is not imported.

    Raises:
        PipelineError: if there is none.
    """
    path, spec = None, None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            break
        path = spec.submodule_search_locations
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise PipelineError(
            f"conv_layer: there is no module {module} (a file {'/'.join(parts)}.py) in "
            f"{Path.cwd()} or on PYTHONPATH; start the command in the folder of the file, or put "
            "the absolute path of that folder into PYTHONPATH"
        )
    file = Path(spec.origin)
    try:
        return Source(file, file.read_bytes())
    except OSError as error:
        raise PipelineError(f"conv_layer: {file} cannot be read: {error.strerror}") from None
