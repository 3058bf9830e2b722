"""What is registered: a model that needs none of this project's code and no preprocessing."""

import torch
from torch import Tensor, nn

MOST_IMAGES = 10_000  # at once: a network of the tutorial's size takes 1 GB for them


class PortableModel(nn.Module):
    """Raw images in, class probabilities out.

    The checks of its input become a part of the exported model. The signature that MLflow checks
    before is not enough: `mlflow models serve` converts numbers to uint8, so it makes 0 of 0.9.

    Args:
        model: normalized float32 images `(N, 1, H, W)` to logits `(N, 10)`.
        mean, std: of the pixels in [0, 1] that `model` was trained with.
    """

    def __init__(self, model: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.model = model
        self.mean = mean
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        """uint8 `(N, 1, H, W)` in [0, 255] to float32 `(N, 10)`; each row sums to 1.

        Raises:
            RuntimeError: for more than `MOST_IMAGES`, or if no pixel of any image is above 1.
        """
        # as tensors, because the export evaluates conditions of Python once and for all
        count = torch.ones_like(images[:, :1, :1, :1], dtype=torch.int64).sum()
        torch._assert_async(count <= MOST_IMAGES, f"give at most {MOST_IMAGES:,} images at once")
        is_visible = (images > 1).any() | (count == 0)
        torch._assert_async(is_visible, "no pixel is above 1; pixels are from 0 to 255, not 0 to 1")
        return self.model((images.float() / 255 - self.mean) / self.std).softmax(dim=1)
