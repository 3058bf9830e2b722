"""Our training speed beside the usual loop's, on the same cores, in one run: `make bench`.

    python -m benchmarks.throughput            a quarter of an epoch
    python -m benchmarks.throughput --quick    a tenth of an epoch, plain images only

Compared, in training images per second over that part of an epoch and of its test pass:

(a) the reference loop of `benchmarks/reference.py`,
(b) one run of ours with all cores,
(c) as many runs of ours at once as there are cores, one thread each, their rates added,
(d) the same as (c), with `nn.Conv2d` and `nn.MaxPool2d` in place of the matrix products of
    `pipeline/models/pooled_product.py`.

Each measurement is a process of its own; a, b, c and d take turns, and medians are reported. The
report is the section of this kind of CPU in `results/throughput.md`, and its entry in
`results/throughput.json`; those of other CPUs stay as they are.
"""

import datetime
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import reference
from benchmarks.commit import commit
from benchmarks.throughput_report import (
    COLUMNS,
    GFLOP_PER_EPOCH,
    LAYERS,
    RUN_EPOCHS,
    as_markdown,
    keep,
    kind_of_machine,
)
from pipeline.data.mnist import Digits, load_mnist, verify_files
from pipeline.models import convolve, coordconv
from pipeline.models.pooled_product import constant_contribution
from pipeline.params import RunParams
from pipeline.training.loop import train, train_epoch
from pipeline.training.network import build_network

CORES = len(os.sched_getaffinity(0))
# of arXiv:2004.11678, on images of 28 and 60 pixels; and how many steps are measured at a time
PAPER_STEPS = {
    "rotated": (RunParams(dataset="rotated", network="paper"), 100),
    "translated": (RunParams(dataset="translated", network="paper", sampler_size=30), 20),
}


def of_reference(conv_layer: str, augmented: bool, share: float) -> tuple[float, float]:
    """Images per second of (a), and its process's peak resident memory in MiB."""
    rate = reference.images_per_second(conv_layer, augmented, "data", share)
    return rate, _peak_mib()


def of_ours(
    conv_layer: str, augmented: bool, share: float, threads: int, products: bool = True
) -> tuple[float, float]:
    """The same of one run of ours, with or without `pipeline/models/pooled_product.py`."""
    torch.set_num_threads(threads)
    if not products:
        use_torchs_layers()
    parts = []
    for images, labels in load_mnist("data"):
        count = round(share * len(labels))
        parts.append(Digits(images[:count], labels[:count]))
    augmentation = "affine" if augmented else "none"
    params = RunParams(epochs=1, conv_layer=conv_layer, augmentation=augmentation)
    seconds: list[float] = []
    train(
        network(params),
        *parts,
        params,
        on_epoch_end=lambda state: seconds.append(state.history[-1]["epoch_seconds"]),
    )
    return len(parts[0].labels) / seconds[0], _peak_mib()


def network(params: RunParams) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(params).to(memory_format=torch.channels_last)


def use_torchs_layers() -> None:
    """Have this process convolve and pool by `F.conv2d` and `F.max_pool2d` alone.

    CoordConv's coordinates are still convolved once for all images.
    """

    def convolve_plainly(
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        constant: Tensor | None = None,
        pool: bool = False,
    ) -> Tensor:
        in_channels = images.shape[1]
        convolved = F.conv2d(images, weight[:, :in_channels], bias)
        if constant is not None:
            of_coordinates = constant_contribution(
                weight[:, in_channels:], constant, convolved.shape[2]
            )
            convolved = convolved + of_coordinates
        return F.max_pool2d(convolved, 2) if pool else convolved

    for module in (convolve, coordconv):
        module.convolve = convolve_plainly


def of_a_step(params: RunParams, steps: int, products: bool = True) -> float:
    """Milliseconds of a training step of ours on one thread: of so many steps, three times.

    products: see `of_ours`.
    """
    if not products:
        use_torchs_layers()
    train_once = training_pass(params, steps)
    seconds = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        train_once()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[1:]) / steps


