"""A comparison as plain data: runs sorted into groups, groups summarized, pairs tested.

Runs are comparable if every scientific parameter agrees save the seed and those that they are
compared by; each such protocol is a comparison of its own.
"""

import difflib
import io
import json
import math
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, groupby
from typing import Any, Literal, get_args, get_origin

import numpy as np

from pipeline.comparison import statistics
from pipeline.comparison.statistics import McNemar, Pair, Summary
from pipeline.errors import PipelineError
from pipeline.machine import TAGS, ran_on
from pipeline.params import TEST_IMAGES, RunParams, kind_of, label_without
from pipeline.tracking.recorded import RecordedRun, artifact_bytes, artifact_text, metric_histories
from pipeline.tracking.vocabulary import Artifact, Metric

CURVES = (Metric.TEST_ACCURACY, Metric.TRAIN_LOSS)


@dataclass(frozen=True)
class RunResult:
    """One training run's selected model on the test set; accuracies and macro F1 as fractions.

    last_accuracy: after the last epoch, which no selection touches; None if it was not logged.
    pose_deviation: see `metrics.pose_deviation`, for the unit, too; None where there is none.
    ran_on: versions, CPU and so on, see `machine.ran_on`.
    curves: the value of each epoch, by metric; those of `CURVES` that were logged.
    """

    group: str
    seed: int
    accuracy: float
    f1: float
    loss: float
    best_epoch: int
    last_accuracy: float | None
    pose_deviation: float | None
    run_id: str
    name: str
    url: str
    ran_on: dict[str, str]
    curves: dict[str, dict[int, float]]


@dataclass(frozen=True)
class Poses:
    """One digit in eight poses, before and after a transformer.

    before: uint8 `(8, H, W)`, what the network got.
    after: uint8 `(8, h, w)`, these images sampled by the transformation that is predicted of each.
    outline: float32 `(8, K, 2)`, points (x, y) around what the transformer looks at, in normalized
        coordinates of the input image; clockwise from the upper left corner of the output, the
        first K // 4 along its upper edge.
    warps_image: whether that is what the transformer does; False where it warps feature maps.
    """

    before: np.ndarray
    after: np.ndarray
    outline: np.ndarray
    warps_image: bool


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, in the order of their seeds.

    params: the values that tell it from the other groups.
    accuracy, f1, last_accuracy: in percent; the last is None unless every run has it.
    pose: the runs' pose deviation, in its own unit; None unless every run has one.
    champion: the run with the highest test accuracy, at a tie that with the lower loss.
    confusion: the champion's, int `(10, 10)`, rows true digit; None if it is not stored.
    poses: the champion's; None if they are not stored.
    """

    name: str
    params: dict[str, Any]
    runs: list[RunResult]
    accuracy: Summary
    f1: Summary
    last_accuracy: Summary | None
    pose: Summary | None
    champion: RunResult
    confusion: np.ndarray | None
    poses: Poses | None


@dataclass(frozen=True)
class PairResult:
    """Two groups compared.

    verdict: one sentence without a full stop.
    mcnemar: of the two champions; None unless both have stored what they predict of the same
        images.
    """

    pair: Pair
    verdict: str
    mcnemar: McNemar | None


@dataclass(frozen=True)
class Protocol:
    """The groups that may be compared with each other.

    label: the preset and what differs from it.
    selection: `test` or `validation`, what the best epoch was selected on.
    params: every scientific parameter but the seed and those that the runs are compared by.
    pairs: every group with each later one.
    """

    label: str
    selection: str
    params: dict[str, Any]
    groups: list[Group]
    pairs: list[PairResult]

    @property
    def caption(self) -> str:
        """What the best epoch was selected on, in words."""
        if self.selection == "test":
            return "best epoch selected on the test set, so the numbers are optimistic"
        size = self.params.get("validation_size")
        images = f"{size:,} validation images" if size else "held-out validation images"
        return f"test accuracy of the best epoch, selected on {images}"

    @property
    def machines(self) -> dict[str, dict[str, Counter[str]]]:
        """What the runs differ in of what they ran on: by fact and value, the runs of each group.

        A run that has not recorded a fact does not count for it.
        """
        found: dict[str, dict[str, Counter[str]]] = {fact: {} for fact in TAGS}
        for run in (run for group in self.groups for run in group.runs):
            for fact, value in run.ran_on.items():
                found[fact].setdefault(value, Counter())[run.group] += 1
        return {fact: values for fact, values in found.items() if len(values) > 1}


@dataclass(frozen=True)
class Report:
    """What a comparison came to.

    title: whose runs they are.
    by: the parameters that tell the groups apart.
    margin: differences up to this one, in percentage points, do not matter.
    left_out: how many runs were left out, by reason.
    missing: what should be there and is not, a line each.
    """

    title: str
    created: str
    by: tuple[str, ...]
    margin: float
    protocols: list[Protocol]
    left_out: dict[str, int]
    missing: list[str]

    @property
    def noun(self) -> str:
        """What a group is called."""
        return _noun(self.by)


def parse_by(by: str) -> tuple[str, ...]:
    """The parameters in a comma list such as `conv_layer` or `conv_layer,lr`.

    Raises:
        PipelineError: for a name that is no parameter of a run, or is the seed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in by.split(",")))
    known = [name for name in RunParams.model_fields if name != "seed"]
    for name in names:
        if name == "seed":
            raise PipelineError("by: runs that differ in their seed only are one group")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "allowed: " + ", ".join(known)
            raise PipelineError(f"by: unknown parameter {name!r}; {hint}")
    return names


