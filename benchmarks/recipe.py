"""What each ingredient of a training recipe brings, on validation images: results/best.md.

    python -m benchmarks.recipe rates                     the recipe with each learning rate
    python -m benchmarks.recipe ingredients --lr 0.05     the recipe, and without each ingredient
    python -m benchmarks.recipe reduced --lr 0.05 --drop cosine --drop CoordConv

The last command trains the recipe without several ingredients at once, beside the whole recipe.
Each variant is a study with 30 epochs and 10,000 validation images. A command that was interrupted
goes on when it is started again. The runs are in a store of their own, recipe.db in the working
directory. The tables hold accuracies on validation images only; what the studies print about the
test set goes to recipe.log.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Collection

import click

from pipeline.study.plan import resolve_study
from pipeline.tracking.histories import metric_histories
from pipeline.tracking.recorded import training_runs
from pipeline.tracking.vocabulary import Metric

STORE = "sqlite:///recipe.db"
RATES = ("0.01", "0.02", "0.05", "0.1")
SEEDS = {"rates": ("299",), "ingredients": ("300", "301", "302", "303")}
SCHEDULE = {"epochs": "30", "validation_size": "10000"}
# The preset brings augmentation and batch normalization.
RECIPE = {
    "preset": "params/augmented.yaml",
    **SCHEDULE,
    "conv_layer": "coordconv2d",
    "radius_center": "0",
    "momentum": "0.9",
    "localization_lr_scale": "0.1",
    "schedule": "cosine",
    "weight_decay": "0.0005",
    "label_smoothing": "0.1",
    "ema_decay": "0.999",
}
# What takes the place of each ingredient.
WITHOUT = {
    "momentum": {"momentum": "0"},
    "a lower rate for the localization network": {"localization_lr_scale": "1"},
    "cosine": {"schedule": "step"},
    "weight decay": {"weight_decay": "0"},
    "label smoothing": {"label_smoothing": "0"},
    "an average of the weights": {"ema_decay": "0"},
    "CoordConv": {"conv_layer": "conv2d"},
    "augmentation": {"augmentation": "none"},
    "batch normalization": {"batch_norm": "none"},
}
PREDECESSOR = {"preset": "params/augmented.yaml", **SCHEDULE, "conv_layer": "coordconv2d"}


@click.group()
def main() -> None:
    """Train variants of the recipe, and print their accuracies on validation images."""
    os.environ["MLFLOW_TRACKING_URI"] = STORE


@main.command()
def rates() -> None:
    """The recipe with each learning rate, one run each."""
    print("| learning rate | validation accuracy [%] | collapsed |\n| --- | --- | --- |")
    for rate in RATES:
        accuracies, collapsed = trained({**RECIPE, "lr": rate}, SEEDS["rates"])
        print(f"| {rate} | {accuracies[0]:.2f} | {collapsed} |", flush=True)


@main.command()
@click.option("--lr", required=True, help="the learning rate of the recipe")
def ingredients(lr: str) -> None:
    """The recipe, and the recipe without each of its ingredients, four runs each."""
    variants = {"whole": RECIPE | {"lr": lr}}
    variants |= {f"without {name}": without([name], lr) for name in WITHOUT}
    print_table(variants | {"the predecessor's": PREDECESSOR})


@main.command()
@click.option("--lr", required=True, help="the learning rate of the recipe")
@click.option("--drop", required=True, multiple=True, type=click.Choice(list(WITHOUT)))
def reduced(lr: str, drop: tuple[str, ...]) -> None:
    """The recipe, and the recipe without all of the given ingredients, four runs each."""
    print_table({"whole": RECIPE | {"lr": lr}, f"without {', '.join(drop)}": without(drop, lr)})


def print_table(variants: dict[str, dict[str, str]]) -> None:
    """Train each variant, and print its accuracy beside that of the first one."""
    print("| recipe | validation accuracy [%] | less than the first row [pp] | collapsed |")
    print("| --- | --- | --- | --- |")
    whole: list[float] = []
    for name, given in variants.items():
        accuracies, collapsed = trained(given, SEEDS["ingredients"])
        whole = whole or accuracies
        less = [first - other for first, other in zip(whole, accuracies, strict=True)]
        cells = [name, mean_and_error(accuracies), mean_and_error(less), str(collapsed)]
        print(f"| {' | '.join(cells)} |", flush=True)


def without(ingredients: Collection[str], lr: str) -> dict[str, str]:
    """The parameters of the recipe without some ingredients.

    With momentum m, the steps of SGD add up to 1 / (1 - m) times their length; so ten times the
    learning rate takes the place of a momentum of 0.9.
    """
    given = RECIPE | {"lr": lr}
    for name in ingredients:
        given |= WITHOUT[name]
    return given | ({"lr": f"{10 * float(lr):g}"} if "momentum" in ingredients else {})


def trained(given: dict[str, str], seeds: tuple[str, ...]) -> tuple[list[float], int]:
    """Train a variant, or find its runs.

    Returns:
        For each seed, the highest accuracy on validation images, in percent; and how many of the
        runs have collapsed.
    """
    given = {**given, "seed": ",".join(seeds), "experiment": "recipe"}
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    with open("recipe.log", "a") as log:
        command = [sys.executable, "-m", "pipeline", "study", *options]
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    runs = training_runs("recipe", resolve_study(given).id)
    by_seed = {run.params["seed"]: run for run in runs if run.is_finished}
    chosen = [by_seed[seed] for seed in seeds]
    curves = metric_histories([run.run_id for run in chosen], Metric.VAL_ACCURACY)
    accuracies = [100 * max(curves[run.run_id].values()) for run in chosen]
    return accuracies, sum(bool(run.collapsed) for run in chosen)


def mean_and_error(values: list[float]) -> str:
    """The mean with its standard error: `0.08 ± 0.03`."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
