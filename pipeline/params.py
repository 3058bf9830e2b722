"""The parameters of a run and of a study: names, types, ranges, defaults, presets, precedence.

`RunParams` and `StudyParams` are the one truth about them. The options of the command line, the
YAML presets under `params/`, the parameters that MLflow shows and the tables in the README come
from them. Precedence: command line, then preset file, then default.
"""

import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import core_schema

from pipeline.data.datasets import DATASETS, PLAIN
from pipeline.errors import PipelineError
from pipeline.models.conv_layers import (
    CLASSIFIER_LAYER,
    CONV_LAYERS,
    OWN_LAYER,
    alias_of,
    entry_of,
    is_own,
    pinned,
)
from pipeline.models.placements import ARCHITECTURES
from pipeline.models.transforms import TRANSFORMS

TRAINING_IMAGES, TEST_IMAGES = 60_000, 10_000
CLASSES = 10


def one_of(names: Iterable[str]) -> GetPydanticSchema:
    """A type of text that must be one of `names`: `Annotated[str, one_of(names)]`.

    It validates, and describes itself in a JSON schema, as a `Literal` of these names does.
    """
    schema = core_schema.literal_schema(list(names))
    return GetPydanticSchema(lambda source, handler: schema)


def _layer_name(value: Any) -> Any:
    if value in CONV_LAYERS or (isinstance(value, str) and is_own(value)):
        return value
    listed = ", ".join(map(repr, CONV_LAYERS))
    raise ValueError(f"Input should be {listed} or a layer of your own, such as my_layers:MyConv2d")


