"""The table of the study: read finished training runs from the tracking store, layer by layer.

Runs are comparable if every scientific parameter but `conv_layer` and `seed` agrees; each such
protocol gets a table of its own.
"""

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline import figures, tracking
from pipeline.errors import PipelineError
from pipeline.params import RunParams
from pipeline.tracking import RecordedRun


@dataclass(frozen=True)
class RunResult:
    """One training run's selected model on the test set; accuracy and macro F1 as fractions."""

    conv_layer: str
    seed: int
    accuracy: float
    f1: float
    loss: float
    best_epoch: int
    run_id: str


@dataclass(frozen=True)
class Protocol:
    """The runs that may be compared with each other.

    label: the preset and what differs from it.
    selection: `test` or `validation`, what the best epoch was selected on.
    params: every scientific parameter but the layer and the seed.
    layers: the runs by layer, in the order of their seeds.
    """

    label: str
    selection: str
    params: dict[str, Any]
    layers: dict[str, list[RunResult]]


@dataclass(frozen=True)
class Comparison:
    """The tables as Markdown, and the run that holds them."""

    markdown: str
    run_id: str
    url: str


def compare_runs(experiment: str | None) -> Comparison:
    """Build the tables of an experiment's finished training runs, and log them as a run.

    Raises:
        PipelineError: if there is no such experiment or no finished training run in it.
    """
    tracking.check_store()
    name = tracking.current_experiment(experiment)
    runs = tracking.training_runs(name)
    finished = [run for run in runs if run.status == "FINISHED"]
    left_out = Counter(run.status.lower() for run in runs if run.status != "FINISHED")
    if not finished:
        others = ", ".join(f"{count} {status}" for status, count in left_out.items())
        raise PipelineError(
            f"there is no finished training run in the experiment {name}"
            + (f" ({others})" if others else "")
            + "; start one with: mlflow run . --env-manager local"
        )
    protocols, out_of_groups = group_runs(finished)
    left_out.update(out_of_groups)
    if not protocols:
        raise PipelineError(f"no run of the experiment {name} holds what a training logs")
    markdown = as_markdown(name, protocols, left_out)
    with tracking.open_run(
        name="compare",
        description=f"Training runs of *{name}*, layer against layer.\n\n{markdown}",
        experiment=experiment,
    ) as run:
        accuracies = {
            f"{protocol.label}\n{_caption(protocol)}": {
                layer: [result.accuracy for result in results]
                for layer, results in protocol.layers.items()
            }
            for protocol in protocols
        }
        run.log_artifacts(
            {
                "comparison.md": markdown,
                "comparison.csv": as_csv(protocols),
                "comparison.json": as_json(name, protocols, left_out),
                "comparison.png": figures.comparison_figure(accuracies),
            }
        )
    return Comparison(markdown, run.run_id, run.url)


def comparison_of(
    runs: list[RecordedRun], title: str, by: str, margin: float, missing: list[str]
) -> tuple[str, list[Protocol], Counter[str]]:
    """The tables of finished runs; `missing` are lines that say which runs are not there."""
    protocols, left_out = group_runs(runs)
    left_out.update(missing)
    return title, protocols, left_out


def comparison_files(report: tuple[str, list[Protocol], Counter[str]]) -> dict[str, Any]:
    """The files of a comparison, by name."""
    return {"comparison.md": as_markdown(*report)}


