"""The pictures of a comparison: accuracies and learning curves of groups of runs."""

from collections import Counter
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# groups are told apart by line and marker, too, and by a lightness that survives printing in grey
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


class Accuracies(NamedTuple):
    """The test accuracies of a group's runs, their mean, and its 95 % confidence interval.

    In percent. Of one run alone, there is no interval: `low` and `high` are None.
    """

    runs: list[float]
    mean: float
    low: float | None
    high: float | None


def comparison_figure(
    protocols: dict[str, dict[str, Accuracies]], margin: float, margin_label: str
) -> Figure:
    """Every run's accuracy as a point, each group's mean with its 95 % confidence interval.

    A band shows which means lie within the margin of the first group's.

    Args:
        protocols: by the protocol's label, by group. Each protocol gets a panel of its own, with
            its own scale.
        margin, margin_label: in percentage points, as a number and as it is written.
    """
    heights = [1.3 + 0.5 * len(groups) for groups in protocols.values()]
    longest = max(len(name) for groups in protocols.values() for name in groups)
    figure = Figure(figsize=(6.8 + 0.08 * longest, 0.6 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(protocols), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, groups) in zip(panels, protocols.items(), strict=True):
        for place, (percent, mean, low, high) in enumerate(groups.values()):
            # a run does not hide another one of the same accuracy
            seen: Counter[float] = Counter()
            level = []
            for value in percent:
                level.append(seen[value] % 6)
                seen[value] += 1
            y = place - 0.14 - 0.09 * np.array(level)
            axes.plot(percent, y, "o", color="black", fillstyle="none", label="one run")
            # without an interval, as of one run alone, the mean stands by itself
            below = 0.0 if low is None else mean - low
            above = 0.0 if high is None else high - mean
            axes.errorbar(
                mean,
                place + 0.14,
                xerr=[[below], [above]],
                fmt="s",
                color="tab:blue",
                capsize=5,
                label="mean, 95 % confidence interval",
            )
        first = next(iter(groups.values()))
        axes.axvspan(
            first.mean - margin,
            first.mean + margin,
            color="0.9",
            zorder=0,
            label=f"±{margin_label} pp around the first group's mean",
        )
        axes.set(
            yticks=range(len(groups)),
            yticklabels=[f"{name} (n={len(group.runs)})" for name, group in groups.items()],
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

    The accuracy's scale begins where the runs are after a fifth of their epochs: earlier values
    would compress the rest of the scale.

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
