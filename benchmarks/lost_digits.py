"""Why a localization network with CoordConv loses translated digits: results/translated.md.

    python -m benchmarks.lost_digits start                           at initialization
    python -m benchmarks.lost_digits train coordconv2d 300 out 5000  a training: out/*.jsonl
    python -m benchmarks.lost_digits classifier 301 out              the classifier alone
    python -m benchmarks.lost_digits train coordconv2d 301 out 2000 warm       starts with that
    python -m benchmarks.lost_digits train coordconv2d 301 out 4000 warm 2000  goes on

All networks of a seed share the weights that they have in common: the pixel weights of a CoordConv
layer are those of the Conv2d layer, scaled to the range that PyTorch draws from for the larger
fan-in. They see the same batches, too. So two variants differ in what their name says only.
"""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from pipeline.data.batches import shuffled_batches
from pipeline.data.distorted import Posed, fixed_set, normalize
from pipeline.data.mnist import Digits, load_mnist, split_validation
from pipeline.data.warps import distort
from pipeline.models.stn import SpatialTransformerNetwork, build_model
from pipeline.training.metrics import pose_deviation

DATASET, SIZE, SAMPLER = "translated", 60, 30
LEARNING_RATE, BATCH = 0.01, 64
PROBE = 500  # test images that a training is observed on
START_SEEDS, START_IMAGES = range(1000, 1030), 500
WARM_UP = 4000  # iterations of the classifier alone

# Each variant is a network of the preset params/translated_layers.yaml but for this:
VARIANTS = {
    "conv2d": "nothing",
    "coordconv2d": "nothing",
    "small": "conv2d with the smaller first weights of coordconv2d; no coordinates",
    "fan_in": "coordconv2d with the first pixel weights and biases of conv2d",
    "zero": "as fan_in, and the coordinates' weights start at 0",
    "centred": "coordconv2d; theta is the last bias and W (h - mean of h over the batch)",
    "fast_bias": "conv2d; the bias of theta learns `BIAS_FACTOR` times as fast",
    "radius_0.5": "coordconv2d, the radius measured from (0.5, 0.5)",
    "no_radius": "coordconv2d, the radius channel set to 0",
    "tenth": "coordconv2d, the coordinates times 0.1",
    "zeros": "coordconv2d, padding_mode zeros",
}
BIAS_FACTOR = 10.0


class Centred(nn.Module):
    """`(N, F)` minus its mean over the batch; in evaluation, minus a running mean."""

    running: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(features))

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features - self.running
        mean = features.mean(dim=0)
        self.running.lerp_(mean.detach(), 0.1)
        return features - mean


def network(variant: str, seed: int) -> SpatialTransformerNetwork:
    """The network of a variant before its first step."""
    torch.manual_seed(seed)
    padding = "zeros" if variant == "zeros" else "border"
    plain = build_model("conv2d", padding, 0.0, SIZE, sampler_size=SAMPLER)
    if variant in ("conv2d", "fast_bias"):
        return plain
    center = 0.5 if variant == "radius_0.5" else 0.0
    model = build_model("coordconv2d", padding, center, SIZE, sampler_size=SAMPLER)
    model.classifier.load_state_dict(plain.classifier.state_dict())
    generator = Generator().manual_seed(seed + 1_000_000)
    with torch.no_grad():
        for old, new in zip(localization(plain), localization(model), strict=True):
            if isinstance(new, nn.Linear):
                new.load_state_dict(old.state_dict())
            if not hasattr(new, "add_coords"):
                continue
            # PyTorch draws weights and biases of a convolution from ±1/√(fan-in).
            fan_in = new.conv.weight[0].numel()
            ratio = math.sqrt(old.weight[0].numel() / fan_in)
            pixels, coordinates = new.conv.weight.split([new.in_channels, 3], dim=1)
            coordinates.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
            ratio = 1.0 if variant in ("fan_in", "zero") else ratio
            pixels.copy_(old.weight * ratio)
            new.conv.bias.copy_(old.bias * ratio)
            if variant == "zero":
                coordinates.zero_()
            if variant == "small":
                old.weight.mul_(ratio)
                old.bias.mul_(ratio)
            _scale_coordinates(new, variant)
    if variant == "centred":
        layers = model.transformer.localization
        layers.insert(len(layers) - 1, Centred(layers[-1].in_features))
    return plain if variant == "small" else model


def localization(model: SpatialTransformerNetwork) -> nn.Sequential:
    return model.transformer.localization


