import pytest
import torch

from pipeline.data.distorted import (
    NORMALIZATION,
    TEST_COPIES,
    fixed_set,
    normalize,
)
from pipeline.data.mnist import Digits
from pipeline.data.warps import IMAGE_SIZES, distort


def some(digits: Digits, count: int) -> Digits:
    return Digits(digits.images[:count], digits.labels[:count])


@pytest.mark.parametrize("dataset", IMAGE_SIZES)
def test_normalized_training_images_have_mean_0_and_deviation_1(mnist, dataset):
    images = mnist[0].images  # not every n-th: MNIST alternates between two kinds of writers
    distorted = distort(dataset, images[:6000], images, torch.Generator().manual_seed(3)).images
    normalized = normalize(dataset, distorted)
    assert abs(normalized.mean()) < 0.02
    assert abs(normalized.std() - 1) < 0.02


def test_the_normalization_is_what_was_measured(mnist):
    images, generator = mnist[0].images, torch.Generator().manual_seed(0)
    parts = [distort("rotated", part, images, generator).images for part in images.split(100)]
    pixels = torch.cat(parts).double()
    measured = pixels.mean().item(), pixels.std(correction=0).item()
    assert measured == pytest.approx(NORMALIZATION["rotated"], abs=1e-4)


def test_normalizing_does_not_change_the_pixels_it_is_given():
    pixels = torch.ones(1, 1, 28, 28)
    normalize("mnist", pixels)
    assert pixels.min() == 1


@pytest.mark.parametrize("dataset", ["rotated", "translated", "scaled"])
def test_a_test_set_has_ten_poses_of_each_image_and_keeps_the_labels(mnist, dataset):
    train, test = mnist
    digits = some(test, 150)
    data, pose = fixed_set(dataset, digits, train.images, TEST_COPIES[dataset])
    size = IMAGE_SIZES[dataset]
    assert len(data.labels) == 1500
    assert data.images.shape == (1500, 1, size, size)
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.labels.view(10, 150), digits.labels.expand(10, 150))
    poses = pose.view(10, 150, -1)
    assert poses.flatten(1).unique(dim=0).shape[0] == 10
    if dataset == "rotated":
        # ink of the copies is that of their digit, give or take what a corner cuts off
        ink = data.images.float().sum((1, 2, 3)).view(10, 150)
        assert (ink / digits.images.float().sum((1, 2, 3)) - 1).abs().max() < 0.1


def test_the_pose_that_is_kept_is_that_of_the_image(mnist):
    train, test = mnist
    data, pose = fixed_set("translated", some(test, 250), torch.zeros_like(train.images[:1]), 2)
    for i in (0, 249, 250, 499):
        x, y = (pose[i] + 16).int()
        placed = data.images[i, 0, y : y + 28, x : x + 28]
        assert torch.equal(placed, test.images[i % 250, 0])
        assert data.images[i].sum() == test.images[i % 250].sum()


def test_the_same_seed_gives_the_same_set_whatever_else_was_drawn(mnist):
    train, test = mnist
    first, pose = fixed_set("rts", some(test, 120), train.images)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, same = fixed_set("rts", some(test, 120), train.images)
    assert torch.equal(first.images, again.images)
    assert torch.equal(pose, same)
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = fixed_set("rts", some(test, 120), train.images, seed=1)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("dataset", ["mnist", "projective", "elastic"])
def test_a_set_without_a_pose(mnist, dataset):
    train, test = mnist
    data, pose = fixed_set(dataset, some(test, 110), train.images)
    assert pose is None
    assert torch.equal(data.images, test.images[:110]) == (dataset == "mnist")


@pytest.mark.parametrize("dataset", ["translated", "scaled"])
def test_clutter_in_the_test_set_comes_from_the_images_it_was_given(dataset):
    black = Digits(torch.zeros(200, 1, 28, 28, dtype=torch.uint8), torch.zeros(200).long())
    none, _ = fixed_set(dataset, black, black.images[:1])
    assert none.images.max() == 0
    grey = torch.full((5, 1, 28, 28), 10, dtype=torch.uint8)
    data, _ = fixed_set(dataset, black, grey)
    assert set(data.images.unique().tolist()) <= set(range(0, 70, 10))
    assert (data.images.flatten(1).max(1).values > 0).all()


def test_mnist_itself_is_as_stored_with_mean_0_and_deviation_1(mnist):
    train, test = mnist
    digits, pose = fixed_set("mnist", test, train.images)
    assert digits is test
    assert pose is None
    images = normalize("mnist", train.images)
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3
