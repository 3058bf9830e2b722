import io

import numpy as np
import pytest
from PIL import Image

from pipeline.figures.animation import FRAMES, animation, is_frame


def test_an_animation_shows_each_epoch_and_lingers_on_the_last(mnist):
    images = mnist[1].images[:8, 0].numpy()
    frames = {0: images, 1: images[:, ::-1], 2: images[:, :, ::-1]}
    gif = animation(images, frames, "after the transformer")
    with Image.open(io.BytesIO(gif)) as picture:
        assert picture.format == "GIF"
        assert picture.n_frames == 3
        durations = []
        for number in range(3):
            picture.seek(number)
            durations.append(picture.info["duration"])
            # the first tile of the second row, at a third of its size, is the first image shown
            tile = picture.convert("L").crop((2, 24 + 86, 2 + 84, 24 + 86 + 84)).resize((28, 28), 0)
            np.testing.assert_allclose(np.asarray(tile), frames[number][0], atol=2)
    assert durations == [150, 150, 2000]


@pytest.mark.parametrize("epochs", [1, 5, 45, 59, 60, 300])
def test_an_animation_has_few_frames_and_the_last_epoch(epochs):
    shown = [epoch for epoch in range(1, epochs + 1) if is_frame(epoch, epochs)]
    assert shown[-1] == epochs
    assert min(epochs, 30) <= len(shown) < FRAMES + 1


def test_a_long_animation_is_small_enough_to_open_in_a_browser(mnist):
    _, test = mnist
    images = np.pad(test.images[:8, 0].numpy(), ((0, 0), (42, 42), (42, 42)))
    generator = np.random.default_rng(0)
    frames = {epoch: np.roll(images, generator.integers(9), axis=2) for epoch in range(FRAMES)}
    assert len(animation(images, frames, "after the transformer")) < 4e6
