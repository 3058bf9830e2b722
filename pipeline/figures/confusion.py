"""Confusion matrices: of one model, and of several side by side."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


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
