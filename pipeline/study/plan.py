"""What a study consists of: its runs, what varies among them, and the id by which it is known.

A study with `until=decided` also has a `Design`: its looks and their levels, fixed before the first
run.
"""

import hashlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

from pipeline.comparison.report import grouped_by
from pipeline.comparison.sequential import Design, planned_looks
from pipeline.errors import PipelineError
from pipeline.models.conv_layers import CONV_LAYERS
from pipeline.names import kind_of, protocol_label
from pipeline.params import RunParams, StudyParams, validated
from pipeline.presets import complete, preset_of, values_of, without_replaced

DEFAULT_LAYERS = ",".join(CONV_LAYERS)
_SEED_RANGE = {"runs", "first_seed"}  # a range of seeds, which a list as `seed` replaces


@dataclass(frozen=True)
class Study:
    """The runs that a study consists of.

    id: names the study in its runs' tag `stn.study`. It follows from the parameters that matter
        to the science, but not from the seeds: with other or more seeds it is the same study. With
        a design, it also follows from the design and the seeds: another plan is another study.
    label: of the protocol, see `names.protocol_label`, without the parameters that vary.
    varied: the parameters that differ from run to run, with their values, without the seed.
    runs: the parameters of each; seed by seed, so that an unfinished study has runs of each kind.
        With a design, these are the most runs that the study may train, by increasing seed.
    params: how many runs, how many at a time, how they are compared.
    design: the looks at the study, if it stops when it is decided; None if it trains all runs.
    """

    id: str
    label: str
    varied: dict[str, list[Any]]
    runs: list[RunParams]
    params: StudyParams
    design: Design | None = None

    def name_of(self, params: RunParams) -> str:
        """The name of a run, unique in its study: `coordconv2d seed=3`."""
        values = {name: getattr(params, name) for name in ("conv_layer", *self.varied)}
        return f"{kind_of(values)} seed={params.seed}"

    @property
    def rounds(self) -> list[list[RunParams]]:
        """The runs that must have finished at each look; without a design, all of them at once."""
        if self.design is None:
            return [self.runs]
        kinds = len(self.runs) // self.design.looks[-1]
        return [self.runs[: look * kinds] for look in self.design.looks]

    @property
    def compared_by(self) -> str:
        """The parameters that tell the groups of the comparison apart, a comma list."""
        return grouped_by(self.varied)


def resolve_study(given: dict[str, Any]) -> Study:
    """Complete the parameters of a study by those of its preset and the defaults.

    By default, the layers are `DEFAULT_LAYERS`, and the seeds are `runs` numbers from `first_seed`.

    Args:
        given: parameters of runs, each a value or a comma list of values, and of the study.

    Raises:
        PipelineError: as `presets.resolve`, and where a list repeats a value, `seed` is given
            together with `runs` or `first_seed`, or there is nothing that could be decided.
    """
    study_params, lists = _parameters(given)
    seeds = lists.pop("seed")
    runs = [
        complete(dict(zip(["seed", *lists], values, strict=True)))
        for values in itertools.product(seeds, *lists.values())
    ]
    for name, values in {**lists, "seed": seeds}.items():
        if len({getattr(run, name) for run in runs}) < len(values):
            raise PipelineError(f"{name}: got {','.join(map(str, values))!r}: a value is repeated")
    varied = {
        name: list(dict.fromkeys(getattr(run, name) for run in runs))
        for name in RunParams.model_fields  # in one order, however they were given
        if len(lists.get(name, [])) > 1
    }
    label = protocol_label(runs[0], except_for=set(varied))
    if study_params.until == "runs":
        return Study(_study_id(runs), label, varied, runs, study_params)
    runs.sort(key=lambda run: run.seed)  # a look takes the first runs in the order of their seeds
    design = _design(len(seeds), len(runs) // len(seeds), study_params.margin)
    return Study(_study_id(runs, design), label, varied, runs, study_params, design)


def _design(most: int, kinds: int, margin: float) -> Design:
    """The design of a study of at most so many runs of each of so many kinds."""
    if most < 2:
        raise PipelineError(f"until=decided needs at least 2 runs of each kind, got {most}")
    if kinds < 2:
        raise PipelineError(
            "until=decided needs runs of two kinds or more, and this study has one; give a "
            "parameter two values, such as conv_layer=conv2d,coordconv2d, or give until=runs"
        )
    return Design(planned_looks(most), margin)


def _parameters(given: dict[str, Any]) -> tuple[StudyParams, dict[str, list[Any]]]:
    """The study's own parameters, and the values of each parameter of its runs, with `seed`."""
    preset, given = _seeds_as_runs(preset_of(given)), _seeds_as_runs(given)
    preset = without_replaced(preset, given)
    # the seeds of the command line replace those of the preset, however either gives them
    if "seed" in given:
        preset = {name: value for name, value in preset.items() if name not in _SEED_RANGE}
    elif _SEED_RANGE & given.keys():
        preset.pop("seed", None)
    of_runs = {"conv_layer": DEFAULT_LAYERS, **preset, **given}
    of_study = {name: of_runs.pop(name) for name in StudyParams.model_fields if name in of_runs}
    study_params = validated(StudyParams, of_study)
    if "seed" in of_runs and _SEED_RANGE & of_study.keys():
        raise PipelineError(
            "give runs and first_seed, for the seeds first_seed, first_seed + 1, …, or a list as "
            "seed, but not both"
        )
    if "seed" not in of_runs:
        first = study_params.first_seed
        of_runs["seed"] = list(range(first, first + study_params.runs))
    return study_params, {name: values_of(name, value) for name, value in of_runs.items()}


def _seeds_as_runs(given: dict[str, Any]) -> dict[str, Any]:
    """The same with `runs` in place of `seeds`, which is another name of it."""
    if "seeds" not in given:
        return dict(given)
    if "runs" in given:
        raise PipelineError("give runs or seeds, which are the same, but not both")
    return {"runs" if name == "seeds" else name: value for name, value in given.items()}


def _study_id(runs: list[RunParams], design: Design | None = None) -> str:
    """Twelve hexadecimal digits that follow from the kinds of runs and, if any, from the plan.

    Parameters that have their default are left out, so that a parameter that a later version adds
    does not change the id.
    """
    kinds = [{"conv_layer": run.conv_layer, **run.protocol} for run in runs]
    defaults = {name: field.default for name, field in RunParams.model_fields.items()}
    known_by = [{name: v for name, v in kind.items() if v != defaults[name]} for kind in kinds]
    distinct = sorted({json.dumps(kind, sort_keys=True) for kind in known_by})
    if design is not None:
        seeds = sorted({run.seed for run in runs})
        distinct += [design.to_json(), json.dumps(seeds)]
    return hashlib.sha256("".join(distinct).encode()).hexdigest()[:12]
