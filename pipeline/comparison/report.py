"""A comparison as plain data: protocols with their groups, and the pairs of groups tested."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

from pipeline.comparison import statistics
from pipeline.comparison.groups import Group, RunResult, group_of
from pipeline.comparison.pairs import Pair, compare_all, compare_pair
from pipeline.comparison.protocols import (
    Members,
    in_groups,
    parse_by,
    protocol_params,
    sort_into_protocols,
)
from pipeline.comparison.sequential import Decision, Design, decide
from pipeline.comparison.statistics import McNemar
from pipeline.comparison.verdict import verdict, verdict_by_design
from pipeline.errors import PipelineError
from pipeline.machine import TAGS
from pipeline.params import check_margin
from pipeline.tracking.recorded import RecordedRun


@dataclass(frozen=True)
class PairResult:
    """Two groups compared.

    Attributes:
        pair: the statistics of all runs.
        verdict: one sentence without a full stop.
        decision: of the study's design; None without a design, or if no look has been taken.
        mcnemar: of the two champions; None unless both have stored what they predict of the same
            images.
    """

    pair: Pair
    verdict: str
    mcnemar: McNemar | None
    decision: Decision | None = None


@dataclass(frozen=True)
class Protocol:
    """The groups that may be compared with each other.

    Attributes:
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
        """Where runs differ in versions, CPU and so on: by fact and value, the runs of each group.

        A run that has not recorded a fact does not count for it.
        """
        found: dict[str, dict[str, Counter[str]]] = {fact: {} for fact in TAGS}
        for run in (run for group in self.groups for run in group.runs):
            for fact, value in run.ran_on.items():
                found[fact].setdefault(value, Counter())[run.group] += 1
        return {fact: values for fact, values in found.items() if len(values) > 1}


@dataclass(frozen=True)
class Report:
    """The result of a comparison.

    Attributes:
        title: whose runs they are.
        by: the parameters that tell the groups apart.
        margin: differences up to this one, in percentage points, are treated as negligible.
        left_out: how many runs were left out, by reason.
        missing: what should be there and is not, a line each.
        design: the looks at the study; None if it has a fixed size.
    """

    title: str
    created: str
    by: tuple[str, ...]
    margin: float
    protocols: list[Protocol]
    left_out: dict[str, int]
    missing: list[str]
    design: Design | None = None

    @property
    def noun(self) -> str:
        """What a group is called."""
        return noun_of(self.by)


def comparison_of(
    runs: list[RecordedRun],
    title: str,
    *,
    by: str,
    margin: float,
    missing: list[str] | None = None,
    design: Design | None = None,
    looks: list[set[int]] | None = None,
) -> Report:
    """Compare training runs; reads their learning curves and the champions' files from the store.

    Args:
        runs: in whatever state, oldest first; those that have not finished are only counted.
        title: whose runs they are, such as the experiment's name.
        by: the parameters that tell the groups apart, a comma list.
        margin: differences up to this one, in percentage points, are treated as negligible.
        missing: what should be there and is not, a line each. The report adds what is left out of
            the comparison because it is not what a training logs.
        design: the looks at a study; its margin is used in place of `margin`.
        looks: the seeds at each look so far, of a study whose looks were not planned. A look of
            the design takes first the runs of the first look, then those that the second one
            added, and so on; within a look, and of a study with a plan, by increasing seed.

    Raises:
        PipelineError: for an unknown parameter or a margin out of range, or if no run has finished
            with what a training logs.
    """
    names = parse_by(by)
    margin = design.margin if design else margin
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
    members, out_of_groups, odd = sort_into_protocols(finished, names)
    if not members:
        raise PipelineError("; ".join([f"no run of {title} holds what a training logs", *odd]))
    protocols = [
        _protocol(label, runs, names, margin, design, looks or [])
        for label, runs in members.items()
    ]
    unreadable = [line for p in protocols for group in p.groups for line in group.missing]
    return Report(
        title=title,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        by=names,
        margin=float(margin),
        protocols=protocols,
        left_out=dict(left_out + out_of_groups),
        missing=[*(missing or []), *odd, *unreadable],
        design=design,
    )


def _protocol(
    label: str,
    members: Members,
    by: tuple[str, ...],
    margin: float,
    design: Design | None,
    looks: list[set[int]],
) -> Protocol:
    groups = [group_of(values, runs) for values, runs in in_groups(members, by)]
    params, _ = next(iter(members.values()))
    return Protocol(
        label=label,
        selection=params.selection,
        params=protocol_params(params, by),
        groups=groups,
        pairs=_pairs(groups, noun_of(by), margin, design, looks),
    )


def _pairs(
    groups: list[Group],
    noun: str,
    margin: float,
    design: Design | None,
    looks: list[set[int]],
) -> list[PairResult]:
    values = {group.name: group.percentages for group in groups}
    tested = {(pair.first, pair.second): pair for pair in compare_all(values, margin=margin)}
    in_order = {group.name: _in_order_of_looks(group, looks) for group in groups}
    decisions = decide(design, in_order) if design else []
    decided = {(decision.first, decision.second): decision for decision in decisions}
    correct = {group.name: group.correct for group in groups}
    dataset = {group.name: group.params.get("dataset") for group in groups}
    results = []
    for first, second in combinations(values, 2):
        pair = tested.get((first, second))
        if pair is None:  # Holm's correction does not count pairs with a group of one run
            pair = compare_pair(values[first], values[second], margin=margin, names=(first, second))
        of_first, of_second = correct[first], correct[second]
        mcnemar = None
        if of_first is not None and of_second is not None:
            same_images = dataset[first] == dataset[second] and of_first.size == of_second.size
            mcnemar = statistics.mcnemar(of_first, of_second) if same_images else None
        decision = decided.get((first, second))
        if design:
            sentence = verdict_by_design(pair, decision, design, noun=noun)
        else:
            sentence = verdict(pair, noun=noun)
        results.append(PairResult(pair, sentence, mcnemar, decision))
    return results


def _in_order_of_looks(group: Group, looks: list[set[int]]) -> list[float]:
    """The accuracies of a group in percent, by the first look that has the run, then by seed."""

    def place(run: RunResult) -> tuple[int, int]:
        first = (number for number, seeds in enumerate(looks) if run.seed in seeds)
        return next(first, len(looks)), run.seed

    return [100 * run.accuracy for run in sorted(group.runs, key=place)]


# what a group is called if this parameter alone tells it from the others
_NOUNS = {"conv_layer": "layer", "architecture": "architecture"}


def grouped_by(varied: Iterable[str]) -> str:
    """The parameters that tell the groups of a study apart, a comma list.

    These are `architecture` and `conv_layer` if they vary, else every parameter that varies, else
    `conv_layer`.
    """
    varied = list(varied)
    names = [name for name in ("architecture", "conv_layer") if name in varied]
    return ",".join(names or varied or ["conv_layer"])


def noun_of(by: tuple[str, ...]) -> str:
    """What a group is called that is told apart by these parameters: layer, architecture, group."""
    return _NOUNS.get(by[0], "group") if len(by) == 1 else "group"
