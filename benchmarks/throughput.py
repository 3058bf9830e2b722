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
from pipeline.data.mnist import verify_files

LAYERS = ("conv2d", "coordconv2d")
RUN_EPOCHS = 30  # of the replicated protocol; tracking's share is of such a run
# Multiplications and additions of the training steps and the test pass. It is the network's as
# written: what pooling drops counts, although ours does not compute it.
GFLOP_PER_EPOCH = 277
CORES = len(os.sched_getaffinity(0))


def of_reference(conv_layer: str, augmented: bool, share: float) -> tuple[float, float]:
    """Images per second of (a), and its process's peak resident memory in MiB."""
    rate = reference.images_per_second(conv_layer, augmented, "data", share)
    return rate, _peak_mib()


def of_ours(conv_layer: str, augmented: bool, share: float, threads: int) -> tuple[float, float]:
    """The same of one run of ours."""
    from pipeline.data.mnist import Digits, load_mnist
    from pipeline.models.stn import build_model
    from pipeline.params import RunParams
    from pipeline.train import train

    torch.set_num_threads(threads)
    parts = []
    for images, labels in load_mnist("data"):
        count = round(share * len(labels))
        parts.append(Digits(images[:count], labels[:count]))
    augmentation = "affine" if augmented else "none"
    params = RunParams(epochs=1, conv_layer=conv_layer, augmentation=augmentation)
    torch.manual_seed(0)
    model = build_model(conv_layer, params.padding_mode, params.radius_center)
    model.to(memory_format=torch.channels_last)
    seconds: list[float] = []
    train(model, *parts, params, on_epoch_end=lambda _, m: seconds.append(m["epoch_seconds"]))
    return len(parts[0].labels) / seconds[0], _peak_mib()


def of_a_step(conv_layer: str, images: int) -> float:
    """Milliseconds of a training step of ours with so many images, on one thread."""
    from pipeline.data.mnist import Digits, load_mnist
    from pipeline.models.stn import build_model
    from pipeline.params import RunParams
    from pipeline.train import train_epoch

    torch.set_num_threads(1)
    steps = 200
    train_set, _ = load_mnist("data")
    count = steps * images
    digits = Digits(train_set.images[:count], train_set.labels[:count])
    params = RunParams(conv_layer=conv_layer, batch_size=images)
    model = build_model(conv_layer, params.padding_mode, params.radius_center)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=params.lr, fused=True)
    seconds = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        train_epoch(model, digits, optimizer, params)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[1:]) / steps


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
            imports.append(seconds_of("-c", "import pipeline.run", **settings))
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
    from pipeline import tracking

    metrics = {f"metric_{number}": 0.5 for number in range(7)}  # as many as a training logs
    with tracking.open_run("logging", "How long logging takes.") as run:
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


