"""What the trainings of `lost_digits` did: results/translated.md.

python -m benchmarks.lost_digits_report table out
python -m benchmarks.lost_digits_report picture out                       results/lost_digits.png
python -m benchmarks.lost_digits_report inspect coordconv2d 300 out 3000  one iteration's weights
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from benchmarks.lost_digits import (
    DATASET,
    SAMPLER,
    by_group,
    features,
    load,
    localization,
    observed_set,
)
from pipeline.data.batches import normalize
from pipeline.data.mnist import load_mnist
from pipeline.models.stn import SpatialTransformerNetwork


def inspect(model: SpatialTransformerNetwork) -> None:
    """Print which weights move the mean of theta, and the gradient by theta in each padding mode.

    A step of SGD moves the mean of theta by -lr J Jᵀ times its gradient, where J are the
    derivatives of the mean by all weights. J Jᵀ is a sum over groups of weights; the mean of its
    diagonal is printed for each.
    """
    train_digits, test_digits = load_mnist("data")
    posed = observed_set(test_digits, train_digits.images)
    images, labels = normalize(DATASET, posed.digits.images), posed.digits.labels
    model.train()  # only so that the layers keep what their derivatives need
    theta = localization(model)[-1](features(model, images))
    shares: dict[str, float] = {}
    for entry in theta.mean(dim=0):
        rows = torch.autograd.grad(entry, list(localization(model).parameters()), retain_graph=True)
        for name, row in by_group(model, list(rows)).items():
            shares[name] = shares.get(name, 0.0) + row.square().sum().item() / theta.shape[1]
    print({name: float(f"{share:.3g}") for name, share in shares.items()})
    model.eval()
    for padding_mode in ("border", "zeros", "reflection"):
        theta = theta.detach().requires_grad_()
        grid = F.affine_grid(
            theta.view(-1, 2, 3), [len(theta), 1, SAMPLER, SAMPLER], align_corners=False
        )
        shown = F.grid_sample(images, grid, padding_mode=padding_mode, align_corners=False)
        loss = F.cross_entropy(model.classifier(shown), labels, reduction="sum")
        (g,) = torch.autograd.grad(loss, theta)
        without = (g.abs().amax(dim=1) == 0).float().mean().item()
        rms = [round(value, 2) for value in g.square().mean(dim=0).sqrt().tolist()]
        print(f"{padding_mode}: {without:.1%} of the images without gradient; rms {rms}")


def read(path: Path) -> list[dict[str, Any]]:
    """What `train` wrote, in order; of an iteration that was written twice, the last."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return list({row["iteration"]: row for row in rows}.values())


def table(folder: Path) -> None:
    """Print a line for each training."""
    columns = ["run", "iterations", "slope > 0.1 at", "largest slope", "largest 1 + abs(mean h)²"]
    columns += ["largest part outside", "accuracy"]
    print("|", " | ".join(columns), "|")
    for path in sorted(folder.glob("*.jsonl")):
        rows = read(path)
        following = [row["iteration"] for row in rows if row["slope"] > 0.1]
        largest = [max(row[name] for row in rows) for name in ("slope", "common", "outside")]
        last = rows[-1]
        first = str(following[0]) if following else "–"
        cells = [path.stem, str(last["iteration"]), first, *(f"{value:.3g}" for value in largest)]
        cells.append(f"{last.get('test_accuracy', last['accuracy']):.3f}")
        print("|", " | ".join(cells), "|")


def picture(folder: Path) -> Figure:
    """Accuracy, slope and 1 + |mean of h|² over the iterations of the runs with seed 300."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    colors = {"conv2d": "C0", "fan_in": "C2", "small": "C1", "coordconv2d": "C3"}
    for variant, color in colors.items():
        rows = read(folder / f"{variant}-300.jsonl")
        for axes, name in zip(panels, ("accuracy", "slope", "common"), strict=True):
            x, y = [row["iteration"] for row in rows], [row[name] for row in rows]
            axes.plot(x, y, color=color, label=variant, linewidth=1)
    labels = ("accuracy", "slope of theta's shift on the digit's place", "1 + |mean of h|²")
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="iteration", title=label)
        axes.grid(alpha=0.3)
    panels[1].set_yscale("symlog", linthresh=0.01)
    panels[1].axhline(1, color="black", linewidth=0.5)
    panels[2].set_yscale("log")
    panels[0].legend()
    return figure


def main() -> None:
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["table", folder]:
            table(Path(folder))
        case ["picture", folder]:
            picture(Path(folder)).savefig("results/lost_digits.png", dpi=100)
        case ["inspect", variant, seed, folder, iteration]:
            inspect(load(variant, seed, f"{folder}/{variant}-{seed}-{iteration}.pt"))
        case _:
            sys.exit(f"usage: see {__file__}")


if __name__ == "__main__":
    main()
