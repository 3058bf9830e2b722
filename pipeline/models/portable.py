"""What is registered: a model that needs none of this project's code and no preprocessing."""

from torch import Tensor, nn


class PortableModel(nn.Module):
    """Raw images in, class probabilities out.

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
        """uint8 `(N, 1, H, W)` in [0, 255] to float32 `(N, 10)`; each row sums to 1."""
        return self.model((images.float() / 255 - self.mean) / self.std).softmax(dim=1)