def check_margin(margin: float) -> None:
    """Raises PipelineError unless the margin is a positive number of percentage points."""
    if not 0 < margin < math.inf:
        raise PipelineError(
            f"margin: got {margin}; allowed: a number > 0, in percentage points, such as "
            f"{statistics.margin_text(statistics.MARGIN)}"
        )


def comparison_of(
    runs: list[RecordedRun],
    title: str,
    by: str = "conv_layer",
    margin: float = statistics.MARGIN,
    missing: list[str] | None = None,
) -> Report:
    """Compare training runs; reads their learning curves and the champions' files from the store.

    Args:
        runs: in whatever state, oldest first; those that have not finished are counted only.
        title: whose runs they are, such as the experiment's name.
        by: the parameters that tell the groups apart, a comma list.
        margin: differences up to this one, in percentage points, do not matter.
        missing: what should be there and is not, a line each; it is only passed on.

    Raises:
        PipelineError: for an unknown parameter or a margin that is not positive, or if no run has
            finished with what a training logs.
    """
    names = parse_by(by)
    check_margin(margin)
    finished = [run for run in runs if run.is_finished]
    left_out = Counter(run.status.lower() for run in runs if not run.is_finished)
    if not finished:
        counts = ", ".join(f"{count} {status}" for status, count in left_out.items())
        raise PipelineError(
            f"there is no finished training run in {title}"
            + (f" ({counts})" if counts else "")
            + "; start one with: mlflow run . --env-manager local"
        )
    protocols, out_of_groups = _sort(finished, names)
    if not protocols:
        raise PipelineError(f"no run of {title} holds what a training logs")
    return Report(
        title=title,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        by=names,
        margin=float(margin),
        protocols=[
            _protocol(label, members, names, margin) for label, members in protocols.items()
        ],
        left_out=dict(left_out + out_of_groups),
        missing=missing or [],
    )


# the runs of a protocol, by the values that tell the groups apart and the seed
_Members = dict[tuple[Any, ...], tuple[RunParams, RecordedRun]]


def _sort(runs: list[RecordedRun], by: tuple[str, ...]) -> tuple[dict[str, _Members], Counter[str]]:
    """Sort finished runs into protocols, by label, and say how many were left out, by reason.

    A repeated seed is no further sample (on the same machine it gives the same bits), so the
    newest run of each group and seed counts.
    """
    found: dict[str, _Members] = {}
    left_out: Counter[str] = Counter()
    for run in runs:
        known = {k: v for k, v in run.params.items() if k in RunParams.model_fields}
        try:
            params = RunParams.model_validate(known)
        except ValueError:
            left_out["with unknown parameters"] += 1
            continue
        if not run.has_results:
            left_out["finished without results"] += 1
            continue
        # the selection on top: a comparison by the validation's size must not mix the two
        key = [_protocol_params(params, by), params.selection, run.data_digest]
        members = found.setdefault(json.dumps(key), {})
        place = (*(getattr(params, name) for name in by), params.seed)
        if place in members:
            left_out["repeated with the same seed"] += 1
        members[place] = (params, run)

    protocols: dict[str, _Members] = {}
    for members in found.values():
        params, run = next(iter(members.values()))
        label = _label(params, run, by)
        if label in protocols:  # a preset was edited between two runs
            settings = _protocol_params(params, by)
            label = f"{label} ({', '.join(f'{k}={v}' for k, v in settings.items())})"
        protocols[label] = members
    return protocols, left_out


def _protocol_params(params: RunParams, by: tuple[str, ...]) -> dict[str, Any]:
    everything = {"conv_layer": params.conv_layer, **params.protocol}
    return {name: value for name, value in everything.items() if name not in by}


def _label(params: RunParams, run: RecordedRun, by: tuple[str, ...]) -> str:
    """The run's own label, without what the groups differ in and with the layer if they do not."""
    label = label_without(run.protocol_label, by)
    return label if "conv_layer" in by else f"{label} {params.conv_layer}"


