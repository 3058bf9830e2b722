"""What each ingredient of params/best.yaml brings, on validation images: results/best.md.

    python -m benchmarks.recipe rates           the recipe with four learning rates
    python -m benchmarks.recipe ingredients     the recipe, and the recipe without each ingredient

Each variant is a study in the store of the working directory, with 30 epochs and 10,000 validation
images. A command that was interrupted goes on when it is started again. The tables hold accuracies
on validation images; what the studies print about the test set goes to recipe.log, unread.
"""

import statistics
import subprocess
import sys

from pipeline.presets import resolve
from pipeline.tracking.histories import metric_histories
from pipeline.tracking.recorded import training_runs
from pipeline.tracking.vocabulary import Metric

RECIPE = {"preset": "params/best.yaml", "epochs": "30", "validation_size": "10000"}
RATES = ("0.01", "0.02", "0.05", "0.1")
SEEDS = {"rates": ("299",), "ingredients": ("300", "301", "302", "303")}
TEN_TIMES = str(10 * resolve({"preset": RECIPE["preset"]}).lr)

# What differs from the recipe. Without momentum, a step is a tenth as long at the same rate.
VARIANTS = {
    "rates": {rate: {"lr": rate} for rate in RATES},
    "ingredients": {
        "the recipe": {},
        "no augmentation": {"augmentation": "none"},
        "no batch normalization": {"batch_norm": "none"},
        "no momentum, and ten times the learning rate": {"momentum": "0", "lr": TEN_TIMES},
        "the full learning rate for the localization network": {"localization_lr_scale": "1"},
        "step in place of cosine": {"schedule": "step"},
        "no weight decay": {"weight_decay": "0"},
        "no label smoothing": {"label_smoothing": "0"},
        "no average of the weights": {"ema_decay": "0"},
        "conv2d in place of coordconv2d": {"conv_layer": "conv2d"},
        "augmented.yaml, the predecessor's recipe": {"preset": "params/augmented.yaml"},
    },
}


def main() -> None:
    stage = sys.argv[1] if len(sys.argv) == 2 else ""
    if stage not in VARIANTS:
        sys.exit(f"usage: python -m benchmarks.recipe {'|'.join(VARIANTS)}")
    print("| variant | validation accuracy [%] | beside the first variant [pp] | collapsed |")
    print("| --- | --- | --- | --- |")
    first: dict[str, float] = {}
    for number, (name, changes) in enumerate(VARIANTS[stage].items()):
        accuracies, collapsed = trained(f"recipe-{stage}-{number}", changes, SEEDS[stage])
        first = first or accuracies
        beside = [accuracies[seed] - first[seed] for seed in SEEDS[stage]]
        cells = [name, mean_and_error(list(accuracies.values())), mean_and_error(beside, "+")]
        print(f"| {' | '.join(cells)} | {collapsed} |", flush=True)


def trained(
    experiment: str, changes: dict[str, str], seeds: tuple[str, ...]
) -> tuple[dict[str, float], int]:
    """Train a variant; its best validation accuracies in percent by seed, and how many collapsed.

    The layer is coordconv2d unless the changes say otherwise.
    """
    given = {"conv_layer": "coordconv2d", **RECIPE, **changes}
    given |= {"seed": ",".join(seeds), "experiment": experiment}
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    with open("recipe.log", "a") as log:
        command = [sys.executable, "-m", "pipeline", "study", *options]
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    runs = {run.params["seed"]: run for run in training_runs(experiment) if run.is_finished}
    curves = metric_histories([run.run_id for run in runs.values()], Metric.VAL_ACCURACY)
    best = {seed: 100 * max(curves[run.run_id].values()) for seed, run in runs.items()}
    return best, sum(bool(run.collapsed) for run in runs.values())


def mean_and_error(values: list[float], sign: str = "") -> str:
    """The mean with its standard error: `+0.08 ± 0.03`."""
    mean = f"{statistics.mean(values):{sign}.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
