"""The parameters of a run and of a study: names, types, ranges, defaults.

`RunParams` and `StudyParams` are the only place where they are defined. The options of the command
line, the YAML presets under `params/`, the parameters that MLflow shows and the tables in the
documentation follow from them. `presets.py` combines the command line, a preset and the defaults.
"""

import difflib
import math
from collections.abc import Collection, Iterable
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from pipeline.data.datasets import DATASETS, PLAIN
from pipeline.errors import PipelineError
from pipeline.models.conv_layers import (
    CLASSIFIER_LAYER,
    CONV_LAYERS,
    OWN_LAYER,
    entry_of,
    is_own,
)
from pipeline.models.layer_sizes import CLASSES
from pipeline.models.placements import ARCHITECTURES
from pipeline.models.transforms import TRANSFORMS

TRAINING_IMAGES, TEST_IMAGES = 60_000, 10_000
MOST_EPOCHS, MOST_STEPS = 10**6, 10**9  # months on this scale; larger numbers are typing errors
MOST_RUNS = 20  # of each group, by default, in a study that stops when it is decided


def one_of(names: Iterable[str]) -> GetPydanticSchema:
    """A type of text that must be one of `names`: `Annotated[str, one_of(names)]`.

    It validates, and describes itself in a JSON schema, as a `Literal` of these names does.
    """
    schema = core_schema.literal_schema(list(names))
    return GetPydanticSchema(lambda source, handler: schema)


def _layer_name(value: Any) -> Any:
    if isinstance(value, str) and (value in CONV_LAYERS or is_own(value)):
        return value
    listed = ", ".join(map(repr, CONV_LAYERS))
    raise ValueError(f"Input should be {listed} or a layer of your own, such as my_layers:MyConv2d")


# What a comparison varies, and what does not change the science: no part of a protocol.
_VARIED = {"conv_layer", "seed"}
_NOT_SCIENCE = {"data_dir", "device", "threads", "store_patience", "preset", "experiment"}
_OF_STEP_SCHEDULE = {"lr_step", "lr_step_iterations", "lr_gamma"}
# the first name replaces the second unless its value is 0
IN_PLACE_OF = {"iterations": "epochs", "lr_step_iterations": "lr_step"}


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
    epochs: int = Field(30, ge=1, le=MOST_EPOCHS, description="passes over the training images")
    iterations: int = Field(
        0,
        ge=0,
        le=MOST_STEPS,
        description="training steps, in place of epochs; 0 trains for epochs",
    )
    batch_size: int = Field(64, ge=1, le=TRAINING_IMAGES, description="images per step")
    lr: float = Field(0.01, gt=0, description="learning rate of SGD")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty on all weights, as in torch")
    schedule: Literal["step", "cosine"] = Field(
        "step",
        description="of the learning rate: step decays it by lr_gamma every lr_step epochs; cosine "
        "lowers it in each step, to 0 at the end",
    )
    lr_step: int = Field(
        15, ge=1, le=MOST_EPOCHS, description="epochs between two decays of the learning rate"
    )
    lr_step_iterations: int = Field(
        0,
        ge=0,
        le=MOST_STEPS,
        description="the same in training steps, in place of lr_step; 0 goes by lr_step",
    )
    lr_gamma: float = Field(0.5, gt=0, le=1, description="factor of each decay")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the training target spread evenly over all digits"
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay in each step of an exponential moving average of the weights, which is "
        "evaluated in their place; 0 keeps no average",
    )
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
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of torch; 0 is every core, in a study cpus_per_run",
    )
    store_patience: float = Field(
        10.0, ge=0, description="minutes to wait for a store that does not answer any more"
    )
    preset: str | None = Field(
        None, min_length=1, description="YAML file of parameters, such as params/replication.yaml"
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        description="MLflow experiment; by default the one MLflow was told, else stn-mnist",
    )

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
        return {name: getattr(self, name) for name in names if name != "side"}

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

    def steps_of_epoch(self, epoch: int, images: int) -> int:
        """The training steps of an epoch, counted from 1; `iterations` may cut the last short."""
        steps = self.steps_over(images)
        return min(steps, self.iterations - (epoch - 1) * steps) if self.iterations else steps

    def steps_in_all(self, images: int) -> int:
        """The training steps of the whole training with so many images."""
        return self.iterations or self.epochs * self.steps_over(images)

    def images_of_epoch(self, epoch: int, images: int) -> int:
        """How many of so many training images the steps of that epoch use."""
        return min(self.steps_of_epoch(epoch, images) * self.batch_size, images)

    @property
    def decays_by_step(self) -> bool:
        """Whether the learning rate changes with each training step, and not with each epoch."""
        return self.schedule == "cosine" or self.lr_step_iterations > 0

    @property
    def protocol(self) -> dict[str, Any]:
        """The parameters that must agree for two runs to be comparable.

        They leave out what a comparison varies (`conv_layer`, `seed`) and what does not change
        the science (`device`, `experiment`, …, and what another parameter has replaced, such as
        `epochs` by `iterations`).
        """
        replaced = {old for new, old in IN_PLACE_OF.items() if getattr(self, new)}
        if self.schedule == "cosine":
            replaced |= _OF_STEP_SCHEDULE
        return self.model_dump(exclude=_VARIED | _NOT_SCIENCE | replaced)


