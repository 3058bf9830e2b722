import torch

from pipeline.data import augmentation
from pipeline.data.augmentation import augment
from pipeline.data.batches import normalize
from pipeline.grids import affine_theta


def test_augmentation_stays_in_its_ranges_and_uses_them(monkeypatch):
    seen = []

    def record(**motion):
        seen.append(motion)
        return affine_theta(**motion)

    monkeypatch.setattr(augmentation, "affine_theta", record)
    augment(torch.zeros(5000, 1, 4, 4))
    (motion,) = seen
    for values, low, high in [
        (motion["angle"].rad2deg(), -15, 15),
        (motion["shear"].rad2deg(), -10, 10),
        (motion["scale"], 0.85, 1.15),
        (motion["shift"] / 2, -0.1, 0.1),
    ]:
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high


def test_augmentation_keeps_the_digits_and_follows_the_seed(mnist):
    images = normalize("mnist", mnist[1].images[:256])
    torch.manual_seed(1)
    first, second = augment(images), augment(images)
    torch.manual_seed(1)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, second)
    assert first.shape == images.shape
    # the ink is still there, about as much of it, and the border still background
    assert 0.8 < (first + 0.4243).sum() / (images + 0.4243).sum() < 1.2
    assert first.min() >= images.min() - 1e-5
