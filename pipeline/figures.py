"""The pictures that are logged. Each function makes matplotlib Figures and shows nothing."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.metrics import Scores


def score_files(scores: Scores) -> dict[str, Figure | str | dict]:
    """The files that show a model's scores on a test set, by name."""
    digits = ",".join(map(str, range(10)))
    rows = [",".join(map(str, [digit, *row])) for digit, row in enumerate(scores.confusion)]
    return {
        "confusion_matrix.png": confusion_matrix_figure(
            scores.confusion, scores.accuracy, scores.f1
        ),
        "confusion_matrix.csv": "\n".join([f"true\\predicted,{digits}", *rows, ""]),
        "classification_report.json": scores.report,
    }


def confusion_matrix_figure(confusion: np.ndarray, accuracy: float, f1: float) -> Figure:
    """Counts per true digit (row) and predicted digit (column), int `(10, 10)`.

    The shade follows the logarithm of the count: next to a thousand hits, a handful of
    confusions would else be invisible.
    """
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.log1p(confusion), cmap="Blues", vmin=0)
    dark = np.log1p(confusion.max()) / 2
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if np.log1p(count) > dark else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=10)
    axes.set(
        xlabel="predicted digit",
        ylabel="true digit",
        xticks=range(10),
        yticks=range(10),
        title=f"accuracy {accuracy:.2%}, macro F1 {f1:.2%}, {confusion.sum():,} images",
    )
    return figure


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


def before_after_figure(before: np.ndarray, after: np.ndarray) -> Figure:
    """What the transformer made of 64 images, each array `(64, H, W)`."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes, images, title in zip(
        figure.subplots(1, 2), (before, after), ("input", "after the transformer"), strict=True
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


def predictions_figure(
    names: Sequence[str],
    images: Sequence[np.ndarray],
    inputs: np.ndarray,
    probabilities: np.ndarray,
) -> Figure:
    """A row for each of N files: the image, what the network got, and what it made of it.

    Args:
        names: of the files.
        images: luminance in [0, 1], `(H, W)` each, of any size.
        inputs: uint8 `(N, 28, 28)`.
        probabilities: `(N, 10)`, each row sums to 1.
    """
    figure = Figure(figsize=(8, 0.2 + 2.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 3, squeeze=False, width_ratios=(1, 1, 2))
    for row, name, image, pixels, of_digit in zip(
        panels, names, images, inputs, probabilities, strict=True
    ):
        short = name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
        row[0].set_title(short, parse_math=False)  # "$" is a letter like any other
        row[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        row[1].set_title("28×28 input")
        row[1].imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for axes in row[:2]:
            axes.set(xticks=[], yticks=[])
        digit = of_digit.argmax()
        colors = ["black" if bar == digit else "darkgray" for bar in range(10)]
        row[2].bar(range(10), 100 * of_digit, color=colors)
        row[2].set(
            title=f"{digit} ({of_digit[digit]:.1%})",
            xlabel="digit",
            ylabel="probability [%]",
            xticks=range(10),
            ylim=(0, 100),
        )
    return figure


def comparison_figure(protocols: dict[str, dict[str, list[float]]]) -> Figure:
    """Every run's accuracy as a point, with each layer's mean and sample standard deviation.

    Args:
        protocols: by the protocol's label, by layer, the accuracies as fractions. Each protocol
            gets a panel of its own, with its own scale.
    """
    figure = Figure(figsize=(6.4, 0.6 + 3.4 * len(protocols)), layout="constrained")
    panels = figure.subplots(len(protocols), 1, squeeze=False)[:, 0]
    for axes, (label, layers) in zip(panels, protocols.items(), strict=True):
        for place, accuracies in enumerate(layers.values()):
            percent = 100 * np.array(accuracies)
            runs = np.full(len(percent), place - 0.08)
            axes.plot(runs, percent, "o", color="black", fillstyle="none", label="one run")
            spread = percent.std(ddof=1) if len(percent) > 1 else None
            axes.errorbar(
                place + 0.08,
                percent.mean(),
                yerr=spread,
                fmt="s",
                color="tab:blue",
                capsize=5,
                label="mean ± sample standard deviation",
            )
        axes.set(
            title=label,
            xticks=range(len(layers)),
            xticklabels=[f"{name} (n={len(values)})" for name, values in layers.items()],
            xlim=(-0.5, len(layers) - 0.5),
            ylabel="test accuracy [%]",
        )
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(axis="y", alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))  # one of each, not one of each layer
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2)
    return figure