def training_pass(params: RunParams, steps: int) -> Callable[[], object]:
    """A function that trains a network for so many steps on one thread, each time it is called."""
    torch.set_num_threads(1)
    train_set, _ = load_mnist("data")
    count = steps * params.batch_size
    digits = Digits(train_set.images[:count], train_set.labels[:count])
    model = network(params)
    optimizer = torch.optim.SGD(model.parameters(), lr=params.lr, fused=True)
    return lambda: train_epoch(model, digits, optimizer, params)


# Kinds of operators, by the beginning of their name; the first that fits counts.
OPERATORS = {
    "matrix products and convolutions": (
        *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear"),
        *("aten::mkldnn_conv", "aten::convolution", "aten::_convolution", "aten::conv2d"),
    ),
    "pooling and sampling": (
        *("aten::max_pool2d", "aten::grid_sampler", "aten::affine_grid"),
        *("aten::maximum", "aten::gt", "aten::lerp"),  # the pooling in pooled_product.py
    ),
    "copies": (
        *("aten::copy_", "aten::cat", "aten::index", "aten::fill_", "aten::zero_"),
        *("aten::clone", "aten::contiguous", "aten::_to_copy", "aten::stack"),
    ),
    "elementwise operators and sums": (
        *("aten::add", "aten::mul", "aten::div", "aten::sub", "aten::sum", "aten::relu"),
        *("aten::threshold", "aten::clamp", "aten::where", "aten::eq", "aten::abs", "aten::lt"),
        *("aten::bernoulli", "aten::dropout", "aten::feature_dropout", "aten::native_dropout"),
        *("aten::_log_softmax", "aten::nll_loss", "aten::_fused_sgd", "aten::argmax"),
    ),
}


def breakdown(conv_layer: str) -> dict[str, float]:
    """Shares of a training step's time on one thread, by kind of operator, as torch's profiler sees
    100 steps. What is in no operator is Python, autograd and the profiler itself."""
    shares = dict.fromkeys([*OPERATORS, "other operators"], 0.0)
    train_once = training_pass(RunParams(conv_layer=conv_layer), steps=100)
    train_once()  # warms up
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the profiler's library says that it finds no GPU
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        start = time.perf_counter()
        train_once()
        microseconds = 1e6 * (time.perf_counter() - start)
    for event in seen.key_averages():
        if event.key.startswith("aten::"):
            kinds = (kind for kind, names in OPERATORS.items() if event.key.startswith(names))
            shares[next(kinds, "other operators")] += event.self_cpu_time_total / microseconds
    return {**shares, "no operator": 1 - sum(shares.values())}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def matrix_product_rate() -> float:
    """GFLOP/s of one core in large float32 matrix products, by the fastest that torch has.

    These are `torch.mm`, which is MKL's, and a convolution with 1×1 kernels, which is oneDNN's.
    """
    torch.set_num_threads(1)
    side = 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    image = a.view(1, side, 64, 32).to(memory_format=torch.channels_last)
    kernels = b.view(side, side, 1, 1).to(memory_format=torch.channels_last)
    best = 0.0
    with torch.inference_mode():
        for product in (lambda: torch.mm(a, b), lambda: F.conv2d(image, kernels)):
            rates = []
            for _ in range(7):
                start = time.perf_counter()
                product()
                rates.append(2 * side**3 / (time.perf_counter() - start) / 1e9)
            best = max(best, statistics.median(rates))
    return best


