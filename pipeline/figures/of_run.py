"""The pictures of one training: learning curves, and digits before and after the transformer."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def learning_curves_figure(history: list[dict[str, float]], best_epoch: int) -> Figure:
    """Loss and accuracy over the epochs, as `train` reported them; epoch 1 comes first."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    names = {"train": "training", "val": "validation", "test": "test"}
    styles = {"train": ":", "val": "--", "test": "-"}
    epochs = range(1, len(history) + 1)
    for split, name in names.items():
        if f"{split}_loss" not in history[0]:
            continue
        style = {"linestyle": styles[split], "marker": "o", "markersize": 3, "label": name}
        loss_axes.plot(epochs, [m[f"{split}_loss"] for m in history], **style)
        accuracy = [100 * m[f"{split}_accuracy"] for m in history]
        accuracy_axes.plot(epochs, accuracy, **style)
    loss_axes.set(ylabel="cross-entropy", yscale="log", title="loss")
    accuracy_axes.set(ylabel="accuracy [%]", title="accuracy")
    for axes in (loss_axes, accuracy_axes):
        axes.axvline(best_epoch, color="gray", linewidth=0.8, label=f"best epoch ({best_epoch})")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def before_after_figure(before: np.ndarray, after: np.ndarray, caption: str) -> Figure:
    """What the transformer made of 64 images, each array `(64, H, W)`; see `CAPTIONS`."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes, images, title in zip(
        figure.subplots(1, 2), (before, after), ("input", caption), strict=True
    ):
        _mosaic(axes, images)
        axes.set_title(title)
    return figure


def _mosaic(axes: Axes, images: np.ndarray) -> None:
    """64 images as 8 rows of 8, with a thin line between them."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=images.max())
    _, height, width = framed.shape
    sheet = framed.reshape(8, 8, height, width).swapaxes(1, 2).reshape(8 * height, 8 * width)
    axes.imshow(sheet, cmap="gray", interpolation="nearest")
    axes.set_axis_off()