class RunParams(BaseModel):
    """One training run. The defaults are the replicated protocol (`params/replication.yaml`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    conv_layer: Annotated[
        str,
        BeforeValidator(_layer_name),
        WithJsonSchema({"type": "string", "enum": [*CONV_LAYERS, OWN_LAYER]}),
    ] = Field(
        CLASSIFIER_LAYER,
        description="convolution inside the localization network; of a cnn, in all of it; "
        "module:Class is a layer of your own",
    )
    epochs: int = Field(30, ge=1, description="passes over the training images")
    iterations: int = Field(
        0, ge=0, description="training steps, in place of epochs; 0 trains for epochs"
    )
    batch_size: int = Field(64, ge=1, le=TRAINING_IMAGES, description="images per step")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of SGD")
    lr_step: int = Field(15, ge=1, description="epochs between two decays of the learning rate")
    lr_step_iterations: int = Field(
        0, ge=0, description="the same in training steps, in place of lr_step; 0 goes by lr_step"
    )
    lr_gamma: float = Field(0.5, gt=0, le=1, description="factor of each decay")
    seed: int = Field(
        0, ge=0, lt=2**32, description="of initialization, batch order, dropout, validation split"
    )
    validation_size: int = Field(
        0,
        ge=0,
        le=TRAINING_IMAGES - CLASSES,
        description="training images held out to select the best epoch, at least 10; "
        "0 selects on the test set",
    )
    padding_mode: Literal["border", "zeros", "reflection"] = Field(
        "border", description="what the sampler reads outside the image"
    )
    radius_center: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="CoordConv's radius is measured from (c, c); 0 is the image centre",
    )
    augmentation: Literal["none", "affine"] = Field(
        "none", description="random warps of the training images: rotation, scale, shift and shear"
    )
    batch_norm: Literal["none", "classifier"] = Field(
        "none", description="batch normalization after each ReLU of the classifier"
    )
    dataset: Annotated[str, one_of(DATASETS)] = Field(
        PLAIN, description="what to classify: digits as they are, or in random poses"
    )
    architecture: Annotated[str, one_of(ARCHITECTURES)] = Field(
        "stn-c0", description="where the transformer sits; cnn has none"
    )
    transform: Annotated[str, one_of(TRANSFORMS)] = Field(
        "affine", description="what the transformer may do to an image"
    )
    transformer_iterations: int = Field(
        1, ge=1, le=10, description="times the transformer is applied; affine kinds only"
    )
    sampler_size: int = Field(
        0,
        ge=0,
        le=max(entry.size for entry in DATASETS.values()),
        description="side of the transformer's output, in pixels of the image; 0 is its input's",
    )
    network: Literal["tutorial", "paper"] = Field(
        "tutorial", description="layer sizes: the PyTorch tutorial's, or those of arXiv:2004.11678"
    )
    localization_lr_scale: float = Field(
        1.0, gt=0, description="factor of the localization network's learning rate"
    )
    data_dir: str = Field("data", min_length=1, description="folder that holds MNIST/raw/")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes a GPU where there is one"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of torch; 0 is every core")
    preset: str | None = Field(
        None, min_length=1, description="YAML file of parameters, such as params/replication.yaml"
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        description="MLflow experiment; by default the one MLflow was told, else stn-mnist",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any) -> Any:
        if isinstance(value, bool):  # YAML's yes and no; pydantic would take them for 1 and 0
            raise ValueError("a truth value is no value of this parameter")
        return value

    @field_validator("validation_size")
    @classmethod
    def _room_for_every_class(cls, value: int) -> int:
        if 0 < value < CLASSES:
            raise ValueError("every digit must be among the images held out")
        return value

    @property
    def layer_settings(self) -> dict[str, Any]:
        """The parameters that the convolution layer takes as settings, with their values."""
        names = entry_of(self.conv_layer).settings
        return {name: getattr(self, name) for name in names if name in type(self).model_fields}

    @property
    def selection(self) -> str:
        """What the best epoch is selected on: `test` or `validation`."""
        return "validation" if self.validation_size else "test"

    @property
    def selection_set(self) -> str:
        """The set itself, by name: `validation 10000`, `test`, `rotated test`."""
        chosen = f"validation {self.validation_size}" if self.validation_size else "test"
        return chosen if self.dataset == PLAIN else f"{self.dataset} {chosen}"

    @property
    def planned_epochs(self) -> int:
        """How many epochs the training has."""
        return self.epochs_over(TRAINING_IMAGES - self.validation_size)

    def epochs_over(self, images: int) -> int:
        """The same with so many training images; `iterations` may cut the last epoch short."""
        if not self.iterations:
            return self.epochs
        return math.ceil(self.iterations / self.steps_over(images))

    def steps_over(self, images: int) -> int:
        """The training steps of a whole epoch with so many images."""
        return math.ceil(images / self.batch_size)

    @property
    def protocol(self) -> dict[str, Any]:
        """The parameters that must agree for two runs to be comparable.

        They leave out what a comparison varies (`conv_layer`, `seed`) and what does not change
        the science (`device`, `experiment`, …, and `epochs` where `iterations` take their place).
        """
        replaced = {old for new, old in _IN_PLACE_OF.items() if getattr(self, new)}
        return self.model_dump(exclude=_VARIED | _NOT_SCIENCE | replaced)


class StudyParams(BaseModel):
    """What a study has beside the parameters of its runs, any of which may be a comma list."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    runs: int = Field(5, ge=1, le=1000, description="runs of each kind, with the seeds 0, 1, …")
    seeds: int | None = Field(None, ge=1, le=1000, description="another name of runs")
    workers: int = Field(
        0, ge=0, le=1024, description="runs trained at the same time; 0 is one for each core"
    )
    margin: float = Field(
        0.1, gt=0, le=100, description="differences up to this one, in percentage points, are none"
    )


def check_margin(margin: float) -> None:
    """Raises PipelineError unless the margin is in the range of `StudyParams.margin`."""
    try:
        StudyParams.model_validate({"margin": margin})
    except ValidationError as error:
        raise PipelineError(_explain(error, StudyParams)) from None


def kind_of(values: dict[str, Any]) -> str:
    """What runs of these parameters are called: `coordconv2d stn-c1 lr=0.1`.

    A layer and an architecture speak for themselves; any other value stands with its name.
    """
    plain = ("conv_layer", "architecture")
    return " ".join(v if name in plain else f"{name}={v}" for name, v in values.items())


def model_aliases(conv_layer: str, dataset: str) -> list[str]:
    """The aliases that the best model of its layer, and of all, may get.

    Each data set but the default has its own, such as `champion-rotated`.
    """
    suffix = "" if dataset == PLAIN else f"-{dataset}"
    return [f"best-{alias_of(conv_layer)}{suffix}", f"champion{suffix}"]


_VARIED = {"conv_layer", "seed"}
_IN_PLACE_OF = {"iterations": "epochs", "lr_step_iterations": "lr_step"}
_NOT_SCIENCE = {"data_dir", "device", "threads", "preset", "experiment"}


