"""How the cost of an epoch grows with batch size, image size and number of images.

    python -m benchmarks.growth       part of `make bench`

One run of ours on one thread, `coordconv2d`; medians of three interleaved repetitions. Writes
`results/growth.md`, `.json` and `.png`.
"""

import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from benchmarks.commit import commit
from pipeline.data.mnist import Digits, load_mnist
from pipeline.machine import cpu
from pipeline.models.build import build_model
from pipeline.params import RunParams
from pipeline.training.loop import train_epoch

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024)
IMAGE_SIZES = (28, 60, 112)
COUNTS = (1_000, 5_000, 10_000, 30_000, 60_000)
WHOLE = 60_000  # images of an epoch


def training_seconds(digits: Digits, batch_size: int) -> float:
    """Seconds of one pass over the images, after a warm-up of a few steps."""
    size = digits.images.shape[-1]
    params = RunParams(conv_layer="coordconv2d", batch_size=batch_size)
    torch.manual_seed(0)
    model = build_model(
        conv_layer=params.conv_layer, layer_settings=params.layer_settings, image_size=size
    )
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=params.lr, fused=True)
    train_epoch(model, part(digits, 5 * batch_size), optimizer, params)
    start = time.perf_counter()
    train_epoch(model, digits, optimizer, params)
    return time.perf_counter() - start


def medians(cases: dict[int, tuple[Digits, int]]) -> dict[int, float]:
    """Seconds of a pass for each case, in turn: a slow moment meets one pass of several cases."""
    rounds = [{n: training_seconds(*case) for n, case in cases.items()} for _ in range(3)]
    return {n: statistics.median(seconds[n] for seconds in rounds) for n in cases}


def part(digits: Digits, count: int) -> Digits:
    return Digits(digits.images[:count], digits.labels[:count])


def picture(report: dict[str, dict[int, float]]) -> Figure:
    """Seconds over each of the three sizes, a panel each."""
    labels = {
        "batch_size": "images per batch",
        "image_size": "side of the images [pixels]",
        "images": "number of images",
    }
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (name, seconds) in zip(figure.subplots(1, 3), report.items(), strict=True):
        axes.plot(list(seconds), list(seconds.values()), "o-", color="black")
        axes.set(xlabel=labels[name], ylabel="seconds", ylim=0)
        axes.set_title("one pass" if name == "images" else "60,000 images", fontsize=10)
        axes.grid(alpha=0.3)
        if name == "batch_size":
            axes.set_xscale("log", base=2)
            axes.set_xticks(BATCH_SIZES, [str(b) for b in BATCH_SIZES])
        elif name == "images":
            axes.set_xticks([0, 20_000, 40_000, 60_000])
    return figure


def main() -> None:
    """Measure, draw, and write the results."""
    torch.set_num_threads(1)
    train_set, _ = load_mnist("data")
    some = part(train_set, 6_000)
    larger = {
        size: Digits(F.interpolate(some.images[:1000], size=(size, size)), some.labels[:1000])
        for size in IMAGE_SIZES
    }

    cases = {
        "batch_size": {b: (some, b) for b in BATCH_SIZES},
        "image_size": {s: (images, 64) for s, images in larger.items()},
        "images": {c: (part(train_set, c), 64) for c in COUNTS},
    }
    scales = {"batch_size": WHOLE / 6_000, "image_size": WHOLE / 1_000, "images": 1}
    report = {
        name: {n: seconds * scales[name] for n, seconds in medians(sizes).items()}
        for name, sizes in cases.items()
    }
    Path("results/growth.json").write_text(json.dumps(report, indent=2) + "\n")

    picture(report).savefig("results/growth.png", dpi=110)

    batch, size, count = report.values()
    text = f"""# How the cost of an epoch grows

`python -m benchmarks.growth` at commit {commit()}: training steps only, one thread, \
`coordconv2d`, {cpu()}, torch {torch.__version__}; medians of three interleaved repetitions.

![Seconds over batch size, image size and number of images](growth.png)

- **Batch size**: {batch[16]:.1f} s for 60,000 images in batches of 16, {batch[64]:.1f} s in \
batches of 64, {batch[1024]:.1f} s in batches of 1024; the fastest here is \
{min(batch, key=batch.get)}. Small batches pay the fixed cost of each step more often.
- **Image size**: {size[28]:.1f} s at 28×28, {size[60]:.1f} s at 60×60 \
({size[60] / size[28]:.1f} times, for {60**2 / 28**2:.1f} times the pixels), {size[112]:.1f} s at \
112×112 ({size[112] / size[28]:.1f} times, for {112**2 / 28**2:.0f} times).
- **Number of images**: {1e3 * count[1_000] / 1_000:.3f} ms per image in a pass over 1,000, \
{1e3 * count[60_000] / 60_000:.3f} ms in one over 60,000.
"""
    Path("results/growth.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
