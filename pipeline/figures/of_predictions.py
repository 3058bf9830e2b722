"""The picture of what a model says about image files."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


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
