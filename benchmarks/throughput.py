"""Our training speed beside the usual loop's, on the same cores, in one run: `make bench`.

    python -m benchmarks.throughput            whole epochs
    python -m benchmarks.throughput --quick    a tenth of an epoch

Compared, in training images per second over an epoch with its test pass:

(a) the reference loop of `benchmarks/reference.py`,
(b) one run of ours with all cores,
(c) as many runs of ours at once as there are cores, one thread each, their rates added.

Each measurement is a process of its own; a, b and c take turns, and medians are reported. Writes
`results/throughput.md` and `.json`.
"""

import datetime
import json
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
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

from benchmarks import reference

LAYERS = ("conv2d", "coordconv2d")
EPOCH_STEPS = 938
GFLOP_PER_EPOCH = 277  # of the training steps and the test pass: multiplications and additions
CORES = len(os.sched_getaffinity(0))


def of_reference(conv_layer: str, augmented: bool, steps: int) -> tuple[float, float]:
    """Images per second of (a), and its process's peak resident memory in MiB."""
    rate = reference.images_per_second(conv_layer, augmented, "data", steps)
    return rate, _peak_mib()


def of_ours(conv_layer: str, augmented: bool, steps: int, threads: int) -> tuple[float, float]:
    """The same of one run of ours; a part of an epoch trains and tests on that part of the data."""
    from pipeline.data.mnist import Digits, load_mnist, normalize
    from pipeline.models.stn import build_model
    from pipeline.params import RunParams
    from pipeline.train import train

    torch.set_num_threads(threads)
    share = min(1, steps / EPOCH_STEPS)
    parts = []
    for images, labels in load_mnist("data"):
        count = round(share * len(labels))
        parts.append(Digits(normalize(images[:count]), labels[:count]))
    augmentation = "affine" if augmented else "none"
    params = RunParams(epochs=1, conv_layer=conv_layer, augmentation=augmentation)
    torch.manual_seed(0)
    model = build_model(conv_layer, params.padding_mode, params.radius_center)
    model.to(memory_format=torch.channels_last)
    seconds: list[float] = []
    train(model, *parts, params, on_epoch_end=lambda _, m: seconds.append(m["epoch_seconds"]))
    return len(parts[0].labels) / seconds[0], _peak_mib()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def matrix_product_rate() -> float:
    """GFLOP/s of one core in large float32 matrix products."""
    torch.set_num_threads(1)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    rates = []
    for _ in range(7):
        start = time.perf_counter()
        torch.mm(a, b)
        rates.append(2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def in_fresh_processes(count: int, function, *arguments) -> list:
    """The results of `count` calls at once, each in a new process that imports all anew."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn) as pool:
        return [done.result() for done in [pool.submit(function, *arguments) for _ in range(count)]]


def fixed_costs() -> dict[str, float]:
    """Seconds that a run takes beside its epochs, from real 1-epoch runs in their own store."""
    command = [sys.executable, "-m", "pipeline", "train", "--epochs", "1", "--threads", str(CORES)]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pipeline", "data", "params"):
            os.symlink(Path(name).absolute(), Path(folder) / name)
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        settings = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
        whole, beside_epoch, imports = [], [], []
        for _ in range(4):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import pipeline.run"], check=True, **settings)
            imports.append(time.perf_counter() - start)
            start = time.perf_counter()
            done = subprocess.run(command, check=True, **settings)
            whole.append(time.perf_counter() - start)
            epoch = re.search(r"^epoch 1/1: .* ([\d.]+) s$", done.stdout, re.MULTILINE)
            beside_epoch.append(whole[-1] - float(epoch[1]))
    # the first run of all also creates the store
    imports_median = statistics.median(imports[1:])
    beside_median = statistics.median(beside_epoch[1:])
    return {
        "imports": imports_median,
        "data_tracking_figures_model": beside_median - imports_median,
        "new_store": max(0.0, beside_epoch[0] - beside_median),
    }


@click.command()
@click.option("--quick", is_flag=True, help="a tenth of an epoch instead of a whole one")
@click.option("--repetitions", default=3, show_default=True)
def main(quick: bool, repetitions: int) -> None:
    """Measure, print the table, and write results/throughput.md and .json."""
    steps = EPOCH_STEPS // 10 if quick else EPOCH_STEPS
    variants = [(layer, augmented) for layer in LAYERS for augmented in (False, True)]
    rates: dict = {variant: {"a": [], "b": [], "c": []} for variant in variants}
    peaks: dict = {"a": [], "b": [], "c": []}
    products = []
    for repetition in range(repetitions):
        for layer, augmented in variants:
            tasks = {
                "a": (1, of_reference, layer, augmented, steps),
                "b": (1, of_ours, layer, augmented, steps, CORES),
                "c": (CORES, of_ours, layer, augmented, steps, 1),
            }
            for name, task in tasks.items():
                done = in_fresh_processes(*task)
                rates[layer, augmented][name].append(sum(rate for rate, _ in done))
                peaks[name] += [peak for _, peak in done]
            line = {k: round(v[-1]) for k, v in rates[layer, augmented].items()}
            click.echo(f"repetition {repetition + 1}, {layer}, augmented {augmented}: {line}")
        products += in_fresh_processes(CORES, matrix_product_rate)

    floor_rate = 60_000 * CORES * statistics.median(products) / GFLOP_PER_EPOCH
    report: dict = {
        "machine": f"{platform.machine()}, {_processor()}, {CORES} cores",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
        "protocol": f"{steps} of {EPOCH_STEPS} steps and the test pass in proportion, "
        f"median of {repetitions} interleaved repetitions",
        "gflops_per_core": statistics.median(products),
        "peak_mib": {name: max(values) for name, values in peaks.items()},
        "fixed_costs_seconds": fixed_costs(),
    }
    for layer, augmented in variants:
        a, b, c = (statistics.median(rates[layer, augmented][name]) for name in "abc")
        report.setdefault(layer, {})["augmented" if augmented else "plain"] = {
            "images_per_second": {"reference": a, "one_run": b, "all_cores": c},
            "ratio_one_run": b / a,
            "ratio_all_cores": c / a,
            "floor_ratio": floor_rate / c,
        }
    speed = {
        key: report[key[0]][key[1]]["images_per_second"]["all_cores"]
        for key in [(layer, kind) for layer in LAYERS for kind in ("plain", "augmented")]
    }
    report["coordconv_over_conv"] = speed["conv2d", "plain"] / speed["coordconv2d", "plain"]
    report["augmented_over_plain"] = {
        layer: speed[layer, "plain"] / speed[layer, "augmented"] for layer in LAYERS
    }
    text = as_markdown(report, quick)
    click.echo(text)
    # a quick look does not replace the figures that the README cites
    target = Path("results" if not quick else tempfile.gettempdir())
    (target / "throughput.json").write_text(json.dumps(report, indent=2) + "\n")
    (target / "throughput.md").write_text(text)
    click.echo(f"written to {target}/throughput.md and .json")


def as_markdown(report: dict, quick: bool) -> str:
    """The report as a table, with what was measured and where."""
    lines = [
        "# Throughput",
        "",
        f"`make bench{' QUICK=1' if quick else ''}`, {report['date']}; {report['machine']}; "
        f"{report['versions']}; {report['protocol']}.",
        "",
        "Training images per second: (a) the reference loop, (b) one run of ours on all cores, "
        "(c) one run of ours per core at once, added. Floor: the measured matrix-product rate, "
        f"{report['gflops_per_core']:.0f} GFLOP/s per core, at {GFLOP_PER_EPOCH} GFLOP an epoch.",
        "",
        "| layer | training images | (a) | (b) | (c) | (b)/(a) | (c)/(a) | floor/(c) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for layer in LAYERS:
        for kind, result in report[layer].items():
            a, b, c = (f"{value:,.0f}" for value in result["images_per_second"].values())
            lines.append(
                f"| {layer} | {kind} | {a} | {b} | {c} | {result['ratio_one_run']:.2f} | "
                f"{result['ratio_all_cores']:.2f} | {result['floor_ratio']:.1f} |"
            )
    augmented = ", ".join(f"{v:.2f} ({k})" for k, v in report["augmented_over_plain"].items())
    memory = ", ".join(f"({name}) {value:,.0f} MiB" for name, value in report["peak_mib"].items())
    fixed = report["fixed_costs_seconds"]
    lines += [
        "",
        f"- CoordConv over Conv, time of an epoch: {report['coordconv_over_conv']:.2f}.",
        f"- Augmented over plain, time of an epoch: {augmented}.",
        f"- Peak resident memory of a process, without (a)'s workers: {memory}.",
        f"- A run's fixed costs: imports {fixed['imports']:.1f} s; data, tracking, figures and "
        f"model archive {fixed['data_tracking_figures_model']:.1f} s; "
        f"a new SQLite store {fixed['new_store']:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
