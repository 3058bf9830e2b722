import pytest
import torch

from pipeline.data.batches import normalize
from pipeline.params import RunParams
from pipeline.training.collapse import (
    chance_reason,
    collapse_reason,
    highest_chance,
    shows_nothing,
)
from pipeline.training.network import build_network


def turned(theta, **settings):
    """A network whose transformer predicts this theta for any image."""
    network = build_network(RunParams(transform="translation", **settings)).eval()
    with torch.no_grad():
        network.transformer.localization[-1].bias.copy_(torch.tensor(theta))
    return network


@pytest.mark.parametrize("architecture", ["stn-c0", "stn-c1", "stn-dl1", "stn-sl1"])
@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize(
    ("theta", "nothing"), [([0.0, 0.0], False), ([1.9, 0.0], False), ([2.1, 0.0], True)]
)
def test_a_transformer_shows_nothing_once_its_whole_grid_is_outside(
    some_digits, architecture, padding_mode, theta, nothing
):
    images = normalize("mnist", some_digits[1].images[:10])
    network = turned(theta, architecture=architecture, padding_mode=padding_mode)
    assert shows_nothing(network, images) is nothing


def test_a_training_whose_transformer_shows_nothing_has_collapsed_at_any_accuracy(some_digits):
    given = {"train_labels": some_digits[0].labels, "images": some_digits[1].images[:10]}
    params = RunParams(transform="translation")
    away, straight = turned([2.1, 0.0]), turned([0.0, 0.0])
    reason = "the transformer shows nothing of the image"
    assert collapse_reason(away, params, [0.9], **given) == reason
    assert collapse_reason(straight, params, [0.9], **given) == ""


def test_mirror_images_and_networks_without_transformer_show_something(some_digits):
    images = normalize("mnist", some_digits[1].images[:10])
    assert not shows_nothing(turned([2.1, 0.0], padding_mode="reflection"), images)
    assert not shows_nothing(build_network(RunParams(architecture="cnn")).eval(), images)


def test_one_image_that_is_seen_is_something(some_digits):
    """As long as some image is seen, there are gradients that bring the transformer back."""
    images = normalize("mnist", some_digits[1].images[:10])
    network = turned([0.0, 0.0])
    outside = torch.tensor([[2.1, 0.0]] * 9 + [[0.0, 0.0]])
    network.transformer.localization = torch.nn.Module()
    network.transformer.localization.forward = lambda images: outside[: len(images)]
    assert shows_nothing(network, images[:9])
    assert not shows_nothing(network, images)


@pytest.mark.parametrize(
    ("accuracies", "reason"),
    [
        ([0.9, 0.95], ""),
        ([0.105], ""),  # may be about to learn
        ([0.105, 0.105], ""),
        ([0.105, 0.105, 0.105], "10.50%, has never been better than chance"),
        ([0.105, 0.5, 0.9], ""),
        ([0.9, 0.105], "10.50%, is back at chance"),
        ([0.9, 0.105, 0.1], "10.00%, is back at chance"),
        ([0.9, 0.105, 0.8], ""),
    ],
)
def test_a_training_accuracy_back_at_chance_is_a_collapse(accuracies, reason):
    labels = torch.arange(10_000) % 10
    found = chance_reason(accuracies, labels, RunParams(epochs=3))
    assert found.endswith(reason)
    assert bool(found) is bool(reason)


def test_chance_is_the_share_of_the_most_frequent_digit_and_wider_on_few_images(mnist):
    labels = mnist[0].labels
    assert 0.1124 < highest_chance(labels, 60_000) < 0.12
    generator = torch.Generator().manual_seed(0)
    for images in (100, 1_000, 10_000):
        chosen = torch.randint(len(labels), (2_000, images), generator=generator)
        accuracies = (labels[chosen] == 1).float().mean(dim=1)
        above = (accuracies > highest_chance(labels, images)).float().mean()
        assert above < 0.01  # of constant answers that would count as better


def test_the_short_last_epoch_is_judged_by_its_own_number_of_images():
    labels = torch.arange(10_000) % 10
    params = RunParams(iterations=101, batch_size=100)  # one whole epoch, and a step
    assert chance_reason([0.9, 0.15], labels, params)
    assert not chance_reason([0.9, 0.15], labels, RunParams(epochs=2, batch_size=100))