def protocol_label(params: RunParams, except_for: Collection[str] = ()) -> str:
    """The preset's name and what differs from it, such as `replication epochs=3`."""
    preset = read_preset(params.preset) if params.preset else {}
    reference = RunParams(**_single(preset)).protocol
    name = Path(params.preset).stem if params.preset else "replication"
    changed = [
        f"{k}={v}"
        for k, v in params.protocol.items()
        if v != reference.get(k) and k not in except_for
    ]
    return " ".join([name, *changed])


def label_without(label: str, names: Collection[str]) -> str:
    """A label that `protocol_label` made, without the values of these parameters."""
    words = label.split(" ")
    return " ".join(word for word in words if not word.startswith(tuple(f"{n}=" for n in names)))


def resolve(given: dict[str, Any]) -> RunParams:
    """Complete the parameters that were given by those of their preset and the defaults.

    Args:
        given: parameter names and values, as text or typed. `preset` names a YAML file.

    Raises:
        PipelineError: for an unknown name, a value of the wrong type or out of range, or a preset
            that is missing or is no mapping of parameters.
    """
    preset = _of_runs(read_preset(given["preset"])) if given.get("preset") else {}
    _check_preset(given.get("preset"), _single(preset))
    preset = _without_what_is_replaced(preset, given)
    for name, value in preset.items():
        if _is_list(value):
            first = _values(name, value)[0]
            raise PipelineError(
                f"preset {given['preset']}: {name} is a list, {value}, which is for a study; for "
                f"one training, choose: --{name} {first}"
            )
    return _complete({**preset, **given})


