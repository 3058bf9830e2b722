"""The names of protocols, runs and best models, as tables, messages and MLflow show them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.data.datasets import PLAIN
from pipeline.models.conv_layers import alias_of
from pipeline.params import RunParams
from pipeline.presets import read_preset, single_values


def protocol_label(params: RunParams, except_for: Collection[str] = ()) -> str:
    """The preset's name and what differs from it, such as `replication epochs=3`.

    Args:
        except_for: names of parameters that the label leaves out.
    """
    preset = read_preset(params.preset) if params.preset else {}
    reference = RunParams(**single_values(preset)).protocol
    name = Path(params.preset).stem if params.preset else "replication"
    changed = [
        f"{k}={v}"
        for k, v in params.protocol.items()
        if v != reference.get(k) and k not in except_for
    ]
    return " ".join([name, *changed])


def label_without(label: str, names: Collection[str]) -> str:
    """A label of `protocol_label`, without the values of these parameters."""
    words = label.split(" ")
    return " ".join(word for word in words if not word.startswith(tuple(f"{n}=" for n in names)))


def kind_of(values: dict[str, Any]) -> str:
    """The name of runs with these parameters: `coordconv2d stn-c1 lr=0.1`.

    A layer and an architecture are named by their value alone, any other parameter by its name and
    value.
    """
    plain = ("conv_layer", "architecture")
    return " ".join(v if name in plain else f"{name}={v}" for name, v in values.items())


def model_aliases(conv_layer: str, dataset: str) -> list[str]:
    """The aliases that the best model of its layer, and of all, may get.

    Each data set but the default has its own, such as `champion-rotated`.
    """
    suffix = "" if dataset == PLAIN else f"-{dataset}"
    return [f"best-{alias_of(conv_layer)}{suffix}", f"champion{suffix}"]
