"""The report of `benchmarks/throughput.py`: a section and an entry for each kind of machine."""

import json
import os
import re
from pathlib import Path

from pipeline.machine import cpu

LAYERS = ("conv2d", "coordconv2d")
# what is compared, and its name in the JSON report
COLUMNS = {"a": "reference", "b": "one_run", "c": "all_cores", "d": "all_cores_torchs_layers"}
RUN_EPOCHS = 30  # of the replicated protocol; tracking's share is of such a run
# Multiplications and additions of the training steps and the test pass. It is the network's as
# written: what pooling drops counts, although ours does not compute it.
GFLOP_PER_EPOCH = 277


def kind_of_machine(cores: int) -> str:
    """What a section and an entry are of: the CPU, its cores, and a limit that oneDNN was given."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{cpu()}, {cores} cores" + (f", oneDNN up to {limit}" if limit else "")


def keep(json_file: Path, markdown_file: Path, report: dict, section: str) -> None:
    """Put a report into its place among those of other machines, in both files."""
    reports = json.loads(json_file.read_text()) if json_file.exists() else {}
    json_file.write_text(json.dumps({**reports, report["kind"]: report}, indent=2) + "\n")
    old = markdown_file.read_text() if markdown_file.exists() else "# Throughput\n"
    head, *sections = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    others = [other.strip() for other in sections if not other.startswith(f"## {report['kind']}\n")]
    markdown_file.write_text("\n\n".join([head.strip(), section.strip(), *others]) + "\n")


def as_markdown(report: dict, quick: bool) -> str:
    """The section of this machine: what was measured, and how."""
    lines = [
        f"## {report['kind']}",
        "",
        f"`make bench{' QUICK=1' if quick else ''}` at commit {report['commit']}, "
        f"{report['date']}; {report['versions']}; {report['protocol']}.",
        "",
        "Training images per second: (a) the reference loop, (b) one run of ours on all cores, "
        "(c) one run of ours per core at once, added, (d) as (c), with `nn.Conv2d` and "
        "`nn.MaxPool2d` in place of `pipeline/models/pooled_product.py`. Floor: the rate of the "
        f"fastest matrix product of torch, {report['gflops_per_core']:.0f} GFLOP/s per core, at "
        f"{GFLOP_PER_EPOCH} GFLOP an epoch.",
        "",
        "| layer | images | (a) | (b) | (c) | (d) | (b)/(a) | (c)/(a) | (c)/(d) | floor/(c) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for layer in LAYERS:
        for kind, result in report[layer].items():
            rates = " | ".join(f"{rate:,.0f}" for rate in result["images_per_second"].values())
            lines.append(
                f"| {layer} | {kind} | {rates} | {result['ratio_one_run']:.2f} | "
                f"{result['ratio_all_cores']:.2f} | {result['ratio_products']:.2f} | "
                f"{result['floor_ratio']:.1f} |"
            )
    lines += [
        "",
        "| share of a training step, one thread | conv2d | coordconv2d |",
        "| --- | --- | --- |",
    ]
    for kind in report["breakdown"]["conv2d"]:
        shares = " | ".join(f"{report['breakdown'][layer][kind]:.0%}" for layer in LAYERS)
        lines.append(f"| {kind} | {shares} |")
    lines += [
        "",
        "The shares are those of 100 steps under torch.profiler, which makes each operator longer. "
        "What is in no operator is Python, autograd and the profiler.",
        "",
    ]
    steps = report["step_milliseconds"]
    lines += [
        f"- A training step of {layer} on one thread: {step[64]:.1f} ms with 64 images, "
        f"{step[1]:.1f} ms with a single one."
        for layer, step in steps.items()
    ]
    lines.append(
        f"- CoordConv takes {steps['coordconv2d'][64] / steps['conv2d'][64]:.2f} times as long as "
        "Conv for a step."
    )
    lines += [
        f"- A step of the network of arXiv:2004.11678 (stn-c0, conv2d, {dataset} digits, one "
        f"thread) takes {ratio:.2f} times as long with the layers of (d) as with those of (c)."
        for dataset, ratio in report["paper_step_ratios"].items()
    ]
    for layer in LAYERS if not quick else ():
        plain, augmented = (
            report[layer][kind]["images_per_second"]["all_cores"] for kind in ("plain", "augmented")
        )
        lines.append(
            f"- An augmented epoch of {layer} takes {plain / augmented:.2f} times as long as a "
            "plain one, in (c)."
        )
    memory = {name: f"{value:,.0f} MiB" for name, value in report["peak_mib"].items()}
    whole = f"; a whole tracked run {memory['run']}" if "run" in memory else ""
    lines.append(
        f"- Peak resident memory of a process: (a) {memory['a']}, without its workers; "
        f"(b) {memory['b']}, (c) {memory['c']}{whole}."
    )
    if "fixed_costs_seconds" in report:
        fixed = report["fixed_costs_seconds"]
        lines += [
            f"- A run's fixed costs: imports {fixed['imports']:.1f} s; data, tracking, figures and "
            f"model archive {fixed['data_tracking_figures_model']:.1f} s; "
            f"a new SQLite store {fixed['new_store']:.1f} s; "
            f"an epoch's metrics {1000 * fixed['metrics_of_an_epoch']:.0f} ms.",
            f"- Tracking, figures, model archive and reading the data: "
            f"{report['tracking_share']:.1%} of a run of {RUN_EPOCHS} epochs (conv2d, all cores).",
        ]
    lines.append(
        f"- `python -m pipeline --help` takes {report['help_over_click_seconds']:.2f} s more than "
        "importing click."
    )
    return "\n".join(lines) + "\n"
