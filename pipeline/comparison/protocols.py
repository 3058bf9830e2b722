"""Which runs may be compared: finished runs sorted into protocols, and into groups within them.

Runs are comparable if all their scientific parameters agree, except for the seed and the
parameters that the groups are compared by.
"""

import json
from collections import Counter
from itertools import groupby
from typing import Any

from pipeline.comparison.plausible import described, has_no_results, problem_of
from pipeline.errors import PipelineError
from pipeline.names import label_without
from pipeline.params import RunParams, choices, shortened, unknown_parameter
from pipeline.tracking.recorded import RecordedRun

# the runs of one protocol, by the values that tell the groups apart and, last, the seed
Members = dict[tuple[Any, ...], tuple[RunParams, RecordedRun]]


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
            raise PipelineError(f"by: {unknown_parameter(name, known)}")
    return names


def sort_into_protocols(
    runs: list[RecordedRun], by: tuple[str, ...]
) -> tuple[dict[str, Members], Counter[str], list[str]]:
    """Sort finished runs into protocols, by label, and count those left out, by reason.

    A repeated seed is not a further sample, because on the same machine it gives the same bits. So
    the newest run of each group and seed counts.

    Returns:
        The protocols, the counts, and a line for each run whose results cannot be those of a
        training, which is left out, too.
    """
    found: dict[str, Members] = {}
    left_out: Counter[str] = Counter()
    odd: list[str] = []
    for run in runs:
        params = _params_of(run)
        if params is None:
            left_out["with unknown parameters"] += 1
            continue
        if has_no_results(run):
            left_out["finished without results"] += 1
            continue
        problem = problem_of(run)
        if problem:
            odd.append(f"{described(run.name, run.run_id)}, left out because {problem}")
            continue
        # The selection is part of the key, so that a comparison by validation_size never mixes
        # runs selected on the test set with runs selected on validation images.
        key = [protocol_params(params, by), params.selection, run.data_digest]
        members = found.setdefault(json.dumps(key), {})
        place = (*(getattr(params, name) for name in by), params.seed)
        if place in members:
            left_out["repeated with the same seed"] += 1
        members[place] = (params, run)

    protocols: dict[str, Members] = {}
    for members in found.values():
        params, run = next(iter(members.values()))
        label = _label(params, run, by)
        if label in protocols:  # a preset was edited between two runs
            settings = protocol_params(params, by)
            label = f"{label} ({', '.join(f'{k}={v}' for k, v in settings.items())})"
        if label in protocols:  # so they differ in the data, or in what selected the epoch
            label = f"{label}, selected on {params.selection}, data {run.data_digest}"
        protocols[label] = members
    return protocols, left_out, odd


def varied_in(runs: list[RecordedRun]) -> list[str]:
    """The scientific parameters, without the seed, that differ between these runs."""
    read = [params for params in map(_params_of, runs) if params]
    settings = [protocol_params(params, by=()) for params in read]
    names = dict.fromkeys(name for values in settings for name in values)
    return [name for name in names if len({values.get(name) for values in settings}) > 1]


def in_groups(
    members: Members, by: tuple[str, ...]
) -> list[tuple[dict[str, Any], list[tuple[RunParams, RecordedRun]]]]:
    """The groups of a protocol in order: the values that tell each apart, and its runs by seed."""
    in_order = sorted(members, key=lambda place: list(map(_rank, (*by, "seed"), place)))
    return [
        (dict(zip(by, values, strict=True)), [members[place] for place in places])
        for values, places in groupby(in_order, key=lambda place: place[:-1])  # all but the seed
    ]


def protocol_params(params: RunParams, by: tuple[str, ...]) -> dict[str, Any]:
    """Every scientific parameter but the seed and those that the runs are compared by."""
    everything = {"conv_layer": params.conv_layer, **params.protocol}
    return {name: value for name, value in everything.items() if name not in by}


def _params_of(run: RecordedRun) -> RunParams | None:
    """The parameters that a run has recorded; None if they are not those of a training."""
    known = {k: v for k, v in run.params.items() if k in RunParams.model_fields}
    try:
        return RunParams.model_validate(known)
    except ValueError:
        return None


def _label(params: RunParams, run: RecordedRun, by: tuple[str, ...]) -> str:
    """The run's own label, without what the groups differ in and with the layer if they do not."""
    label = shortened(label_without(run.protocol_label, by), 300)
    return label if "conv_layer" in by else f"{label} {params.conv_layer}"


def _rank(name: str, value: Any) -> tuple[bool, Any]:
    """A key to sort values by: words in the order of `RunParams`, numbers by size."""
    listed = choices(name)
    if listed:  # a user's own layer is not listed by its name; it comes after the project's
        value = (listed.index(value) if value in listed else len(listed), value)
    # None, such as no preset, cannot be compared with a text; it comes first.
    return value is not None, value