def _scale_coordinates(layer: Any, variant: str) -> None:
    factors = {"tenth": (0.1, 0.1, 0.1), "no_radius": (1.0, 1.0, 0.0)}.get(variant)
    if factors is None:
        return
    original, scale = layer.add_coords.coordinates_for, torch.tensor(factors).view(1, 3, 1, 1)
    kept: dict[int, Tensor] = {}

    def scaled(images: Tensor) -> Tensor:
        coordinates = original(images)
        return kept.setdefault(id(coordinates), coordinates * scale)

    layer.add_coords.coordinates_for = scaled


def features(model: SpatialTransformerNetwork, images: Tensor) -> Tensor:
    """`(N, 32)`: h, what the last layer makes theta of, theta = W h + b."""
    side = model.transformer.localization_size
    return localization(model)[:-1](images[..., :side, :side])


def probe_set(test_digits: Digits, clutter: Tensor, count: int) -> Posed:
    some = Digits(test_digits.images[:count], test_digits.labels[:count])
    return fixed_set(DATASET, some, clutter)


def explained(h: Tensor, pose: Tensor) -> float:
    """R² of the digits' places as a linear function of h, over both coordinates."""
    x = torch.cat([h, torch.ones(len(h), 1)], dim=1).double().numpy()
    y = pose.double().numpy()
    rest = y - x @ np.linalg.lstsq(x, y, rcond=1e-6)[0]
    return float(1 - rest.var(axis=0).sum() / y.var(axis=0).sum())


def of_features(h: Tensor, pose: Tensor) -> dict[str, float]:
    """What the first step of the last layer depends on.

    While W is 0, a step of SGD moves theta of image n by lr times the mean over the images m of the
    batch of -g_m (1 + h_m · h_n). With h = mean + d, that is a motion of all alike by lr times
    -mean(g) (1 + |mean|²), and one that follows the image. `common` is 1 + |mean|²; `varying` is
    the mean of |d|²; `place` is what a theta that should follow the digit's place learns at:
    |mean(y d)|² / mean(y²), the mean over y, the two coordinates of the place.
    """
    mean = h.mean(dim=0)
    d = h - mean
    y = pose - pose.mean(dim=0)
    place = (y.T @ d / len(h)).square().sum(dim=1) / y.square().mean(dim=0)
    return {
        "common": 1 + mean.square().sum().item(),
        "varying": d.square().sum(dim=1).mean().item(),
        "place": place.mean().item(),
        "explained": explained(h, pose),
        "dead": (h.amax(dim=0) <= 0).sum().item(),
    }


def start() -> None:
    """Print what differs before the first step, over many initializations."""
    torch.set_num_threads(1)
    train_digits, test_digits = load_mnist("data")
    posed = probe_set(test_digits, train_digits.images, START_IMAGES)
    images, labels = normalize(DATASET, posed.digits.images), posed.digits.labels
    chosen = ("conv2d", "coordconv2d", "small", "fan_in", "zero", "radius_0.5", "no_radius")
    chosen = (*chosen, "tenth", "centred")
    columns = ("common", "varying", "place", "explained", "dead")
    print("medians (quartiles) over", len(START_SEEDS), "initializations")
    print("| variant |", " | ".join([*columns, "common / place"]), "|")
    for variant in chosen:
        rows = []
        for seed in START_SEEDS:
            model = network(variant, seed)
            model.eval()  # of no effect on the localization network, but for `Centred`
            with torch.no_grad():
                h = features(model, images)
                if variant == "centred":
                    h = h - h.mean(dim=0)
            row = of_features(h, posed.pose)
            rows.append([*(row[c] for c in columns), row["common"] / row["place"]])
        quartiles = np.percentile(np.array(rows), [50, 25, 75], axis=0).T
        cells = [f"{m:.3g} ({low:.3g} to {high:.3g})" for m, low, high in quartiles]
        print(f"| {variant} |", " | ".join(cells), "|", flush=True)
    print("\ngradients after one step, medians over 20 initializations: norm, per weight")
    for variant in ("conv2d", "coordconv2d", "fan_in"):
        rows = [_gradients_after_a_step(variant, s, images, labels) for s in START_SEEDS[:20]]
        for name in rows[0]:
            print(variant, name, f"{np.median([row[name] for row in rows]):.3g}", flush=True)


def _gradients_after_a_step(
    variant: str, seed: int, images: Tensor, labels: Tensor
) -> dict[str, float]:
    """Root mean square of the gradient in each group of weights; one step on the first batch."""
    model = network(variant, seed).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    torch.manual_seed(seed)
    F.cross_entropy(model(images[:BATCH]), labels[:BATCH]).backward()
    first = {f"first step, {name}": value for name, value in gradient_norms(model).items()}
    optimizer.step()
    optimizer.zero_grad()
    F.cross_entropy(model(images[BATCH : 5 * BATCH]), labels[BATCH : 5 * BATCH]).backward()
    return first | {f"second step, {n}": v for n, v in gradient_norms(model).items()}