class StudyParams(BaseModel):
    """The parameters of a study, in addition to those of its runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    until: Literal["runs", "decided"] = Field(
        "runs",
        description="runs trains all runs; decided stops as soon as each pair has its verdict",
    )
    runs: int = Field(
        5,
        ge=1,
        le=1000,
        description="runs of each group, each with a seed of its own; with until=decided the most "
        f"of each group, by default {MOST_RUNS}",
    )
    seeds: int | None = Field(None, ge=1, le=1000, description="another name of runs")
    first_seed: int = Field(
        0, ge=0, lt=2**32, description="the runs have the seeds first_seed, first_seed + 1, …"
    )
    workers: int = Field(
        0, ge=0, le=1024, description="runs trained at the same time; 0 is one for each core"
    )
    executor: Literal["local", "ray"] = Field(
        "local", description="what trains the runs: processes of this machine, or Ray"
    )
    ray_address: str | None = Field(
        None,
        min_length=1,
        description="Ray cluster to train on: auto or the address of its head; by default a local "
        "Ray, which ends with the study",
    )
    cpus_per_run: int = Field(
        1,
        ge=1,
        le=1024,
        description="CPU cores that a run occupies on Ray, and its threads by default",
    )
    gpus_per_run: float = Field(
        0, ge=0, le=1, description="GPUs that a run occupies on Ray; 0.5 lets two runs share one"
    )
    margin: float = Field(
        0.1,
        gt=0,
        le=100,
        description="differences up to this one, in percentage points, are treated as negligible",
    )

    @model_validator(mode="before")
    @classmethod
    def _most_runs(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {"runs": MOST_RUNS, **values} if values.get("until") == "decided" else values

    @field_validator("ray_address", "cpus_per_run", "gpus_per_run")
    @classmethod
    def _only_on_ray(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("executor") == "local":
            raise ValueError("needs executor=ray")
        return value


def check_margin(margin: float) -> None:
    """Raises PipelineError unless the margin is in the range of `StudyParams.margin`."""
    validated(StudyParams, {"margin": margin})


_Model = TypeVar("_Model", RunParams, StudyParams)


def validated(model: type[_Model], values: dict[str, Any], source: str = "") -> _Model:
    """An instance of `RunParams` or `StudyParams`.

    Args:
        source: precedes the message of an error, such as `preset params/mine.yaml: `.

    Raises:
        PipelineError: for an unknown name, or a value of the wrong type or out of range.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise PipelineError(f"{source}{_explain(error, model)}") from None


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All faults that a validation found, in one line: name, value, what is allowed."""
    faults = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            faults.append(unknown_parameter(name, model.model_fields))
            continue
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(
            f"{name}: got {shortened(repr(fault['input']))}: {message[0].lower()}{message[1:]}; "
            f"allowed: {allowed_values(name, model)}"
        )
    return "; ".join(faults)


def unknown_parameter(name: str, known: Collection[str]) -> str:
    """What an error says of a name that is none of the known ones, with the nearest of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
    return f"unknown parameter {shortened(repr(name))}; {hint}"


def shortened(text: str, length: int = 100) -> str:
    """A text for a message, without its end if it is longer than so many characters."""
    return text if len(text) <= length else f"{text[:length]}…"


def allowed_values(name: str, model: type[BaseModel] = RunParams) -> str:
    """The values of a parameter in words, such as `an integer >= 1` or `auto, cpu, cuda`."""
    schema = _properties(model)[name]
    schema = schema.get("anyOf", [schema])[0]  # of an optional parameter, the second is null
    if "enum" in schema:
        return ", ".join(schema["enum"])
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
