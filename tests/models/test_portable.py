import pytest
import torch

from pipeline.data.batches import normalize
from pipeline.data.datasets import DATASETS
from pipeline.models.build import build_model
from pipeline.models.conv_layers import CONV_LAYERS
from pipeline.models.placements import ARCHITECTURES
from pipeline.models.portable import PortableModel
from pipeline.models.transforms import TRANSFORMS

MNIST = DATASETS["mnist"]


@pytest.mark.parametrize("conv_layer", CONV_LAYERS)
@pytest.mark.parametrize("used_before", [True, False])
def test_raw_pixels_to_probabilities_in_any_batch_size_after_export(mnist, conv_layer, used_before):
    images = mnist[1].images[:20]
    network = build_model(conv_layer=conv_layer, layer_settings={"radius_center": 0.5}).eval()
    portable = PortableModel(network, MNIST.mean, MNIST.std).eval().requires_grad_(False)
    if used_before:
        portable(images)
    dynamic = ({0: torch.export.Dim.AUTO},)
    exported = torch.export.export(portable, (images[:4],), dynamic_shapes=dynamic).module()
    with torch.no_grad():
        expected = network(normalize("mnist", images)).softmax(dim=1)
        for count in (1, 4, 20):
            torch.testing.assert_close(exported(images[:count]), expected[:count])
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(20))


@pytest.mark.parametrize(
    ("architecture", "transform"),
    [("cnn", "affine")]
    + [(name, kind) for name in ARCHITECTURES if name != "cnn" for kind in TRANSFORMS],
)
def test_every_network_is_the_same_after_export_and_reload(
    mnist, tmp_path, architecture, transform
):
    images = mnist[1].images[:6]
    torch.manual_seed(0)
    network = build_model(
        architecture=architecture,
        transform=transform,
        transformer_iterations=2 if transform == "affine" else 1,
    )
    if network.transformer is not None:
        torch.nn.init.normal_(network.transformer.localization[-1].weight, std=0.1)
    portable = PortableModel(network, MNIST.mean, MNIST.std).eval().requires_grad_(False)
    dynamic = ({0: torch.export.Dim.AUTO},)
    exported = torch.export.export(portable, (images[:4],), dynamic_shapes=dynamic)
    torch.export.save(exported, tmp_path / "model.pt2")
    reloaded = torch.export.load(tmp_path / "model.pt2").module()
    for count in (1, 6):
        torch.testing.assert_close(reloaded(images[:count]), portable(images[:count]))


@pytest.fixture(scope="module")
def exported() -> torch.nn.Module:
    network = build_model().eval()
    portable = PortableModel(network, MNIST.mean, MNIST.std).eval().requires_grad_(False)
    example = torch.full((4, 1, 28, 28), 200, dtype=torch.uint8)
    dynamic = ({0: torch.export.Dim.AUTO},)
    return torch.export.export(portable, (example,), dynamic_shapes=dynamic).module()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(4, 1, 28, 28).byte(), "pixels are from 0 to 255, not 0 to 1"),
        (torch.ones(4, 1, 28, 28).byte(), "pixels are from 0 to 255, not 0 to 1"),
        (torch.full((10_001, 1, 28, 28), 9).byte(), "at most 10,000 images"),
        (torch.full((4, 1, 28, 28), 200.0), "(?i)float"),
        (torch.full((4, 1, 27, 28), 200).byte(), "28"),
        (torch.full((4, 3, 28, 28), 200).byte(), "1"),
    ],
)
def test_an_exported_model_refuses_what_are_no_images(exported, images, words):
    with pytest.raises((RuntimeError, AssertionError), match=words):
        exported(images)


def test_an_exported_model_answers_an_empty_batch_and_a_blank_image_beside_others(exported):
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert exported(images[:0]).shape == (0, 10)
    images[1, 0, 5:20, 14] = 255
    assert exported(images).isfinite().all()
