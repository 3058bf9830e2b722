import pytest
import torch

from pipeline.data.batches import normalize
from pipeline.data.datasets import DATASETS
from pipeline.data.distortions import distort
from pipeline.data.fixed_sets import fixed_set, posed_test_set
from pipeline.data.mnist import Digits


def some(digits: Digits, count: int) -> Digits:
    return Digits(digits.images[:count], digits.labels[:count])


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_mean_and_deviation_of_an_entry_are_those_of_its_pixels(mnist, dataset):
    images = mnist[0].images  # not every n-th: MNIST alternates between two kinds of writers
    distorted = distort(
        dataset, images[:6000], images, generator=torch.Generator().manual_seed(3)
    ).images
    entry = DATASETS[dataset]
    measured = distorted.mean().item(), distorted.std().item()
    assert measured == pytest.approx((entry.mean, entry.std), abs=0.02 * entry.std)


@pytest.mark.parametrize("dataset", DATASETS)
def test_normalized_pixels_have_mean_0_and_deviation_1(dataset):
    entry = DATASETS[dataset]
    pixels = torch.tensor([entry.mean - entry.std, entry.mean + entry.std])
    torch.testing.assert_close(normalize(dataset, pixels), torch.tensor([-1.0, 1.0]))
    levels = torch.tensor([0, 255], dtype=torch.uint8)
    torch.testing.assert_close(normalize(dataset, levels), normalize(dataset, levels / 255))


def test_the_normalization_is_what_was_measured(mnist):
    images, generator = mnist[0].images, torch.Generator().manual_seed(0)
    parts = [
        distort("rotated", part, images, generator=generator).images for part in images.split(100)
    ]
    pixels = torch.cat(parts).double()
    measured = pixels.mean().item(), pixels.std(correction=0).item()
    assert measured == pytest.approx((DATASETS["rotated"].mean, DATASETS["rotated"].std), abs=1e-4)


def test_normalizing_does_not_change_the_pixels_it_is_given():
    pixels = torch.ones(1, 1, 28, 28)
    normalize("mnist", pixels)
    assert pixels.min() == 1


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_test_set_has_its_copies_of_each_image_and_keeps_the_labels(mnist, dataset):
    train, test = mnist
    digits, entry = some(test, 150), DATASETS[dataset]
    data, pose = posed_test_set(dataset, digits, train.images)
    copies, size = entry.test_copies, entry.size
    assert data.images.shape == (copies * 150, 1, size, size)
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.labels.view(copies, 150), digits.labels.expand(copies, 150))
    assert len(data.images.view(copies, -1).unique(dim=0)) == copies
    assert (pose is None) == (entry.pose is None)
    if pose is not None:
        assert len(pose.view(copies, -1).unique(dim=0)) == copies


def test_the_copies_are_of_the_images_in_their_order(mnist):
    train, test = mnist
    digits = some(test, 150)
    data, _ = fixed_set("rotated", digits, train.images, copies=10)
    # ink of the copies is that of their digit, give or take what a corner cuts off
    ink = data.images.float().sum((1, 2, 3)).view(10, 150)
    assert (ink / digits.images.float().sum((1, 2, 3)) - 1).abs().max() < 0.1


def test_the_pose_that_is_kept_is_that_of_the_image(mnist):
    train, test = mnist
    data, pose = fixed_set(
        "translated", some(test, 250), torch.zeros_like(train.images[:1]), copies=2
    )
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
