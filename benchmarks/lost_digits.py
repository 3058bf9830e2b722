"""Why a localization network with CoordConv loses translated digits: results/translated.md.

    python -m benchmarks.lost_digits start                                 before the first step
    python -m benchmarks.lost_digits train coordconv2d 300 out 5000        one training
    python -m benchmarks.lost_digits start_at fan_in 300 out 800 300       with its classifier;
    python -m benchmarks.lost_digits train fan_in 300 out 3500 800         on from iteration 800
    python -m benchmarks.lost_digits classifier 301 out                    the classifier alone;
    python -m benchmarks.lost_digits train coordconv2d 301 out 2000 warm   starts with that

`lost_digits_report` makes tables and a picture of what the trainings write.

All networks of a seed share the weights that they have in common: the pixel weights of a CoordConv
layer are those of the Conv2d layer, scaled to the range that PyTorch draws from for the larger
fan-in. They see the same batches, too. So two variants differ only in what `VARIANTS` says.
"""

import json
import math
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pipeline.data.batches import normalize, shuffled_batches
from pipeline.data.distortions import distort
from pipeline.data.fixed_sets import Posed, fixed_set
from pipeline.data.mnist import Digits, load_mnist, split_validation
from pipeline.models.build import build_model
from pipeline.models.coordconv import CoordConv2d
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.training.pose_deviation import pose_deviation

DATASET, SIZE, SAMPLER = "translated", 60, 30
LEARNING_RATE, BATCH = 0.01, 64
OBSERVED = 500  # test images that a network is observed on
START_SEEDS = range(1000, 1030)
WARM_UP = 4000  # iterations of the classifier alone

# Each variant is a network of the preset params/translated_layers.yaml, but for this:
VARIANTS = {
    "conv2d": "nothing",
    "coordconv2d": "nothing",
    "small": "conv2d with the smaller convolution weights of coordconv2d; no coordinates",
    "fan_in": "coordconv2d with the pixel weights and the biases of conv2d",
    "zero": "as fan_in, and the coordinates' weights start at 0",
    "radius_0.5": "coordconv2d, the radius measured from (0.5, 0.5)",
    "no_radius": "coordconv2d, the radius channel set to 0",
    "tenth": "coordconv2d, the coordinates times 0.1",
}
SCALES = {"no_radius": (1.0, 1.0, 0.0), "tenth": (0.1, 0.1, 0.1)}  # of the coordinate channels


def network(variant: str, seed: int) -> SpatialTransformerNetwork:
    """The network of a variant before its first step."""
    torch.manual_seed(seed)
    plain = build_model(conv_layer="conv2d", image_size=SIZE, sampler_size=SAMPLER)
    if variant == "conv2d":
        return plain
    model = build_model(
        conv_layer="coordconv2d",
        layer_settings={"radius_center": 0.5 if variant == "radius_0.5" else 0.0},
        image_size=SIZE,
        sampler_size=SAMPLER,
    )
    model.classifier.load_state_dict(plain.classifier.state_dict())
    generator = Generator().manual_seed(seed + 1_000_000)
    with torch.no_grad():
        for old, new in zip(layers_of(plain), layers_of(model), strict=True):
            if isinstance(new, nn.Linear):
                new.load_state_dict(old.state_dict())
                continue
            # PyTorch draws weights and biases of a convolution from ±1/√(fan-in).
            limit = 1 / math.sqrt(new.conv.weight[0].numel())
            ratio = math.sqrt(old.weight[0].numel()) * limit
            if variant == "small":
                old.weight.mul_(ratio)
                old.bias.mul_(ratio)
            factor = 1.0 if variant in ("fan_in", "zero") else ratio
            pixels, coordinates = split_coordinates(new.conv.weight)
            pixels.copy_(old.weight * factor)
            new.conv.bias.copy_(old.bias * factor)
            coordinates.uniform_(-limit, limit, generator=generator)
            if variant == "zero":
                coordinates.zero_()
            if variant in SCALES:
                _scale_coordinates(new, torch.tensor(SCALES[variant]).view(1, 3, 1, 1))
    return plain if variant == "small" else model


def localization(model: SpatialTransformerNetwork) -> nn.Sequential:
    return model.transformer.localization


def layers_of(model: SpatialTransformerNetwork) -> list[Any]:
    """The four layers of the localization network that have weights."""
    return [layer for layer in localization(model) if list(layer.parameters())]


