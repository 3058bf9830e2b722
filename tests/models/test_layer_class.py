"""A user's own layer: where it stands in a network, and each fault in one line."""

import pytest
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.build import build_model
from pipeline.models.conv_layers import CONV_LAYERS, pinned
from pipeline.models.layer_class import check_export, check_output
from tests.models import own_layers

MODULE = "tests.models.own_layers"
LAYERS = [*CONV_LAYERS, f"{MODULE}:Blur", f"{MODULE}:OfTheMean"]


def build(layer, **given):
    return build_model(conv_layer=layer, layer_settings={"radius_center": 0.0}, **given)


def own(name):
    return f"{MODULE}:{name}"


@pytest.mark.parametrize(
    ("architecture", "places"),
    [
        ("cnn", ["classifier.0", "classifier.3"]),
        ("stn-c0", ["transformer.localization.0", "transformer.localization.3"]),
        ("stn-c1", ["transformer.localization.0"]),
        ("stn-dl2", ["transformer.localization.0", "transformer.localization.3"]),
        ("stn-sl1", ["transformer.localization.2"]),
    ],
)
def test_an_own_layer_is_followed_by_pooling_and_relu_and_stands_where_ours_would(
    architecture, places
):
    modules = dict(build(own("Blur"), architecture=architecture).named_modules())
    assert [name for name, m in modules.items() if isinstance(m, own_layers.Blur)] == places
    for place in places:
        part, _, number = place.rpartition(".")
        assert isinstance(modules[f"{part}.{int(number) + 1}"], nn.MaxPool2d)
        assert isinstance(modules[f"{part}.{int(number) + 2}"], nn.ReLU)


def test_an_own_layer_is_given_the_whole_image():
    model = build(own("OfTheMean"))
    nn.init.normal_(model.transformer.localization[-1].weight)
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.transformer.theta(images).sum(), images)
    assert gradient[..., -1].abs().max() > 0  # which ours are spared, see layer_sizes.side_before
    assert build("conv2d").transformer.localization_size == 26


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("network", "image_size", "architecture"),
    [("tutorial", 28, "stn-c0"), ("paper", 60, "stn-c1")],  # the second with a layer not pooled
)
def test_every_layer_passes_a_gradient_to_every_weight(layer, network, image_size, architecture):
    model = build(layer, network=network, image_size=image_size, architecture=architecture)
    nn.init.normal_(model.transformer.localization[-1].weight, std=0.1)
    images = torch.randn(8, 1, image_size, image_size)
    nn.functional.cross_entropy(model(images), torch.arange(8)).backward()
    for name, weights in model.named_parameters():
        assert weights.grad.abs().max() > 0, name


def test_the_checks_draw_no_random_numbers_of_the_training():
    network = build(own("Blur"))
    state = torch.get_rng_state()
    check_output(network.transformer.localization[0], own("Blur"), (1, 28), (8, 22))
    check_export(network, own("Blur"), image_size=28)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (own("Blurr"), ["has no class Blurr", "Blur, OfTheMean, Padded"]),
        (own("function"), ["has function, which is not a class derived from torch.nn.Module"]),
        (own("number"), ["has number, which is not a class derived from torch.nn.Module"]),
        (
            own("NoBias"),
            [
                "NoBias(in_channels=1, out_channels=8, kernel_size=7, bias=True) fails: TypeError",
                "the constructor must take in_channels, out_channels, kernel_size and bias",
            ],
        ),
        (own("Padded"), ["which is (2, 8, 22, 22) for images of the shape (2, 1, 28, 28)"]),
        (own("Padded"), ["(N, out_channels, H - kernel_size + 1", "got (2, 8, 28, 28)"]),
        (own("Two"), ["got a tuple"]),
        (own("Broken"), ["fails on images of the shape (2, 1, 28, 28): RuntimeError: ", "line "]),
        (own("ExitsWhenMade"), ["bias=True) fails: SystemExit (own_layers.py, line "]),
        (own("Exits"), ["(2, 1, 28, 28): SystemExit: no licence (own_layers.py, line "]),
        (own("ExitsInTraining"), ["(2, 1, 28, 28) in training mode: SystemExit: 3 (own_layers.py"]),
        (own("FailsBackwards"), ["in training mode: NotImplementedError: no gradient yet"]),
        (own("InPlace"), ["changes its input in place"]),
    ],
)
def test_a_wrong_layer_is_refused_in_one_line(layer, words):
    with pytest.raises(PipelineError) as error:
        build(layer)
    message = str(error.value)
    assert message.startswith("conv_layer: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def f(:\n", "SyntaxError: invalid syntax (broken_{}.py, line 1)"),
        ("one = {}\n\none['key']\n", "KeyError: 'key' (broken_{}.py, line 3)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (broken_{}.py, line 2)"),
        ("class Error(Exception): pass\nraise Error\n", "Error (broken_{}.py, line 2)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_in_one_line(
    tmp_path, monkeypatch, content, words
):
    name = f"broken_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PipelineError) as error:
        build(f"{name}:Blur")
    expected = words.replace("broken_{}", name)
    assert str(error.value) == f"conv_layer: the module {name} cannot be imported: {expected}"


def test_a_class_that_another_module_defines_is_refused_as_its_edits_would_not_show(
    tmp_path, monkeypatch
):
    (tmp_path / "reexports").mkdir()
    (tmp_path / "reexports/blur.py").write_text(
        "from torch import nn\n\n\nclass Blur(nn.Conv2d):\n    pass\n"
    )
    (tmp_path / "reexports/__init__.py").write_text("from reexports.blur import Blur\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PipelineError, match=r"write reexports\.blur:Blur$"):
        build(pinned("reexports:Blur"))
    build(pinned("reexports.blur:Blur"))


@pytest.mark.parametrize("architecture", ["cnn", "stn-c0"])
@pytest.mark.parametrize("layer", ["Blur", "OfTheMean"])
def test_a_layer_of_torchs_operators_can_be_exported(architecture, layer):
    check_export(build(own(layer), architecture=architecture), own(layer), image_size=28)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("FixedBatch", "cannot be exported as a pt2 archive for any number of images"),
        ("Branches", "own_layers.py, line"),
        ("ExitsWhenExported", "SystemExit: 3 (own_layers.py, line"),
        ("Foreign", "it uses the operators own_layers.twice.default"),
        ("OtherWhenExported", "the exported network computes something else"),
    ],
)
def test_a_layer_that_cannot_be_exported_is_refused_in_one_line(layer, words):
    network = build(own(layer))
    with pytest.raises(PipelineError) as error:
        check_export(network, own(layer), image_size=28)
    message = str(error.value)
    assert message.startswith(f"conv_layer: a network with {own(layer)} cannot be exported")
    assert "\n" not in message
    assert words in message
    assert "torch.where" in message


def test_a_layer_may_pass_no_gradient_on():
    build(own("Fixed"))


def test_a_layer_that_lacks_a_setting_is_refused():
    with pytest.raises(PipelineError, match="coordconv:CoordConv2d also needs: radius_center"):
        build_model(conv_layer="coordconv2d", layer_settings={})


def test_an_own_layer_is_refused_where_it_would_have_no_place():
    with pytest.raises(PipelineError, match="no convolution of its own; use conv2d"):
        build(own("Blur"), architecture="stn-sl2")