def in_fresh_processes(count: int, function, *arguments) -> list:
    """The results of `count` calls at once, each in a new process that imports all anew."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn) as pool:
        return [done.result() for done in [pool.submit(function, *arguments) for _ in range(count)]]


def costs_of_a_run() -> dict[str, float]:
    """Seconds that a run takes beside its epochs, from real 1-epoch runs in a store of their own,
    and its peak resident memory in MiB."""
    command = [sys.executable, "-m", "pipeline", "train", "--epochs", "1", "--threads", str(CORES)]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pipeline", "data", "params"):
            os.symlink(Path(name).absolute(), Path(folder) / name)
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        settings = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
        beside_epoch, imports = [], []
        for _ in range(4):
            imports.append(seconds_of("-c", "import pipeline.training.run", **settings))
            start = time.perf_counter()
            done = subprocess.run(command, check=True, **settings)
            whole = time.perf_counter() - start
            epoch = re.search(r"^epoch 1/1: .* ([\d.]+) s$", done.stdout, re.MULTILINE)
            beside_epoch.append(whole - float(epoch[1]))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        code = "from benchmarks.throughput import logging_seconds as s; print(s())"
        settings["env"] = {**environment, "PYTHONPATH": str(Path.cwd())}
        logging = subprocess.run([sys.executable, "-c", code], check=True, **settings).stdout
    # the first run of all also creates the store
    imports_median = statistics.median(imports[1:])
    beside_median = statistics.median(beside_epoch[1:])
    return {
        "imports": imports_median,
        "data_tracking_figures_model": beside_median - imports_median,
        "new_store": max(0.0, beside_epoch[0] - beside_median),
        "metrics_of_an_epoch": float(logging),
        "peak_mib": peak,
    }


def logging_seconds() -> float:
    """Seconds that logging one epoch's metrics takes."""
    from pipeline.tracking.runs import open_run

    metrics = {f"metric_{number}": 0.5 for number in range(7)}  # as many as a training logs
    with open_run("logging", "How long logging takes.") as run:
        run.log_metrics(metrics, step=0)
        start = time.perf_counter()
        for epoch in range(1, RUN_EPOCHS + 1):
            run.log_metrics(metrics, step=epoch)
        return (time.perf_counter() - start) / RUN_EPOCHS


def help_over_click() -> float:
    """Seconds that `python -m pipeline --help` needs more than importing click."""
    ours, click_alone = [], []
    for _ in range(9):
        click_alone.append(seconds_of("-c", "import click"))
        ours.append(seconds_of("-m", "pipeline", "--help"))
    return statistics.median(ours) - statistics.median(click_alone)


def seconds_of(*arguments: str, **settings) -> float:
    """How long a Python process takes."""
    start = time.perf_counter()
    settings = {"capture_output": True, **settings}
    subprocess.run([sys.executable, *arguments], check=True, **settings)
    return time.perf_counter() - start


@dataclass
class Samples:
    """What all repetitions have measured.

    rates: images per second, by layer and kind of images, by column.
    peaks: memory of a training process in MiB, by column.
    products: GFLOP per second and core of matrix products.
    steps: milliseconds of a training step, by layer, by images in a batch.
    paper_steps: the same of the network of arXiv:2004.11678, by data set, with and without the
        products of `pipeline/models/pooled_product.py`.
    """

    rates: dict[tuple[str, str], dict[str, list[float]]]
    peaks: dict[str, list[float]]
    products: list[float]
    steps: dict[str, dict[int, list[float]]]
    paper_steps: dict[str, dict[bool, list[float]]]


def measured(quick: bool, repetitions: int) -> Samples:
    """Measure all columns one after another, `repetitions` times."""
    share = 0.1 if quick else 0.25
    verify_files(Path("data"))  # unpacked, as torchvision's MNIST wants them
    kinds = {"plain": False} if quick else {"plain": False, "augmented": True}
    variants = [(layer, kind) for layer in LAYERS for kind in kinds]
    rates: dict = {variant: {name: [] for name in COLUMNS} for variant in variants}
    peaks: dict = {name: [] for name in "abc"}
    products = []
    steps: dict = {layer: {1: [], 64: []} for layer in LAYERS}
    paper_steps: dict = {dataset: {True: [], False: []} for dataset in PAPER_STEPS}
    for repetition in range(repetitions):
        for layer, kind in variants:
            of_kind = (layer, kinds[kind], share)
            tasks = {
                "a": (1, of_reference, *of_kind),
                "b": (1, of_ours, *of_kind, CORES),
                "c": (CORES, of_ours, *of_kind, 1),
                "d": (CORES, of_ours, *of_kind, 1, False),
            }
            for name, task in tasks.items():
                done = in_fresh_processes(*task)
                rates[layer, kind][name].append(sum(rate for rate, _ in done))
                if name in peaks:
                    peaks[name] += [peak for _, peak in done]
            line = {k: round(v[-1]) for k, v in rates[layer, kind].items()}
            click.echo(f"repetition {repetition + 1}, {layer}, {kind}: {line}")
        products += in_fresh_processes(CORES, matrix_product_rate)
        if quick and repetition > 0:
            continue
        for layer in LAYERS:
            for images, times in steps[layer].items():
                params = RunParams(conv_layer=layer, batch_size=images)
                times.extend(in_fresh_processes(1, of_a_step, params, 200))
        for dataset, (params, count) in PAPER_STEPS.items():
            for with_products, times in paper_steps[dataset].items():
                times.extend(in_fresh_processes(1, of_a_step, params, count, with_products))
    return Samples(rates, peaks, products, steps, paper_steps)