def group_runs(runs: list[RecordedRun]) -> tuple[list[Protocol], Counter[str]]:
    """Sort runs into protocols, layers and seeds.

    A repeated seed is no further sample (on the same machine it gives the same bits), so the
    newest run of each layer and seed counts.

    Args:
        runs: finished runs, oldest first.

    Returns:
        The protocols, and how many runs were left out, by reason.
    """
    newest: dict[str, dict[tuple[str, int], tuple[RunParams, RecordedRun]]] = {}
    left_out: Counter[str] = Counter()
    for run in runs:
        known = {k: v for k, v in run.params.items() if k in RunParams.model_fields}
        try:
            params = RunParams.model_validate(known)
        except ValueError:
            left_out["with unknown parameters"] += 1
            continue
        if "best_test_accuracy" not in run.metrics:
            left_out["finished without results"] += 1
            continue
        key = json.dumps([params.protocol, run.tags.get("stn.data_digest")])
        members = newest.setdefault(key, {})
        if (params.conv_layer, params.seed) in members:
            left_out["repeated with the same seed"] += 1
        members[params.conv_layer, params.seed] = (params, run)

    protocols: dict[str, Protocol] = {}
    for members in newest.values():
        params, run = next(iter(members.values()))
        label = run.tags["stn.protocol"]
        if label in protocols:  # a preset was edited between two runs
            label = f"{label} ({', '.join(f'{k}={v}' for k, v in params.protocol.items())})"
        layers: dict[str, list[RunResult]] = {}
        for (conv_layer, seed), (_, run) in sorted(members.items()):
            layers.setdefault(conv_layer, []).append(
                RunResult(
                    conv_layer,
                    seed,
                    run.metrics["best_test_accuracy"],
                    run.metrics["best_test_f1"],
                    run.metrics["best_test_loss"],
                    int(run.metrics["best_epoch"]),
                    run.run_id,
                )
            )
        protocols[label] = Protocol(label, params.selection, params.protocol, layers)
    return list(protocols.values()), left_out


def as_markdown(experiment: str, protocols: list[Protocol], left_out: Counter[str]) -> str:
    """The tables in the published shape: a line per layer, a column per run, mean and spread."""
    lines = []
    for protocol in protocols:
        columns = max(len(results) for results in protocol.layers.values())
        lines += [f"**{protocol.label}**, {_caption(protocol)}", ""]
        header = ["layer", *(f"run #{n}" for n in range(1, columns + 1)), "accuracy [%]", "F1 [%]"]
        lines += [_row(header), _row(["---"] * len(header))]
        for layer, results in protocol.layers.items():
            cells = [f"{100 * result.accuracy:.2f}" for result in results]
            cells += [""] * (columns - len(results))
            lines.append(
                _row(
                    [
                        layer,
                        *cells,
                        mean_and_deviation([result.accuracy for result in results]),
                        mean_and_deviation([result.f1 for result in results]),
                    ]
                )
            )
        lines.append("")
    lines.append("Accuracy and macro F1 on the test set: mean (sample standard deviation).")
    if left_out:
        counts = ", ".join(f"{count} {what}" for what, count in left_out.items())
        lines.append(f"Left out of {experiment}: {counts}.")
    return "\n".join(lines) + "\n"


def mean_and_deviation(fractions: list[float]) -> str:
    """Fractions as percent, `99.05 (0.03)`; one value alone has no deviation, `99.05 (–)`."""
    percent = 100 * np.array(fractions)
    spread = f"{percent.std(ddof=1):.2f}" if len(percent) > 1 else "–"
    return f"{percent.mean():.2f} ({spread})"


def as_csv(protocols: list[Protocol]) -> str:
    """One line per run; fractions, not percent."""
    text = io.StringIO()
    names = ["protocol", "selection", "run", *RunResult.__dataclass_fields__]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for protocol in protocols:
        for results in protocol.layers.values():
            for number, result in enumerate(results, start=1):
                writer.writerow(
                    {
                        "protocol": protocol.label,
                        "selection": protocol.selection,
                        "run": number,
                        **asdict(result),
                    }
                )
    return text.getvalue()


def as_json(experiment: str, protocols: list[Protocol], left_out: Counter[str]) -> dict[str, Any]:
    """The same as plain data; fractions, not percent."""
    return {
        "experiment": experiment,
        "left_out": dict(left_out),
        "protocols": [asdict(protocol) for protocol in protocols],
    }


def _caption(protocol: Protocol) -> str:
    if protocol.selection == "test":
        return "best epoch selected on the test set, so the numbers are optimistic"
    return f"best epoch selected on {protocol.params['validation_size']:,} validation images"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
