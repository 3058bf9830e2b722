"""Spatial transformer networks (arXiv:1506.02025): localization, grid, sampler, classifier.

`build_model` puts the network together that the PyTorch tutorial made known and the predecessor
trained: the transformer straightens the image, the classifier reads what came out.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.grids import AFFINE_IDENTITY, affine_grid
from pipeline.models.layers import convolution, identity_linear, max_pool, pooled_convolution

FARTHEST = 1e4  # no theta of use comes near; in half image widths, for its shifts


def localization_network(
    conv_layer: str, radius_center: float, image_size: int = 28
) -> nn.Sequential:
    """Images `(N, 1, S, S)` to theta `(N, 6)`; untrained, every theta is the identity."""
    side = ((image_size - 6) // 2 - 4) // 2  # of the feature map that the linear layers see
    return nn.Sequential(
        convolution(1, 8, 7, conv_layer, radius_center),
        max_pool(),
        nn.ReLU(),
        convolution(8, 10, 5, conv_layer, radius_center),
        max_pool(),
        nn.Flatten(),
        nn.ReLU(),
        nn.Linear(10 * side**2, 32),
        nn.ReLU(),
        identity_linear(32, AFFINE_IDENTITY),
    )


def digit_classifier(image_size: int = 28, batch_norm: bool = False) -> nn.Sequential:
    """Images `(N, 1, S, S)` to logits `(N, 10)`; batch_norm: after each ReLU."""
    side = ((image_size - 4) // 2 - 4) // 2

    def relu(norm: nn.Module) -> list[nn.Module]:
        return [nn.ReLU(), norm] if batch_norm else [nn.ReLU()]

    return nn.Sequential(
        pooled_convolution(10, 5),
        *relu(nn.BatchNorm2d(10)),
        convolution(10, 20, 5),
        max_pool(),
        nn.Dropout2d(),  # of whole channels: the same before the pooling, for four times the work
        *relu(nn.BatchNorm2d(20)),
        nn.Flatten(),
        nn.Linear(20 * side**2, 50),
        *relu(nn.BatchNorm1d(50)),
        nn.Dropout(),
        nn.Linear(50, 10),
    )


class SpatialTransformer(nn.Module):
    """Warps each image by the transformation that the localization network predicts for it.

    Args:
        localization: images `(N, C, H, W)` to theta `(N, 6)`, which maps output to input
            coordinates, normalized to [-1, 1], `align_corners=False`.
        padding_mode: what the bilinear sampler reads outside the image: `border`, `zeros` or
            `reflection`.
    """

    def __init__(self, localization: nn.Module, padding_mode: str) -> None:
        super().__init__()
        self.localization = localization
        self.padding_mode = padding_mode

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape."""
        # In a diverged network theta is NaN or infinite, and on such grids the gradient of
        # grid_sample crashes the whole process (github.com/pytorch/pytorch/issues/24823).
        theta = self.localization(images).nan_to_num().clamp(-FARTHEST, FARTHEST)
        grid = affine_grid(theta, *images.shape[-2:])
        return F.grid_sample(
            images, grid, mode="bilinear", padding_mode=self.padding_mode, align_corners=False
        )


class SpatialTransformerNetwork(nn.Module):
    """Normalized images `(N, 1, S, S)` to logits `(N, 10)`, through the transformer."""

    def __init__(self, transformer: SpatialTransformer, classifier: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.transformer(images))


def build_model(
    conv_layer: str,
    padding_mode: str,
    radius_center: float,
    image_size: int = 28,
    batch_norm: str = "none",
) -> SpatialTransformerNetwork:
    """A fresh network, its weights drawn from torch's global random state.

    Args:
        conv_layer: `conv2d` or `coordconv2d`, inside the localization network.
        padding_mode: of the sampler; see `SpatialTransformer`.
        radius_center: of CoordConv; see `coordconv.coordinate_channels`.
        image_size: side of the images in pixels; the first linear layers grow with it.
        batch_norm: `classifier` normalizes batches after each ReLU of the classifier; `none`.
    """
    localization = localization_network(conv_layer, radius_center, image_size)
    return SpatialTransformerNetwork(
        SpatialTransformer(localization, padding_mode),
        digit_classifier(image_size, batch_norm == "classifier"),
    )
