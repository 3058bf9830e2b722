"""Load the class of a convolution layer and check what it does. Each error message is one line.

The checks are for a layer of the user's own, but hold for each layer of the table, too.
"""

import copy
import importlib
import io
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.conv_layers import parts_of, pinned, source_of


def construct(location: str, **arguments: Any) -> nn.Module:
    """A layer of the class at `module:Class`, whose source has the digest, if there is one.

    Raises:
        PipelineError: if there is no such class, it is no `nn.Module`, or it refuses the arguments.
    """
    layer_class = _load(location)
    try:
        return layer_class(**arguments)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise PipelineError(
            f"conv_layer: {_without_digest(location)}({given}) fails: "
            f"{_in_a_line(error, location)}; the constructor must take in_channels, out_channels, "
            "kernel_size and bias by keyword"
        ) from error


def _load(location: str) -> type[nn.Module]:
    module_name, class_name, digest = parts_of(location)
    if digest:
        pinned(location)  # the file may have changed since the first process read it
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise PipelineError(
            f"conv_layer: the module {module_name} cannot be imported: "
            f"{_in_a_line(error, location)}"
        ) from error
    found = getattr(module, class_name, None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        if digest and found.__module__ != module_name:
            # else an edit of the layer would not change the digest
            raise PipelineError(
                f"conv_layer: {class_name} is defined in {found.__module__} and not in "
                f"{module_name}; write {found.__module__}:{class_name}"
            )
        return found
    fault = f"no class {class_name}"
    if found is not None:
        fault = f"{class_name}, which is not a class derived from torch.nn.Module"
    defined = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module_name
        and isinstance(value, type)
        and issubclass(value, nn.Module)
    ]
    raise PipelineError(
        f"conv_layer: the module {module_name} has {fault}; it defines: "
        f"{', '.join(defined) or 'none'}"
    )


def check_output(
    layer: nn.Module, location: str, given: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Check that a layer maps images to the expected shape, and leaves them as they are.

    Copies of the layer are tried on two random images, in evaluation mode, and in training mode
    with a backward pass; torch's random state stays as it is.

    Args:
        location: the layer's name, for the errors.
        given, expected: channels and side in pixels, of its input and of its output.

    Raises:
        PipelineError: if it does not.
    """
    name, shape = _without_digest(location), (2, given[0], given[1], given[1])
    wanted = (2, expected[0], expected[1], expected[1])
    for training in (False, True):
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(training):
            before = torch.rand(shape, requires_grad=training)
            images = before.clone()
            try:
                # the memory format of a training
                tried = copy.deepcopy(layer).train(training).to(memory_format=torch.channels_last)
                output = tried(images)
                if training and isinstance(output, Tensor) and output.requires_grad:
                    output.sum().backward()
            except (Exception, SystemExit) as error:
                mode = " in training mode" if training else ""
                raise PipelineError(
                    f"conv_layer: {name} fails on images of the shape {shape}{mode}: "
                    f"{_in_a_line(error, location)}"
                ) from error
        got = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        if got != wanted:
            raise PipelineError(
                f"conv_layer: {name} must return (N, out_channels, H - kernel_size + 1, "
                f"W - kernel_size + 1), which is {wanted} for images of the shape {shape}; "
                f"got {got}"
            )
        if not torch.equal(images, before):
            raise PipelineError(
                f"conv_layer: {name} changes its input in place, which the transformer reads, too; "
                "compute on a new tensor"
            )


def check_export(network: nn.Module, conv_layer: str, image_size: int) -> None:
    """Check that a network with a user's own layer can be registered: exported as a pt2 archive.

    It must give the same logits after an export, for any number of images. Weights of the network
    that are 0 are changed.

    Args:
        network: images `(N, 1, S, S)` to logits `(N, 10)`.
        conv_layer: the layer's name, for the errors.
        image_size: S, in pixels.

    Raises:
        PipelineError: if it cannot.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # else the transformer would ignore the layer
                parameter.normal_(std=0.1)
        images = torch.rand(5, 1, image_size, image_size)
        network = network.eval().requires_grad_(False)
        try:
            with _quiet():
                exported = torch.export.export(
                    network, (images[:4],), dynamic_shapes=({0: torch.export.Dim.AUTO},)
                )
            foreign = _foreign_operators(exported)
            module = exported.module()
            same = all(
                torch.allclose(
                    module(images[:count]), network(images[:count]), atol=1e-4, equal_nan=True
                )
                for count in (1, 4, 5)
            )
        except (Exception, SystemExit) as error:
            raise _not_exportable(conv_layer, _in_a_line(error, conv_layer)) from error
    if foreign:
        raise _not_exportable(conv_layer, f"it uses the operators {', '.join(foreign)}")
    if not same:
        raise _not_exportable(conv_layer, "the exported network computes something else")


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what a failing export logs and prints: the error says it in one line."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _foreign_operators(exported: torch.export.ExportedProgram) -> list[str]:
    """Operators that are not torch's own; only a process that imports their module has them."""
    targets = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    return sorted(
        str(target)
        for target in targets
        if isinstance(target, torch._ops.OpOverload) and target.namespace not in ("aten", "prims")
    )


def _not_exportable(conv_layer: str, reason: str) -> PipelineError:
    return PipelineError(
        f"conv_layer: a network with {_without_digest(conv_layer)} cannot be exported as a pt2 "
        "archive for any number of images, which the registered model is: "
        f"{reason}; in forward, use torch's operators only, take sizes from images.shape, and "
        "neither fix the number of images nor branch on values of the images (use torch.where)"
    )


def _without_digest(location: str) -> str:
    return location.partition("@")[0]


def _in_a_line(error: BaseException, location: str) -> str:
    """The error's class and the first line of its text, and where in the user's file it arose."""
    text = [line.strip() for line in str(error).splitlines() if line.strip()][:1]
    file = source_of(parts_of(location)[0]).file
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    where = f" ({file.name}, line {lines[-1]})" if lines else ""
    return ": ".join([type(error).__name__, *text]) + where
