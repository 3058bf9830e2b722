"""Presets, the YAML files of parameters, and precedence: command line, then preset, then default.

A preset describes a protocol, for a study as for a single training. `runs`, `margin` and the other
parameters of a study in it say how many trainings a study consists of and how it compares them; a
single training has no use for them and leaves them out.

The values in a preset are read as text, as on the command line. YAML's own types would read some
numbers otherwise than they are written, such as `1:30` as 90.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError
from pipeline.models.conv_layers import pinned
from pipeline.params import (
    IN_PLACE_OF,
    RunParams,
    StudyParams,
    shortened,
    unknown_parameter,
    validated,
)

# the parameters of a run of which a study takes one value, never a list
_NO_LIST = {"preset", "experiment", "data_dir", "device", "threads", "store_patience"}


def resolve(given: dict[str, Any]) -> RunParams:
    """Complete the parameters that were given by those of their preset and the defaults.

    Args:
        given: parameter names and values, as text or typed. `preset` names a YAML file.

    Raises:
        PipelineError: for an unknown name, a value of the wrong type or out of range, or a preset
            that is missing, is no mapping of parameters, or has a list of values for a parameter
            that is not given.
    """
    preset = _of_a_run(without_replaced(preset_of(given), given))
    for name, value in preset.items():
        if _is_list(name, value):
            values = values_of(name, value)
            listed = shortened(",".join(map(str, values)))
            raise PipelineError(
                f"preset {given['preset']}: {name} is a list, {listed}, which is for a study; "
                f"for one training, choose: --{name} {shortened(str(values[0]))}"
            )
    return complete({**preset, **given})


def complete(values: dict[str, Any]) -> RunParams:
    """The parameters of a run with these values and, for the others, the defaults.

    A layer of the user's own gets the digest of its source into its name.

    Raises:
        PipelineError: for an unknown name, or a value of the wrong type or out of range.
    """
    params = validated(RunParams, values)
    return params.model_copy(update={"conv_layer": pinned(params.conv_layer)})


def preset_of(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters in the preset that is given, checked; empty if none is given.

    Raises:
        PipelineError: if the preset cannot be read, or a value in it is not allowed.
    """
    path = given.get("preset")
    if not path:
        return {}
    preset = read_preset(path)
    validated(RunParams, single_values(preset), source=f"preset {path}: ")
    return preset


def without_replaced(preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The preset's values without those that the command line replaces, perhaps by another unit.

    Raises:
        PipelineError: if the preset or the command line has a length, or a decay, in epochs and in
            iterations.
    """
    replaced = set(given)
    for new, old in IN_PLACE_OF.items():
        for values in (preset, given):
            if new in values and old in values:
                raise PipelineError(f"give {old} or {new}, which takes its place, but not both")
        if new in given or old in given:
            replaced |= {new, old}
    return {name: value for name, value in preset.items() if name not in replaced}


def values_of(name: str, value: Any) -> list[Any]:
    """A parameter's values in a study, of a YAML list or a comma list.

    Raises:
        PipelineError: if one of them is empty.
    """
    if name in _NO_LIST or value is None:
        return [value]
    values = value if isinstance(value, list) else str(value).split(",")
    values = [v.strip() if isinstance(v, str) else v for v in values]
    if not values or "" in values:
        raise PipelineError(
            f"{name}: got {shortened(repr(value))}: an empty value; write value,value,…"
        )
    return values


def read_preset(path: str) -> dict[str, Any]:
    """Read the parameters in a YAML file.

    Raises:
        PipelineError: if it cannot be read, is no mapping, or has a key that is no parameter.
    """
    content = _read_yaml(path)
    known_keys = [n for n in (*RunParams.model_fields, *StudyParams.model_fields) if n != "preset"]
    for key in content:
        if key not in known_keys:
            raise PipelineError(f"preset {path}: {unknown_parameter(key, known_keys)}")
    return content


def single_values(preset: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a run in a preset that are not lists of values."""
    return {name: value for name, value in _of_a_run(preset).items() if not _is_list(name, value)}


def _read_yaml(path: str) -> dict[str, Any]:
    """The keys of a YAML file and their values: a text, None, or a list of these.

    Raises:
        PipelineError: if the file cannot be read, or is not lines of `key: value`.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise OSError(None, "not a file")  # a FIFO would be waited for
        # the nodes of a document, without the objects that YAML's tags would make of them
        document = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(str(p) for p in Path("params").glob("*.yaml")))
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise PipelineError(
            f"preset {path}: {reason}" + (f"; there are: {known}" if known else "")
        ) from None
    except yaml.YAMLError as error:
        raise PipelineError(f"preset {path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise PipelineError(f"preset {path}: nested too deeply") from None
    if document is None:
        return {}
    if not isinstance(document, yaml.MappingNode):
        raise PipelineError(f"preset {path}: must be lines of `parameter: value`")
    content: dict[str, Any] = {}
    for key, value in document.value:
        if not isinstance(key, yaml.ScalarNode):
            raise PipelineError(f"preset {path}: must be lines of `parameter: value`")
        if key.value in content:
            raise PipelineError(f"preset {path}: {key.value} is given twice; give it once")
        try:
            is_list = isinstance(value, yaml.SequenceNode)
            content[key.value] = list(map(_text, value.value)) if is_list else _text(value)
        except ValueError as error:
            raise PipelineError(f"preset {path}: {key.value}: {error}") from None
    return content


def _text(node: yaml.Node) -> str | None:
    """The value of a node as it is written; None for `null`, `~` or nothing.

    Raises:
        ValueError: if it is no single value, may be read in more ways than one, or cannot be shown.
    """
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("must be a value or a list of values")
    text = node.value
    is_plain = node.style is None  # not in quotes
    if is_plain and node.tag == "tag:yaml.org,2002:null":
        return None
    if is_plain and re.fullmatch(r"[-+]?0[0-9_]+", text):  # octal in YAML 1.1, decimal in YAML 1.2
        raise ValueError(f"got {shortened(text)}: a number must not begin with 0")
    if not text.isprintable():
        raise ValueError(f"got {shortened(repr(text))}: must be one line of printable characters")
    return text


def _is_list(name: str, value: Any) -> bool:
    return name not in _NO_LIST and (isinstance(value, list) or "," in str(value))


def _of_a_run(preset: dict[str, Any]) -> dict[str, Any]:
    """The preset without the parameters of a study, which the module's docstring explains."""
    return {name: value for name, value in preset.items() if name in RunParams.model_fields}