def gradient_norms(model: SpatialTransformerNetwork) -> dict[str, float]:
    """Root mean square of the gradient, by group of the localization network's weights."""
    groups: dict[str, Tensor] = {}
    for number, layer in enumerate(m for m in localization(model) if list(m.parameters())):
        for name, parameter in layer.named_parameters():
            if parameter.dim() == 4 and hasattr(layer, "add_coords"):
                pixels, coordinates = parameter.grad.split([layer.in_channels, 3], dim=1)
                groups[f"{number} pixels"], groups[f"{number} coordinates"] = pixels, coordinates
            elif parameter.dim() == 4:
                groups[f"{number} pixels"] = parameter.grad
            else:
                groups[f"{number} {name.split('.')[-1]}"] = parameter.grad
    return {name: g.square().mean().sqrt().item() for name, g in groups.items()}


@torch.no_grad()
def observe(model: SpatialTransformerNetwork, posed: Posed) -> dict[str, Any]:
    """Where theta is, on the probe images."""
    model.eval()
    images = normalize(DATASET, posed.digits.images)
    h, grid, logits = [], [], []
    for part in images.split(250):
        h.append(features(model, part))
        grid.append(model.grid(part))
        logits.append(model(part))
    h, grid, logits = torch.cat(h), torch.cat(grid), torch.cat(logits)
    last = localization(model)[-1]
    theta = h @ last.weight.T + last.bias
    outside = (grid.abs() > 1).any(dim=3).float().flatten(1).mean(dim=1)
    place = posed.pose / (SIZE / 2)  # of the digit's centre, normalized
    matrix = theta.view(-1, 2, 3)
    shift = matrix[:, :, 2] - matrix[:, :, 2].mean(dim=0)
    y = place - place.mean(dim=0)
    deviation = pose_deviation(
        DATASET, posed.pose.numpy(), theta.numpy(), posed.digits.labels.numpy(), width=SIZE
    )
    nearest = (grid - place.view(-1, 1, 1, 2)).abs().amax(dim=3).flatten(1).amin(dim=1)
    return {
        "accuracy": (logits.argmax(dim=1) == posed.digits.labels).float().mean().item(),
        "loss": F.cross_entropy(logits, posed.digits.labels).item(),
        "theta_mean": theta.mean(dim=0).tolist(),
        "theta_std": theta.std(dim=0).tolist(),
        "outside": outside.mean().item(),
        "blind": (outside == 1).float().mean().item(),
        "sees_centre": (nearest < 0.2).float().mean().item(),  # a point within 6 pixels of it
        "slope": [(shift[:, i] @ y[:, i] / (y[:, i] @ y[:, i])).item() for i in (0, 1)],
        "pose_deviation": deviation,
        "active": (h > 0).float().mean(dim=0).tolist(),
        "h_mean": h.mean(dim=0).tolist(),
        **of_features(h, posed.pose),
    }


