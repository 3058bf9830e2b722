"""The animation of a training: a digit in eight poses, and what the transformer makes of them."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAMES = 60  # of an animation, at most
FRAME_SECONDS, LAST_FRAME_SECONDS = 0.15, 2.0
TILE = 84  # pixels, the least side of an image


def is_frame(epoch: int, epochs: int) -> bool:
    """Whether an animation of so many epochs shows this one; it does show the last."""
    return epoch == epochs or epoch % math.ceil(epochs / (FRAMES - 1)) == 0


def animation(before: np.ndarray, frames: dict[int, np.ndarray], words: str) -> bytes:
    """A GIF: eight poses, and below what the transformer makes of them from epoch to epoch.

    Args:
        before: uint8 `(8, S, S)`.
        frames: of each epoch uint8 `(8, S', S')`; 0 is before the training.
        words: what these are.
    """
    side = before.shape[-1] * math.ceil(TILE / before.shape[-1])
    font = ImageFont.load_default(size=16)
    pictures = []
    for epoch, after in frames.items():
        picture = Image.new("L", (len(before) * (side + 2) + 2, 2 * (side + 2) + 26), 64)
        for row, images in enumerate((before, after)):
            for column, image in enumerate(images):
                tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
                picture.paste(tile, (2 + column * (side + 2), 24 + row * (side + 2)))
        text = f"input, and {words}; epoch {epoch}"
        ImageDraw.Draw(picture).text((6, 3), text, fill=255, font=font)
        pictures.append(picture)
    durations = [round(1000 * FRAME_SECONDS)] * len(pictures)
    durations[-1] = round(1000 * LAST_FRAME_SECONDS)
    file = io.BytesIO()
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
    )
    return file.getvalue()
