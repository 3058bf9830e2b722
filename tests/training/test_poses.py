import io

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.data.datasets import DATASETS
from pipeline.models.build import build_model
from pipeline.params import RunParams
from pipeline.training.poses import eight_poses, poses_file, transformed


def stn(**settings):
    return build_model(**settings).eval()


def turned(model, theta):
    """The network with a transformer that predicts this theta for any image."""
    with torch.no_grad():
        model.transformer.localization[-1].bias.copy_(torch.tensor(theta))
    return model


@pytest.mark.parametrize("dataset", DATASETS)
def test_eight_poses_differ_and_are_always_the_same(mnist, dataset):
    train, test = mnist
    poses = eight_poses(dataset, test, train.images)
    size = DATASETS[dataset].size
    assert poses.shape == (8, 1, size, size)
    assert poses.dtype == torch.uint8
    assert torch.equal(poses, eight_poses(dataset, test, train.images))
    assert len(poses.unique(dim=0)) > 1


def test_upright_digits_are_eight_of_a_kind(mnist):
    train, test = mnist
    poses = eight_poses("mnist", test, train.images)
    fours = test.images[test.labels == 4]
    assert torch.equal(poses, fours[:8])


def test_rotations_are_in_order_from_clockwise_to_counterclockwise(mnist):
    """Seen from the centre, the digit's mass turns in one direction only from pose to pose."""
    train, test = mnist
    poses = eight_poses("rotated", test, train.images).squeeze(1).double()
    line = torch.arange(28) - 13.5
    x, y = (poses * line).sum((1, 2)), (poses * line.view(-1, 1)).sum((1, 2))
    angles = np.unwrap(torch.atan2(-y, x).numpy())  # counter-clockwise as one sees it
    assert (np.diff(angles) > 0).all()


def test_what_the_transformer_shows_is_what_scipy_shows(mnist):
    images = mnist[1].images[:3]
    theta = [0.8, 0.3, 0.1, -0.3, 0.8, 0.05]
    model = turned(stn(), theta)
    shown, _ = transformed(model, RunParams(padding_mode="border"), images)
    matrix = np.array([*theta, 0, 0, 1]).reshape(3, 3)
    # from the output's pixels to normalized coordinates, by theta, and back to the input's pixels
    to_normalized = np.array([[2 / 28, 0, 1 / 28 - 1], [0, 2 / 28, 1 / 28 - 1], [0, 0, 1]])
    pixels = np.linalg.inv(to_normalized) @ matrix @ to_normalized
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])  # scipy's rows come first
    for image, got in zip(images, shown, strict=True):
        expected = ndimage.affine_transform(
            image[0].numpy() / 255, swap @ pixels @ swap, order=1, mode="nearest"
        )
        np.testing.assert_allclose(got[0].numpy() / 255, expected, atol=0.003)


def test_the_outline_goes_clockwise_around_what_the_transformer_looks_at(mnist):
    images = mnist[1].images[:2]
    _, outline = transformed(turned(stn(), [0.5, 0, 0.25, 0, 0.5, 0]), RunParams(), images)
    edge = 0.5 * 27 / 28  # the outermost pixel's centre
    corners = outline[0, [0, 28, 56, 84, 112]]
    expected = [[-edge, -edge], [edge, -edge], [edge, edge], [-edge, edge], [-edge, -edge]]
    torch.testing.assert_close(corners, torch.tensor(expected) + torch.tensor([0.25, 0]))


def test_the_outline_is_that_of_a_network_on_feature_maps_too(mnist):
    """Half the feature map's width, in the image, is less than half the image's."""
    train, test = mnist
    images = eight_poses("translated", test, train.images)
    model = stn(image_size=60, architecture="stn-c1", sampler_size=30, network="paper")
    params = RunParams(
        dataset="translated", architecture="stn-c1", sampler_size=30, network="paper"
    )
    shown, outline = transformed(model, params, images)
    assert shown.shape == (8, 1, 30, 30)
    # 26 feature pixels, two image pixels apart: 52 of the 60 pixels
    assert outline.abs().max().item() == pytest.approx(52 / 60 * 29 / 30)


@pytest.mark.parametrize(("architecture", "warps_image"), [("stn-sl1", True), ("stn-c1", False)])
def test_the_arrays_of_a_gallery_are_read_without_pickle(mnist, architecture, warps_image):
    images = mnist[1].images[:8]
    model, params = stn(architecture=architecture), RunParams(architecture=architecture)
    shown, outline = transformed(model, params, images)
    content = poses_file(model, params, images)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["before"], images.squeeze(1))
        assert np.array_equal(arrays["after"], shown.squeeze(1))
        assert np.array_equal(arrays["outline"], outline)
        assert arrays["warps_image"] == warps_image