def report_of(samples: Samples, quick: bool, repetitions: int) -> dict:
    """Medians and ratios, and what is measured only once."""
    floor_rate = 60_000 * CORES * statistics.median(samples.products) / GFLOP_PER_EPOCH
    of_variants: dict = {layer: {} for layer in LAYERS}
    for (layer, kind), of_columns in samples.rates.items():
        a, b, c, d = (statistics.median(of_columns[name]) for name in COLUMNS)
        of_variants[layer][kind] = {
            "images_per_second": dict(zip(COLUMNS.values(), (a, b, c, d), strict=True)),
            "ratio_one_run": b / a,
            "ratio_all_cores": c / a,
            "ratio_products": c / d,
            "floor_ratio": floor_rate / c,
        }
    report: dict = {
        "kind": kind_of_machine(CORES),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "protocol": f"a {'tenth' if quick else 'quarter'} of an epoch and of its "
        f"test pass, median of {repetitions} interleaved repetitions",
        "gflops_per_core": statistics.median(samples.products),
        **of_variants,
        "step_milliseconds": {
            layer: {images: statistics.median(times) for images, times in of_layer.items()}
            for layer, of_layer in samples.steps.items()
        },
        "paper_step_ratios": {
            dataset: statistics.median(
                without / with_products
                for with_products, without in zip(times[True], times[False], strict=True)
            )
            for dataset, times in samples.paper_steps.items()
        },
        "peak_mib": {name: max(values) for name, values in samples.peaks.items()},
        "breakdown": {layer: in_fresh_processes(1, breakdown, layer)[0] for layer in LAYERS},
        "help_over_click_seconds": help_over_click(),
    }
    if not quick:
        fixed = in_fresh_processes(1, costs_of_a_run)[0]  # its own children count for the peak
        report["peak_mib"]["run"] = fixed.pop("peak_mib")
        report["fixed_costs_seconds"] = fixed
        # An upper bound: reading the data counts as tracking here. Of one run on all cores, the
        # shortest way to train 30 epochs.
        training = (
            RUN_EPOCHS * 60_000 / of_variants["conv2d"]["plain"]["images_per_second"]["one_run"]
        )
        of_tracking = (
            fixed["data_tracking_figures_model"] + (RUN_EPOCHS - 1) * fixed["metrics_of_an_epoch"]
        )
        report["tracking_share"] = of_tracking / (training + fixed["imports"] + of_tracking)
    return report


@click.command()
@click.option("--quick", is_flag=True, help="a tenth of an epoch, of plain images only")
@click.option("--repetitions", default=3, show_default=True)
def main(quick: bool, repetitions: int) -> None:
    """Measure, print the table, and write it into results/throughput.md and .json."""
    begun = time.monotonic()
    report = report_of(measured(quick, repetitions), quick, repetitions)
    text = as_markdown(report, quick)
    click.echo(text)
    # a quick look does not replace the figures that the README cites
    target = Path("results" if not quick else tempfile.gettempdir())
    keep(target / "throughput.json", target / "throughput.md", report, text)
    minutes = (time.monotonic() - begun) / 60
    click.echo(f"written to {target}/throughput.md and .json, after {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
