import pytest

from benchmarks.recipe import PREDECESSOR, RECIPE, WITHOUT, without
from pipeline.presets import resolve

PARAMETERS = {
    "momentum": {"momentum", "lr"},
    "a lower rate for the localization network": {"localization_lr_scale"},
    "cosine": {"schedule"},
    "weight decay": {"weight_decay"},
    "label smoothing": {"label_smoothing"},
    "an average of the weights": {"ema_decay"},
    "CoordConv": {"conv_layer"},
    "augmentation": {"augmentation"},
    "batch normalization": {"batch_norm"},
}


def parameters_apart(given, other):
    """The names of the parameters in which two sets of given parameters differ."""
    first, second = (resolve(values).model_dump() for values in (given, other))
    return {name for name in first if first[name] != second[name]} - {"preset"}


@pytest.mark.parametrize("ingredient", WITHOUT)
def test_a_variant_differs_from_the_recipe_in_its_ingredient_only(ingredient):
    recipe = {**RECIPE, "lr": "0.02"}
    assert parameters_apart(recipe, without([ingredient], "0.02")) == PARAMETERS[ingredient]


def test_several_ingredients_can_be_left_out_at_once():
    dropped = ["momentum", "CoordConv"]
    recipe = {**RECIPE, "lr": "0.02"}
    assert parameters_apart(recipe, without(dropped, "0.02")) == {"momentum", "lr", "conv_layer"}


def test_the_predecessors_recipe_is_its_preset_but_for_length_and_selection():
    preset = {"preset": "params/augmented.yaml", "conv_layer": "coordconv2d"}
    assert parameters_apart(preset, PREDECESSOR) == {"epochs", "validation_size"}
