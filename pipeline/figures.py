"""The pictures that are logged. Each function makes matplotlib Figures and shows nothing."""

from collections.abc import Sequence
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from pipeline.statistics import margin_text, summarize

if TYPE_CHECKING:  # which imports scikit-learn
    from pipeline.metrics import Scores

# groups are told apart by line and marker, too, and by a lightness that survives printing in grey
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")

# an outline on a digit: light on its black, with a black rim on its white and the grey around it
_OTHER_EDGES: dict[str, Any] = {
    "color": "gold",
    "linewidth": 1.4,
    "linestyle": (0, (3, 1.5)),
    "path_effects": [withStroke(linewidth=2.6, foreground="black")],
}
_UPPER_EDGE: dict[str, Any] = {
    "color": "gold",
    "linewidth": 3.2,
    "solid_capstyle": "butt",
    "path_effects": [withStroke(linewidth=5, foreground="black")],
}


def score_files(scores: "Scores") -> dict[str, Figure | str | dict]:
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
    title = f"accuracy {accuracy:.2%}, macro F1 {f1:.2%}, {confusion.sum():,} images"
    _confusion_panel(figure.subplots(), confusion, title)
    return figure


def confusion_matrices_figure(confusions: dict[str, np.ndarray]) -> Figure:
    """Confusion matrices side by side, two in a row, each under its title."""
    rows = (len(confusions) + 1) // 2
    figure = Figure(figsize=(11.6, 6.1 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flat
    for (title, confusion), axes in zip(confusions.items(), panels, strict=False):
        _confusion_panel(axes, confusion, title)
    for axes in panels:  # an odd number leaves one empty
        axes.set_axis_off()
    return figure


def _confusion_panel(axes: Axes, confusion: np.ndarray, title: str) -> None:
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
        title=title,
    )


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


# what is shown of a transformer, by whether it warps the image or feature maps
CAPTIONS = {True: "after the transformer", False: "the image, where its feature map is sampled"}


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


class Gallery(NamedTuple):
    """What a transformer makes of one digit in eight poses.

    before: uint8 `(8, H, W)`, what the network gets.
    after: uint8 `(8, h, w)`, the same images transformed.
    outline: `(8, K, 2)`, points (x, y) around what is looked at, in normalized coordinates of the
        image, `align_corners=False`; clockwise from the upper left corner of the output, the first
        K // 4 along its upper edge.
    caption: what the images after the transformer are, in words.
    """

    before: np.ndarray
    after: np.ndarray
    outline: np.ndarray
    caption: str


def gallery_figure(protocols: dict[str, dict[str, Gallery]]) -> Figure:
    """Two rows for each group: a digit in eight poses, outlined, and what is made of it.

    Args:
        protocols: by the protocol's label, by group; each protocol stands under its label.
    """
    blocks = [
        (label if place == 0 else "", name, gallery)
        for label, groups in protocols.items()
        for place, (name, gallery) in enumerate(groups.items())
    ]
    titles = ["\n".join(fill(line, 130) for line in label.splitlines()) for label, _, _ in blocks]
    heights = [2.6 + (0.25 + 0.2 * len(title.splitlines()) if title else 0) for title in titles]
    figure = Figure(figsize=(11.6, 0.5 + sum(heights)), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, title, (_, name, gallery) in zip(parts, titles, blocks, strict=True):
        if title:
            part.suptitle(title, fontsize="medium", parse_math=False)
        upper, lower = part.subplots(2, 9, width_ratios=(1.8, *8 * (1,)))
        _row_label(upper[0], "input", name)
        _row_label(lower[0], gallery.caption)
        # all eight at one scale, which shows what lies outside, too, unless that is far away
        reach = 0.06 + min(max(1.0, float(np.abs(gallery.outline).max())), 1.6)
        for axes, image, points in zip(upper[1:], gallery.before, gallery.outline, strict=True):
            _posed_digit(axes, image, reach)
            axes.set_anchor("S")  # a group's two rows keep together
            _outline(axes, points)
        for axes, image in zip(lower[1:], gallery.after, strict=True):
            _posed_digit(axes, image, 1.06)
            axes.set_anchor("N")
            axes.plot([-1, 1], [-1, -1], **_UPPER_EDGE)
    handles, labels = upper[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=4)
    return figure


def _row_label(axes: Axes, text: str, name: str = "") -> None:
    axes.set_axis_off()
    words: dict[str, Any] = {"fontsize": 9, "parse_math": False}
    axes.text(0, 0.48, fill(text, 25), va="top" if name else "center", **words)
    axes.text(0, 0.52, fill(name, 25), va="bottom", weight="bold", **words)


def _posed_digit(axes: Axes, image: np.ndarray, reach: float) -> None:
    """An image `(H, W)` in its normalized coordinates, out to `reach` in each direction."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(-1, 1, 1, -1))
    axes.set(xticks=[], yticks=[], xlim=(-reach, reach), ylim=(reach, -reach), facecolor="0.6")


def _outline(axes: Axes, points: np.ndarray) -> None:
    """Draw the points `(K, 2)` as a closed line, the upper edge thick."""
    corner = len(points) // 4
    others = np.concatenate([points[corner:], points[:1]])
    axes.plot(*others.T, label="what the transformer looks at", **_OTHER_EDGES)
    upper = points[: corner + 1]
    axes.plot(*upper.T, label="its upper edge, which comes out on top", **_UPPER_EDGE)


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


def comparison_figure(protocols: dict[str, dict[str, list[float]]], margin: float) -> Figure:
    """Every run's accuracy as a point, each group's mean with its 95 % confidence interval.

    A band shows which means lie within the margin of the first group's.

    Args:
        protocols: by the protocol's label, by group, the accuracies as fractions. Each protocol
            gets a panel of its own, with its own scale.
        margin: in percentage points.
    """
    heights = [1.3 + 0.5 * len(groups) for groups in protocols.values()]
    longest = max(len(name) for groups in protocols.values() for name in groups)
    figure = Figure(figsize=(6.8 + 0.08 * longest, 0.6 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(protocols), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, groups) in zip(panels, protocols.items(), strict=True):
        summaries = []
        for place, accuracies in enumerate(groups.values()):
            percent = [100 * accuracy for accuracy in accuracies]
            # a run does not hide another one of the same accuracy
            level = [percent[:number].count(value) % 6 for number, value in enumerate(percent)]
            y = place - 0.14 - 0.09 * np.array(level)
            axes.plot(percent, y, "o", color="black", fillstyle="none", label="one run")
            summary = summarize(percent)
            summaries.append(summary)
            # without an interval, as of one run alone, the mean stands by itself
            below = 0.0 if summary.low is None else summary.mean - summary.low
            above = 0.0 if summary.high is None else summary.high - summary.mean
            axes.errorbar(
                summary.mean,
                place + 0.14,
                xerr=[[below], [above]],
                fmt="s",
                color="tab:blue",
                capsize=5,
                label="mean, 95 % confidence interval",
            )
        axes.axvspan(
            summaries[0].mean - margin,
            summaries[0].mean + margin,
            color="0.9",
            zorder=0,
            label=f"±{margin_text(margin)} pp around the first group's mean",
        )
        axes.set(
            yticks=range(len(groups)),
            yticklabels=[f"{name} (n={len(runs)})" for name, runs in groups.items()],
            ylim=(len(groups) - 0.5, -0.5),  # the first on top
            xlabel="test accuracy [%]",
        )
        title = [part for line in label.splitlines() for part in wrap(line, 84)]
        axes.set_title("\n".join(title), fontsize="medium", parse_math=False)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.grid(axis="x", alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))  # one of each, not one of each group
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    return figure


def run_curves_figure(groups: dict[str, list[dict[str, dict[int, float]]]]) -> Figure:
    """Training loss and test accuracy of every run, and the mean of each group.

    The accuracy's scale begins where the runs are after a fifth of their epochs: what comes before
    would press the rest into a line.

    Args:
        groups: by group, for each run its `train_loss` and `test_accuracy` (a fraction) by epoch.
    """
    columns = max(1, min(4, 120 // max(12 + len(name) for name in groups)))  # of the legend
    legend_rows = -(-len(groups) // columns)
    figure = Figure(figsize=(11.6, 4.6 + 0.25 * legend_rows), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    panels = ((loss_axes, "train_loss", 1), (accuracy_axes, "test_accuracy", 100))
    for axes, metric, scale in panels:
        for place, (name, runs) in enumerate(groups.items()):
            curves = [run[metric] for run in runs]
            # 0.75 and not 1: the light end of viridis is hard to see on white
            color = colormaps["viridis"](0.75 * place / max(len(groups) - 1, 1))
            style = _LINES[place % len(_LINES)]
            points = [[(epoch, scale * y) for epoch, y in curve.items()] for curve in curves]
            # one artist: a hundred lines take matplotlib half a second
            thin = LineCollection(points, linestyle=style, color=color, linewidth=0.7, alpha=0.5)
            axes.add_collection(thin)
            epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
            mean = [scale * np.mean([curve[epoch] for curve in curves]) for epoch in epochs]
            axes.plot(
                epochs,
                mean,
                style,
                color=color,
                linewidth=2.5,
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=7,
                # from the fifth group on, lines and markers begin anew, with hollow markers
                markerfacecolor="white" if place // len(_MARKERS) % 2 else color,
                markeredgewidth=1.5,
                markevery=max(len(epochs) // 8, 1),
                label=f"mean of {name} (n={len(curves)})" if len(curves) > 1 else name,
            )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss_axes.set(ylabel="cross-entropy", yscale="log", title="training loss")
    # below and not inside: that of eight groups would hide curves
    handles, labels = loss_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=4)
    accuracy_axes.set(ylabel="accuracy [%]", title="test accuracy")
    curves = [run["test_accuracy"] for runs in groups.values() for run in runs]
    shown = [
        100 * accuracy
        for curve in curves
        for epoch, accuracy in curve.items()
        if epoch >= max(curve) / 5
    ]
    room = 0.05 * (max(shown) - min(shown))
    bottom = min(shown) - room
    if room and 100 * min(min(curve.values()) for curve in curves) < bottom:
        accuracy_axes.set_ylim(bottom, max(shown) + room)
        accuracy_axes.set_title(f"test accuracy, from {bottom:.2f}% on")
    return figure
