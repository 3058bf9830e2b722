import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from pipeline.data import warps
from pipeline.data.mnist import normalize
from pipeline.data.warps import affine_theta, augment
from pipeline.grids import affine_grid


@pytest.mark.parametrize(
    ("angle", "shear", "scale", "shift"),
    [
        (30, 0, 1, (0, 0)),
        (0, 20, 1, (0, 0)),
        (0, 0, 1.4, (0, 0)),
        (0, 0, 1, (3, -2)),
        (-40, 15, 0.8, (2, 5)),
    ],
)
def test_a_warp_is_torchvisions(mnist, angle, shear, scale, shift):
    images = mnist[1].images[:8].float()
    theta = affine_theta(
        torch.full((8,), math.radians(angle)),
        torch.full((8,), math.radians(shear)),
        torch.full((8,), float(scale)),
        torch.tensor(shift).expand(8, 2) * 2 / 28,
    )
    got = torch.nn.functional.grid_sample(
        images, affine_grid(theta, 28, 28), padding_mode="zeros", align_corners=False
    )
    expected = affine(images, angle, list(shift), scale, [shear, 0.0], InterpolationMode.BILINEAR)
    # torchvision rounds its matrix; half a grey level of 255
    torch.testing.assert_close(got, expected, atol=0.5, rtol=0)


def test_augmentation_stays_in_its_ranges_and_uses_them(monkeypatch):
    seen = []

    def record(*motion):
        seen.append(motion)
        return affine_theta(*motion)

    monkeypatch.setattr(warps, "affine_theta", record)
    augment(torch.zeros(5000, 1, 4, 4))
    angle, shear, scale, shift = seen[0]
    for values, low, high in [
        (angle.rad2deg(), -15, 15),
        (shear.rad2deg(), -10, 10),
        (scale, 0.85, 1.15),
        (shift / 2, -0.1, 0.1),
    ]:
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high


def test_augmentation_keeps_the_digits_and_follows_the_seed(mnist):
    images = normalize(mnist[1].images[:256])
    torch.manual_seed(1)
    first, second = augment(images), augment(images)
    torch.manual_seed(1)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, second)
    assert first.shape == images.shape
    # the ink is still there, about as much of it, and the border still background
    assert 0.8 < (first + 0.4243).sum() / (images + 0.4243).sum() < 1.2
    assert first.min() >= images.min() - 1e-5
