"""Our training speed beside the usual loop's, on the same cores, in one run: `make bench`.

    python -m benchmarks.throughput            about 40 minutes on two cores
    python -m benchmarks.throughput --quick    a part of an epoch, about three minutes

Compared, in training images per second over an epoch with its test pass:

(a) the reference loop of `benchmarks/reference.py`,
(b) one run of ours with all cores,
(c) as many runs of ours at once as there are cores, one thread each, their rates added.

Each measurement is a process of its own; a, b, c take turns, and medians are reported. Writes
`results/throughput.md` and `.json`.
"""

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch

LAYERS = ("conv2d", "coordconv2d")
EPOCH_STEPS = 938
# arithmetic of an epoch's training steps and test pass, multiplications and additions counted
GFLOP_PER_EPOCH = 277
RESULTS = Path("results")


def measure_ours(conv_layer: str, augmented: bool, threads: int, steps: int) -> float:
    """Training images per second of one run of ours; the test set is cut as the epoch is."""
    from pipeline.data.mnist import Digits, load_mnist, normalize
    from pipeline.models.stn import build_model
    from pipeline.params import RunParams
    from pipeline.train import train

    torch.set_num_threads(threads)
    share = min(1, steps / EPOCH_STEPS)
    train_set, test_set = (
        Digits(
            normalize(s.images[: round(share * len(s.labels))]),
            s.labels[: round(share * len(s.labels))],
        )
        for s in load_mnist("data")
    )
    params = RunParams(
        epochs=1, conv_layer=conv_layer, augmentation="affine" if augmented else "none"
    )
    torch.manual_seed(0)
    model = build_model(conv_layer, params.padding_mode, params.radius_center)
    model.to(memory_format=torch.channels_last)
    seconds = []
    train(
        model,
        train_set,
        test_set,
        params,
        on_epoch_end=lambda _, m: seconds.append(m["epoch_seconds"]),
    )
    return len(train_set.labels) / seconds[0]


def matrix_product_rate() -> float:
    """GFLOP/s of one core in a large float32 matrix product."""
    torch.set_num_threads(1)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        rates.append(2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def fixed_costs() -> dict[str, float]:
    """Seconds of a 1-epoch run by its parts, from a real run in a store of its own."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        for name in ("pipeline", "data", "params"):
            os.symlink(Path(name).absolute(), Path(folder) / name)
        train = [sys.executable, "-m", "pipeline", "train", "--epochs", "1", "--threads", "1"]
        seconds = []
        for _ in range(2):  # the first creates the store
            start = time.perf_counter()
            done = subprocess.run(
                train, cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            seconds.append(time.perf_counter() - start)
        (epoch,) = [line for line in done.stdout.splitlines() if line.startswith("epoch 1/1")]
        epoch_seconds = float(epoch.split(", ")[-1].removesuffix(" s"))
        imports = "import pipeline.run"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", imports], check=True)
        import_seconds = time.perf_counter() - start
    return {
        "new_store": seconds[0] - seconds[1],
        "imports": import_seconds,
        "epoch": epoch_seconds,
        "data_tracking_figures_model": seconds[1] - epoch_seconds - import_seconds,
    }