def _protocol(label: str, members: _Members, by: tuple[str, ...], margin: float) -> Protocol:
    in_order = sorted(members, key=lambda place: list(map(_rank, (*by, "seed"), place)))
    groups = [
        _group(dict(zip(by, values, strict=True)), [members[place] for place in places])
        for values, places in groupby(in_order, key=lambda place: place[:-1])  # all but the seed
    ]
    params, _ = members[in_order[0]]
    return Protocol(
        label, params.selection, _protocol_params(params, by), groups, _pairs(groups, by, margin)
    )


def _rank(name: str, value: Any) -> tuple[bool, Any]:
    """What a parameter's values are sorted by: words as `RunParams` lists them, numbers by size."""
    kind = RunParams.model_fields[name].annotation
    if get_origin(kind) is Literal:
        value = get_args(kind).index(value)
    # None, such as no preset, cannot be compared with a text; it comes first
    return value is not None, value


# what a group is called if this alone tells it from the others; the values speak for themselves
_NOUNS = {"conv_layer": "layer", "architecture": "architecture"}


def _result(
    group: str, params: RunParams, run: RecordedRun, curves: dict[str, dict[int, float]]
) -> RunResult:
    return RunResult(
        group=group,
        seed=params.seed,
        accuracy=run.best_test_accuracy,
        f1=run.best_test_f1,
        loss=run.best_test_loss,
        best_epoch=run.best_epoch,
        last_accuracy=run.last_test_accuracy,
        pose_deviation=run.pose_deviation,
        run_id=run.run_id,
        name=run.name,
        url=run.url,
        ran_on=ran_on(run.tags),
        curves={name: curve for name, curve in curves.items() if curve},
    )


def _group(values: dict[str, Any], members: list[tuple[RunParams, RecordedRun]]) -> Group:
    name = kind_of(values)
    run_ids = [run.run_id for _, run in members]
    histories = {metric: metric_histories(run_ids, metric) for metric in CURVES}
    runs = [
        _result(name, params, run, {metric: histories[metric][run.run_id] for metric in CURVES})
        for params, run in members
    ]
    last = [run.last_accuracy for run in runs if run.last_accuracy is not None]
    poses = [run.pose_deviation for run in runs if run.pose_deviation is not None]
    champion = max(runs, key=lambda run: (run.accuracy, -run.loss))
    confusion = artifact_text(champion.run_id, Artifact.CONFUSION_COUNTS)
    return Group(
        name=name,
        params=values,
        runs=runs,
        accuracy=_summary([run.accuracy for run in runs]),
        f1=_summary([run.f1 for run in runs]),
        last_accuracy=_summary(last) if len(last) == len(runs) else None,
        pose=statistics.summarize(poses, math.inf) if len(poses) == len(runs) else None,
        champion=champion,
        # the first row and the first column name the digits
        confusion=None if confusion is None else _numbers(confusion)[:, 1:],
        poses=_poses(champion),
    )


def _poses(run: RunResult) -> Poses | None:
    content = artifact_bytes(run.run_id, Artifact.POSES)
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Poses(
            arrays["before"], arrays["after"], arrays["outline"], bool(arrays["warps_image"])
        )


def _summary(fractions: list[float]) -> Summary:
    return statistics.summarize([100 * fraction for fraction in fractions])


def _numbers(table: str) -> np.ndarray:
    """The integers of a CSV table under its header."""
    return np.loadtxt(io.StringIO(table), dtype=int, delimiter=",", skiprows=1, ndmin=2)


def _pairs(groups: list[Group], by: tuple[str, ...], margin: float) -> list[PairResult]:
    values = {group.name: [100 * run.accuracy for run in group.runs] for group in groups}
    tested = {(pair.first, pair.second): pair for pair in statistics.compare_all(values, margin)}
    correct = {group.name: _correct(group.champion) for group in groups}
    dataset = {group.name: group.params.get("dataset") for group in groups}
    results = []
    for first, second in combinations(values, 2):
        pair = tested.get((first, second))
        if pair is None:  # a group of one run is no part of the family that Holm corrects for
            pair = statistics.compare_pair(
                values[first], values[second], margin, names=(first, second)
            )
        of_first, of_second = correct[first], correct[second]
        mcnemar = None
        same_images = dataset[first] == dataset[second]
        if of_first is not None and of_second is not None and same_images:
            mcnemar = statistics.mcnemar(of_first, of_second)
        results.append(PairResult(pair, statistics.verdict(pair, _noun(by)), mcnemar))
    return results


def _correct(run: RunResult) -> np.ndarray | None:
    """Which test images the run's model classifies correctly, bool `(N,)`; None if not stored.

    Of an image in several poses, the first: they are not independent, as McNemar's test wants it.
    """
    text = artifact_text(run.run_id, Artifact.PREDICTIONS)
    if text is None:
        return None
    label, predicted = _numbers(text).T
    return (label == predicted)[:TEST_IMAGES]


def _noun(by: tuple[str, ...]) -> str:
    return _NOUNS.get(by[0], "group") if len(by) == 1 else "group"