def batches(train_digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        for pixels, labels in shuffled_batches(*train_digits, BATCH):
            yield normalize(DATASET, distort(DATASET, pixels, train_digits.images).images), labels


def warm_up(seed: int, folder: Path) -> None:
    """Train the classifier on what the untrained transformer shows, and save its weights."""
    torch.set_num_threads(1)
    train_digits, _ = split_validation(load_mnist("data")[0], 5000, seed)
    classifier = network("conv2d", seed).classifier.train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=LEARNING_RATE, fused=True)
    torch.manual_seed(seed + 9000)
    losses: deque[float] = deque(maxlen=200)
    for _, (images, labels) in zip(range(WARM_UP), batches(train_digits), strict=False):
        # the identity's grid of half the size lies between the pixels
        loss = F.cross_entropy(classifier(F.avg_pool2d(images, 2)), labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(classifier.state_dict(), folder / f"classifier-{seed}.pt")
    print(f"loss of the last 200: {sum(losses) / 200:.3f}")


def train(
    variant: str, seed: int, folder: Path, iterations: int, warm: bool = False, first: int = 0
) -> None:
    """Train one network at a constant rate; write what is observed, and weights, as it goes.

    warm: the classifier starts as `warm_up` left it.
    first: goes on from the weights that an earlier call saved at this iteration, with new batches.
    """
    torch.set_num_threads(1)
    train_digits, test_digits = load_mnist("data")
    posed = probe_set(test_digits, train_digits.images, PROBE)
    whole = fixed_set(DATASET, test_digits, train_digits.images).digits
    train_digits, _ = split_validation(train_digits, 5000, seed)
    model = network(variant, seed).to(memory_format=torch.channels_last)
    if warm:
        model.classifier.load_state_dict(torch.load(folder / f"classifier-{seed}.pt"))
    bias = localization(model)[-1].bias
    others = [parameter for parameter in model.parameters() if parameter is not bias]
    factor = BIAS_FACTOR if variant == "fast_bias" else 1.0
    optimizer = torch.optim.SGD(
        [{"params": others}, {"params": [bias], "lr": LEARNING_RATE * factor}],
        lr=LEARNING_RATE,
        fused=True,
    )
    theta: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            theta[:] = [output]

    localization(model)[-1].register_forward_hook(keep)
    torch.manual_seed(seed + 5000 + first)
    folder.mkdir(parents=True, exist_ok=True)
    begin, losses = time.time(), []
    name = f"{variant}-{seed}" + ("-warm" if warm else "")
    if first:
        model.load_state_dict(torch.load(folder / f"{name}-{first}.pt"))
    with (folder / f"{name}.jsonl").open("a" if first else "w") as file:
        for iteration, (images, labels) in enumerate(batches(train_digits), first):
            if iteration % 50 == 0:
                random = torch.get_rng_state()
                row = {"iteration": iteration, **observe(model, posed)}
                torch.set_rng_state(random)
            if iteration % 100 == 0:
                torch.save(model.state_dict(), folder / f"{name}-{iteration}.pt")
            if iteration == iterations:
                break
            model.train()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            losses.append(loss.item())
            if iteration % 50 == 0:
                g = theta[0].grad * len(labels)
                row |= {
                    "g_mean": g.mean(dim=0).tolist(),
                    "g_square": g.square().mean(dim=0).tolist(),
                    "gradients": gradient_norms(model),
                    "train_loss": sum(losses) / len(losses),
                    "seconds": time.time() - begin,
                }
                losses.clear()
                file.write(json.dumps(row) + "\n")
                file.flush()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            parts = zip(whole.images.split(250), whole.labels.split(250), strict=True)
            right = [(model(normalize(DATASET, x)).argmax(1) == y).sum().item() for x, y in parts]
        row |= {"test_accuracy": sum(right) / len(whole.labels), "seconds": time.time() - begin}
        file.write(json.dumps(row) + "\n")


def picture(folder: Path) -> Figure:
    """Accuracy, slope and 1 + |mean of h|² over the iterations of the runs with seed 300."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    colors = {"conv2d": "C0", "fan_in": "C2", "small": "C1", "coordconv2d": "C3"}
    for variant, color in colors.items():
        path = folder / f"{variant}-300.jsonl"
        if not path.exists():
            continue
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        x = [row["iteration"] for row in rows]
        values = (
            [100 * row["accuracy"] for row in rows],
            [sum(row["slope"]) / 2 for row in rows],
            [row["common"] for row in rows],
        )
        for axes, y in zip(panels, values, strict=True):
            axes.plot(x, y, color=color, label=variant, linewidth=1)
    labels = ("accuracy [%]", "slope of theta's shift on the digit's place", "1 + |mean of h|²")
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="iteration", title=label)
        axes.grid(alpha=0.3)
    panels[1].set_yscale("symlog", linthresh=0.01)
    panels[1].axhline(1, color="black", linewidth=0.5)
    panels[2].set_yscale("log")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["start"]:
            start()
        case ["start_at", variant, seed, folder, first, source] if variant in VARIANTS:
            # with the classifier that coordconv2d of the seed `source` had after `first` iterations
            model, other = network(variant, int(seed)), network("coordconv2d", int(source))
            other.load_state_dict(torch.load(f"{folder}/coordconv2d-{source}-{first}.pt"))
            model.classifier.load_state_dict(other.classifier.state_dict())
            torch.save(model.state_dict(), f"{folder}/{variant}-{seed}-{first}.pt")
        case ["picture", folder]:
            picture(Path(folder)).savefig("results/lost_digits.png", dpi=100)
        case ["classifier", seed, folder]:
            warm_up(int(seed), Path(folder))
        case ["train", variant, seed, folder, iterations, *options] if variant in VARIANTS:
            first = [int(option) for option in options if option != "warm"] or [0]
            train(variant, int(seed), Path(folder), int(iterations), "warm" in options, *first)
        case _:
            sys.exit(f"usage: see {__file__}; variants: {', '.join(VARIANTS)}")