@click.command()
@click.option("--quick", is_flag=True, help="a tenth of an epoch instead of a whole one")
@click.option("--repetitions", default=3, show_default=True)
def main(quick: bool, repetitions: int) -> None:
    """Measure, print the table, and write results/throughput.md and .json."""
    share = 0.1 if quick else 1.0
    verify_files(Path("data"))  # unpacked, as torchvision's MNIST wants them
    variants = [(layer, augmented) for layer in LAYERS for augmented in (False, True)]
    rates: dict = {variant: {"a": [], "b": [], "c": []} for variant in variants}
    peaks: dict = {"a": [], "b": [], "c": []}
    products = []
    for repetition in range(repetitions):
        for layer, augmented in variants:
            tasks = {
                "a": (1, of_reference, layer, augmented, share),
                "b": (1, of_ours, layer, augmented, share, CORES),
                "c": (CORES, of_ours, layer, augmented, share, 1),
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
        "protocol": f"{'a tenth of an epoch and of its' if quick else 'an epoch and its'} "
        f"test pass, median of {repetitions} interleaved repetitions",
        "gflops_per_core": statistics.median(products),
        "peak_mib": {name: max(values) for name, values in peaks.items()},
        "help_over_click_seconds": help_over_click(),
    }
    fixed = in_fresh_processes(1, costs_of_a_run)[0]  # its own children only count for the peak
    report["peak_mib"]["run"] = fixed.pop("peak_mib")
    report["fixed_costs_seconds"] = fixed
    steps: dict = {layer: {1: [], 64: []} for layer in LAYERS}
    for _ in range(repetitions):
        for layer in LAYERS:
            for images, times in steps[layer].items():
                times.extend(in_fresh_processes(1, of_a_step, layer, images))
    report["step_milliseconds"] = {
        layer: {images: statistics.median(times) for images, times in of_layer.items()}
        for layer, of_layer in steps.items()
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
    of_a_batch = {layer: report["step_milliseconds"][layer][64] for layer in LAYERS}
    report["coordconv_over_conv"] = of_a_batch["coordconv2d"] / of_a_batch["conv2d"]
    report["coordconv_over_conv_epoch"] = speed["conv2d", "plain"] / speed["coordconv2d", "plain"]
    report["augmented_over_plain"] = {
        layer: speed[layer, "plain"] / speed[layer, "augmented"] for layer in LAYERS
    }
    # An upper bound: reading the data counts as tracking here. Of one run on all cores, the
    # shortest way to train 30 epochs.
    training = RUN_EPOCHS * 60_000 / report["conv2d"]["plain"]["images_per_second"]["one_run"]
    of_tracking = (
        fixed["data_tracking_figures_model"] + (RUN_EPOCHS - 1) * fixed["metrics_of_an_epoch"]
    )
    report["tracking_share"] = of_tracking / (training + fixed["imports"] + of_tracking)
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
    memory = {name: f"{value:,.0f} MiB" for name, value in report["peak_mib"].items()}
    fixed = report["fixed_costs_seconds"]
    lines += [
        "",
        *(
            f"- A training step of {layer} on one thread: {step[64]:.1f} ms with 64 images, "
            f"{step[1]:.1f} ms with a single one."
            for layer, step in report["step_milliseconds"].items()
        ),
        f"- CoordConv takes {report['coordconv_over_conv']:.2f} times as long as Conv for a step, "
        f"{report['coordconv_over_conv_epoch']:.2f} times for an epoch in (c).",
        f"- Augmented over plain, time of an epoch: {augmented}.",
        f"- Peak resident memory of a process: (a) {memory['a']}, without its workers; "
        f"(b) {memory['b']}, (c) {memory['c']}; a whole tracked run {memory['run']}.",
        f"- A run's fixed costs: imports {fixed['imports']:.1f} s; data, tracking, figures and "
        f"model archive {fixed['data_tracking_figures_model']:.1f} s; "
        f"a new SQLite store {fixed['new_store']:.1f} s; "
        f"an epoch's metrics {1000 * fixed['metrics_of_an_epoch']:.0f} ms.",
        f"- Tracking, figures, model archive and reading the data: "
        f"{report['tracking_share']:.1%} of a run of {RUN_EPOCHS} epochs (conv2d, all cores).",
        f"- `python -m pipeline --help` takes {report['help_over_click_seconds']:.2f} s more than "
        "importing click.",
    ]
    step = report["step_milliseconds"]["conv2d"]
    at_floor = 64 * GFLOP_PER_EPOCH / 60_000 / report["gflops_per_core"] * 1000
    lines += [
        "",
        "What limits (c): the operators are small. At the rate of large matrix products, a step of "
        f"64 images would take {at_floor:.1f} ms instead of {step[64]:.1f}. A step with a single "
        f"image takes {step[1]:.1f} ms: that much is Python, dispatch and the start of many small "
        "operators, forward and back. Sampled on 2026-11-23 with `perf record -e cpu-clock` "
        "(conv2d, one thread), a training spends 39 % of its time in Python, dispatch, autograd "
        "and memory allocation, 35 % in matrix products, which its convolutions are, 19 % in "
        "copies and elementwise passes over intermediate results, 3 % in sampling, and 3 % in "
        "oneDNN's convolutions, in the test pass. Tried without gain: torch.compile (25 ms a "
        "step); oneDNN's or torch's own convolutions, which take longer with 1 to 20 channels, in "
        "several memory layouts; AVX2 in place of AVX-512; batches of 64 cut into parts that fit "
        "the cache (larger images are); flushing denormal numbers; glibc's allocation thresholds "
        "(larger images gain by them); huge pages, and other allocators.",
    ]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
