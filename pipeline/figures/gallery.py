"""One digit in eight poses, and what transformers make of it."""

from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

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

# what is shown of a transformer, by whether it warps the image or feature maps
CAPTIONS = {True: "after the transformer", False: "the image, where its feature map is sampled"}


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