def _without_what_is_replaced(preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The preset's values, but for those that the command line replaces, perhaps by another unit.

    Raises:
        PipelineError: if one of them has a length, or a decay, in epochs and in iterations.
    """
    gone = set(given)
    for new, old in _IN_PLACE_OF.items():
        for values in (preset, given):
            if new in values and old in values:
                raise PipelineError(f"give {old} or {new}, which takes its place, but not both")
        gone |= {new, old} if new in given or old in given else set()
    return {name: value for name, value in preset.items() if name not in gone}


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or "," in str(value)


def _check_preset(path: str | None, values: dict[str, Any]) -> None:
    try:
        RunParams(**values)
    except ValidationError as error:
        raise PipelineError(f"preset {path}: {_explain(error)}") from None


def _complete(values: dict[str, Any]) -> RunParams:
    try:
        params = RunParams(**values)
    except ValidationError as error:
        raise PipelineError(_explain(error)) from None
    return params.model_copy(update={"conv_layer": pinned(params.conv_layer)})


def _single(preset: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a run that are not lists of values."""
    return {k: v for k, v in _of_runs(preset).items() if not _is_list(v)}


def _of_runs(preset: dict[str, Any]) -> dict[str, Any]:
    """Without what only a study reads."""
    return {name: value for name, value in preset.items() if name in RunParams.model_fields}


@dataclass(frozen=True)
class Study:
    """The runs that a study consists of.

    id: names the study in its runs' tag `stn.study`. It follows from the parameters that matter
        to the science, but not from the seeds: with more of them it is the same study, continued.
    varied: the parameters that differ from run to run, with their values, without the seed.
    runs: the parameters of each; seed by seed, so that an unfinished study has runs of each kind.
    """

    id: str
    label: str
    varied: dict[str, list[Any]]
    runs: list[RunParams]
    params: StudyParams


_NO_LIST = {"preset", "experiment", "data_dir", "device", "threads"}


def resolve_study(given: dict[str, Any]) -> Study:
    """The same as `resolve` for a study; the layers are by default both, seeds 0 to `runs` - 1.

    Args:
        given: parameters of runs, each value or a comma list of them, and of the study.

    Raises:
        PipelineError: as `resolve`, and where a list repeats a value, or both `runs` and `seed`
            are given.
    """
    preset = read_preset(given["preset"]) if given.get("preset") else {}
    _check_preset(given.get("preset"), _single(preset))
    preset, given = _seeds_as_runs(preset), _seeds_as_runs(given)
    preset = _without_what_is_replaced(preset, given)
    if "seed" in given and "runs" not in given:
        preset.pop("runs", None)  # the command line goes before the preset
    chosen = {"conv_layer": ",".join(CONV_LAYERS), **preset, **given}
    own = {name: chosen.pop(name) for name in StudyParams.model_fields if name in chosen}
    try:
        study = StudyParams(**own)
    except ValidationError as error:
        raise PipelineError(_explain(error, StudyParams)) from None
    if "runs" in own and "seed" in chosen:
        raise PipelineError("give runs, for the seeds 0, 1, …, or a list as seed, but not both")
    chosen.setdefault("seed", ",".join(map(str, range(study.runs))))
    lists = {name: _values(name, value) for name, value in chosen.items()}
    seeds = lists.pop("seed")
    runs = [
        _complete(dict(zip(["seed", *lists], values, strict=True)))
        for values in itertools.product(seeds, *lists.values())
    ]
    for name, values in {**lists, "seed": seeds}.items():
        if len({getattr(run, name) for run in runs}) < len(values):
            raise PipelineError(f"{name}: got {','.join(map(str, values))!r}: a value is repeated")
    kinds = [{"conv_layer": run.conv_layer, **run.protocol} for run in runs]
    # without defaults, so that a parameter that is added later does not make it another study
    known_by = [{name: v for name, v in kind.items() if v != _default(name)} for kind in kinds]
    distinct = sorted({json.dumps(kind, sort_keys=True) for kind in known_by})
    varied = {
        name: list(dict.fromkeys(kind[name] for kind in kinds))
        for name in RunParams.model_fields  # in one order, however they were given
        if len(lists.get(name, [])) > 1
    }
    label = protocol_label(runs[0], except_for=set(varied))
    return Study(
        hashlib.sha256("".join(distinct).encode()).hexdigest()[:12], label, varied, runs, study
    )


def _seeds_as_runs(given: dict[str, Any]) -> dict[str, Any]:
    if "seeds" not in given:
        return dict(given)
    if "runs" in given:
        raise PipelineError("give runs or seeds, which are the same, but not both")
    return {"runs" if name == "seeds" else name: value for name, value in given.items()}


def _default(name: str) -> Any:
    return RunParams.model_fields[name].default


def _values(name: str, value: Any) -> list[Any]:
    """A parameter's values in a study: a YAML list or a comma list."""
    if name in _NO_LIST or value is None:
        return [value]
    values = value if isinstance(value, list) else str(value).split(",")
    values = [v.strip() if isinstance(v, str) else v for v in values]
    if not values or "" in values:
        raise PipelineError(f"{name}: got {value!r}: an empty value; write value,value,…")
    return values


def read_preset(path: str) -> dict[str, Any]:
    """Read the parameters in a YAML file.

    Raises:
        PipelineError: if it cannot be read, is no mapping, or has a key that is no parameter.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(str(p) for p in Path("params").glob("*.yaml")))
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise PipelineError(
            f"preset {path}: {reason}" + (f"; there are: {known}" if known else "")
        ) from None
    except yaml.YAMLError as error:
        raise PipelineError(f"preset {path}: not YAML: {' '.join(str(error).split())}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise PipelineError(f"preset {path}: must be lines of `parameter: value`")
    known_keys = [n for n in (*RunParams.model_fields, *StudyParams.model_fields) if n != "preset"]
    for key in content:
        if key not in known_keys:
            near = difflib.get_close_matches(str(key), known_keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "allowed: " + ", ".join(known_keys)
            raise PipelineError(f"preset {path}: unknown parameter {key}; {hint}")
    return content


def _explain(error: ValidationError, model: type[BaseModel] = RunParams) -> str:
    """Say each fault of a validation in one line: the name, what was got, what is wanted."""
    faults = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(
            f"{name}: got {fault['input']!r}: {message[0].lower()}{message[1:]}; "
            f"allowed: {allowed_values(name, model)}"
        )
    return "; ".join(faults)


def allowed_values(name: str, model: type[BaseModel] = RunParams) -> str:
    """The values of a parameter in words, such as `an integer >= 1` or `auto, cpu, cuda`."""
    schema = _properties(model)[name]
    schema = schema.get("anyOf", [schema])[0]  # of what may be left out, the second is null
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = {"integer": "an integer", "number": "a number"}.get(schema.get("type"), "text")
    symbols = {
        "minimum": ">=",
        "exclusiveMinimum": ">",
        "maximum": "<=",
        "exclusiveMaximum": "<",
    }
    bounds = [f"{symbol} {schema[key]}" for key, symbol in symbols.items() if key in schema]
    return f"{kind} {' and '.join(bounds)}".strip()


def choices(name: str) -> list[str]:
    """The values of a parameter of a run in their order, if it has a list of them."""
    return _properties(RunParams)[name].get("enum", [])


@cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()["properties"]