def split_coordinates(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a CoordConv layer, `(C, I + 3, k, k)`: those of the pixels, of the coordinates."""
    return weight[:, :-3], weight[:, -3:]


def _scale_coordinates(layer: Any, scale: Tensor) -> None:
    """Multiply the coordinates that a CoordConv layer sees, at the one image size used here."""
    original = layer.coordinates_for
    kept: list[Tensor] = []

    def scaled(images: Tensor) -> Tensor:
        if not kept:
            kept.append(original(images) * scale)
        return kept[0]

    layer.coordinates_for = scaled


def features(model: SpatialTransformerNetwork, images: Tensor) -> Tensor:
    """`(N, 32)`: h, what the last layer makes theta of, theta = W h + b."""
    side = model.transformer.localization_size
    return localization(model)[:-1](images[..., :side, :side])


def observed_set(test_digits: Digits, clutter: Tensor) -> Posed:
    return fixed_set(DATASET, Digits(*(part[:OBSERVED] for part in test_digits)), clutter)


def of_features(h: Tensor, pose: Tensor) -> dict[str, float]:
    """What one step of the last layer does to theta; see results/translated.md.

    While W is 0, a step of SGD moves theta of image n by lr times the mean over the images m of the
    batch of -g_m (1 + h_m · h_n). With h = mean + d, that is a motion of all alike by lr times
    -mean(g) (1 + |mean|²), and one that follows the image. `common` is 1 + |mean|²; `varying` is
    the mean of |d|²; `place` is how fast theta learns to follow the place y of the digit:
    |mean(y d)|² / mean(y²), the mean over both coordinates. `explained` is R² of y as a linear
    function of h, and `dead` counts the units that are 0 for every image.
    """
    mean = h.mean(dim=0)
    d, y = h - mean, pose - pose.mean(dim=0)
    place = (y.T @ d / len(h)).square().sum(dim=1) / y.square().mean(dim=0)
    a, b = torch.cat([h, torch.ones(len(h), 1)], dim=1).double().numpy(), y.double().numpy()
    rest = b - a @ np.linalg.lstsq(a, b, rcond=1e-6)[0]
    return {
        "common": 1 + mean.square().sum().item(),
        "varying": d.square().sum(dim=1).mean().item(),
        "place": place.mean().item(),
        "explained": float(1 - rest.var(axis=0).sum() / b.var(axis=0).sum()),
        "dead": (h.amax(dim=0) <= 0).sum().item(),
    }


def start() -> None:
    """Print what differs before and after the first step, over many initializations."""
    train_digits, test_digits = load_mnist("data")
    posed = observed_set(test_digits, train_digits.images)
    images, labels = normalize(DATASET, posed.digits.images), posed.digits.labels
    columns = ("common", "varying", "place", "explained", "dead")
    print(f"medians (quartiles) over {len(START_SEEDS)} initializations")
    print("| variant |", " | ".join([*columns, "common / place"]), "|")
    for variant in VARIANTS:
        rows = []
        for seed in START_SEEDS:
            with torch.no_grad():
                row = of_features(features(network(variant, seed), images), posed.pose)
            rows.append([*(row[c] for c in columns), row["common"] / row["place"]])
        quartiles = np.percentile(np.array(rows), [50, 25, 75], axis=0).T
        cells = [f"{m:.3g} ({low:.3g} to {high:.3g})" for m, low, high in quartiles]
        print(f"| {variant} |", " | ".join(cells), "|", flush=True)
    print("\nroot mean square of the gradient after one step, medians over 20 initializations")
    for variant in ("conv2d", "coordconv2d", "fan_in"):
        rows = [_gradients_after_a_step(variant, s, images, labels) for s in START_SEEDS[:20]]
        for name in rows[0]:
            print(variant, name, f"{np.median([row[name] for row in rows]):.3g}", flush=True)


def _gradients_after_a_step(
    variant: str, seed: int, images: Tensor, labels: Tensor
) -> dict[str, float]:
    model = network(variant, seed).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    torch.manual_seed(seed)
    F.cross_entropy(model(images[:BATCH]), labels[:BATCH]).backward()
    optimizer.step()
    optimizer.zero_grad()
    F.cross_entropy(model(images[BATCH : 5 * BATCH]), labels[BATCH : 5 * BATCH]).backward()
    gradients = [p.grad for p in localization(model).parameters()]
    return {n: g.square().mean().sqrt().item() for n, g in by_group(model, gradients).items()}


def by_group(model: SpatialTransformerNetwork, gradients: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of the localization network's parameters, in their order, by groups of weights."""
    groups: dict[str, Tensor] = {}
    rest = iter(gradients)
    for number, layer in enumerate(layers_of(model)):
        for name, _ in layer.named_parameters():
            gradient = next(rest)
            if isinstance(layer, CoordConv2d) and gradient.dim() == 4:
                groups[f"{number} pixels"], groups[f"{number} coordinates"] = split_coordinates(
                    gradient
                )
            else:
                kind = "pixels" if gradient.dim() == 4 else name.split(".")[-1]
                groups[f"{number} {kind}"] = gradient
    return groups


@torch.no_grad()
def observe(model: SpatialTransformerNetwork, posed: Posed) -> dict[str, Any]:
    """Where theta is, on the observed images."""
    model.eval()
    parts = normalize(DATASET, posed.digits.images).split(250)
    h = torch.cat([features(model, part) for part in parts])
    grid = torch.cat([model.grid(part) for part in parts])
    logits = torch.cat([model(part) for part in parts])
    theta = localization(model)[-1](h)
    outside = (grid.abs() > 1).any(dim=3).float().flatten(1).mean(dim=1)
    shift = theta.view(-1, 2, 3)[:, :, 2]
    shift = shift - shift.mean(dim=0)
    y = (posed.pose - posed.pose.mean(dim=0)) / (SIZE / 2)  # places, normalized as theta is
    labels = posed.digits.labels
    return {
        "accuracy": (logits.argmax(dim=1) == labels).float().mean().item(),
        "theta_mean": theta.mean(dim=0).tolist(),
        "theta_std": theta.std(dim=0).tolist(),
        "outside": outside.mean().item(),
        "blind": (outside == 1).float().mean().item(),
        "slope": ((shift * y).sum(dim=0) / y.square().sum(dim=0)).mean().item(),
        "pose_deviation": pose_deviation(
            DATASET, poses=posed.pose.numpy(), theta=theta.numpy(), labels=labels.numpy()
        ),
        **of_features(h, posed.pose),
    }


def batches(train_digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        for pixels, labels in shuffled_batches(*train_digits, BATCH):
            yield normalize(DATASET, distort(DATASET, pixels, train_digits.images).images), labels


def warm_up(seed: int, folder: Path) -> None:
    """Train the classifier on what the untrained transformer shows, and save its weights."""
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
    torch.save(classifier.state_dict(), folder / f"classifier-{seed}.pt")
    print(f"loss of the last 200: {sum(losses) / len(losses):.3f}")


def train(
    variant: str, seed: int, folder: Path, iterations: int, *, warm: bool = False, first: int = 0
) -> None:
    """Train one network at a constant rate; write what is observed, and weights, as it goes.

    warm: the classifier starts as `warm_up` left it.
    first: goes on from the weights that were saved at this iteration, with new batches.
    """
    train_digits, test_digits = load_mnist("data")
    posed = observed_set(test_digits, train_digits.images)
    whole = fixed_set(DATASET, test_digits, train_digits.images).digits
    train_digits, _ = split_validation(train_digits, 5000, seed)
    model = network(variant, seed).to(memory_format=torch.channels_last)
    if warm:
        model.classifier.load_state_dict(torch.load(folder / f"classifier-{seed}.pt"))
    name = f"{variant}-{seed}" + ("-warm" if warm else "")
    if first:
        model.load_state_dict(torch.load(folder / f"{name}-{first}.pt"))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, fused=True)
    torch.manual_seed(seed + 5000 + first)
    with (folder / f"{name}.jsonl").open("a" if first else "w") as file:
        for iteration, (images, labels) in enumerate(batches(train_digits), first):
            if iteration % 50 == 0:
                row = {"iteration": iteration, **observe(model, posed)}
                if iteration == iterations:
                    row["test_accuracy"] = accuracy(model, whole)
                file.write(json.dumps(row) + "\n")
                file.flush()
            if iteration % 100 == 0:
                torch.save(model.state_dict(), folder / f"{name}-{iteration}.pt")
            if iteration == iterations:
                break
            model.train()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()


@torch.inference_mode()
def accuracy(model: SpatialTransformerNetwork, digits: Digits) -> float:
    model.eval()
    parts = zip(digits.images.split(250), digits.labels.split(250), strict=True)
    right = [(model(normalize(DATASET, x)).argmax(1) == y).sum().item() for x, y in parts]
    return sum(right) / len(digits.labels)


def load(variant: str, seed: str, path: str) -> SpatialTransformerNetwork:
    model = network(variant, int(seed))
    model.load_state_dict(torch.load(path))
    return model


def main() -> None:
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["start"]:
            start()
        case ["classifier", seed, folder]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            warm_up(int(seed), Path(folder))
        case ["start_at", variant, seed, folder, first, source] if variant in VARIANTS:
            # with the classifier that coordconv2d of the seed `source` had after `first` iterations
            other = load("coordconv2d", source, f"{folder}/coordconv2d-{source}-{first}.pt")
            model = network(variant, int(seed))
            model.classifier.load_state_dict(other.classifier.state_dict())
            torch.save(model.state_dict(), f"{folder}/{variant}-{seed}-{first}.pt")
        case ["train", variant, seed, folder, iterations, *options] if variant in VARIANTS:
            Path(folder).mkdir(parents=True, exist_ok=True)
            first = next((int(option) for option in options if option != "warm"), 0)
            warm = "warm" in options
            train(variant, int(seed), Path(folder), int(iterations), warm=warm, first=first)
        case _:
            sys.exit(f"usage: see {__file__}; variants: {', '.join(VARIANTS)}")


if __name__ == "__main__":
    main()
