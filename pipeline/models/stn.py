"""The modules of a spatial transformer network (arXiv:1506.02025); `build.py` composes them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.grids import affine_grid, compose
from pipeline.models.transforms import matrix_function, sampling_grid

# Upper bound on abs(theta), in whose units 1 is half an image's width; larger values and NaN are
# replaced by 0.
THETA_BOUND = 1e4


class SpatialTransformer(nn.Module):
    """Warps each image by the transformation that the localization network predicts for it.

    Args:
        localization: images `(N, C, S, S)` to theta `(N, P)`, which maps output to input
            coordinates, normalized to [-1, 1], `align_corners=False`.
        padding_mode: what the bilinear sampler reads outside the image: `border`, `zeros` or
            `reflection`.
        transform: one of `transforms.TRANSFORMS`.
        iterations: how many times theta is predicted. From the second time on, the localization
            network gets the image as warped so far, and the transformations are composed. The
            original image is sampled once, by the composed transformation, which must be affine
            (as in arXiv:1612.03897).
        output_size: side of the output in pixels; None: that of the input.
        localization_size: side in pixels of the upper left part of the input that the localization
            network gets; None: it gets the whole input. See `layer_sizes.side_before`.
    """

    def __init__(
        self,
        localization: nn.Module,
        *,
        padding_mode: str,
        transform: str = "affine",
        iterations: int = 1,
        output_size: int | None = None,
        localization_size: int | None = None,
    ) -> None:
        super().__init__()
        self.localization = localization
        self.padding_mode = padding_mode
        self.transform = transform
        self.iterations = iterations
        self.output_size = output_size
        self.localization_size = localization_size

    def theta(self, images: Tensor) -> Tensor:
        """`(N, C, S, S)` to `(N, P)`: what the localization network predicts.

        Values beyond `THETA_BOUND` and NaN are replaced by 0.
        """
        # In a diverged network theta is NaN or infinite, and on such grids the gradient of
        # grid_sample crashes the whole process (github.com/pytorch/pytorch/issues/24823).
        cropped = images[..., : self.localization_size, : self.localization_size]
        theta = self.localization(cropped)
        return torch.where(theta.detach().abs() <= THETA_BOUND, theta, 0.0)

    def matrix(self, images: Tensor) -> Tensor:
        """`(N, C, S, S)` to `(N, 2, 3)`: the affine map by which `forward` warps each image.

        It is the composition of all iterations, in normalized coordinates of the input.

        Raises:
            ValueError: if the transformation is not affine.
        """
        to_matrix = matrix_function(self.transform)
        matrix = to_matrix(self.theta(images))
        for _ in range(self.iterations - 1):
            warped = self._sample(images, affine_grid(matrix, *images.shape[-2:]))
            matrix = compose(matrix, to_matrix(self.theta(warped)))
            # entries are finite, but their products may grow with each iteration
            matrix = matrix.clamp(-THETA_BOUND, THETA_BOUND)
        return matrix

    def grid(self, images: Tensor, size: int | None = None) -> Tensor:
        """`(N, C, S, S)` to `(N, size, size, 2)`: the points of the input that the output shows.

        size: in pixels, that of the output by default; another size gives the same transformation
            on a finer or coarser grid.
        """
        height, width = images.shape[-2:]
        size = size or self.output_size
        if size is not None:
            height = width = size
        if self.iterations > 1:
            return affine_grid(self.matrix(images), height, width)
        return sampling_grid(self.transform, self.theta(images), height, width)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C, S, S)` to `(N, C, output_size, output_size)`."""
        return self._sample(images, self.grid(images))

    def _sample(self, images: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(
            images, grid, mode="bilinear", padding_mode=self.padding_mode, align_corners=False
        )


class SpatialTransformerNetwork(nn.Module):
    """Normalized images `(N, 1, S, S)` to logits `(N, 10)`.

    Args:
        stem: the layers before the transformer; empty if that warps the image.
        transformer: None in a plain convolutional network.
        classifier: the layers after it.
        frame: where the transformer's input lies in the image, as scale and shift; see
            `layer_sizes.frame`.
    """

    def __init__(
        self,
        stem: nn.Module,
        transformer: SpatialTransformer | None,
        classifier: nn.Module,
        frame: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        super().__init__()
        self.stem = stem
        self.transformer = transformer
        self.classifier = classifier
        self.frame = frame

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        if self.transformer is not None:
            features = self.transformer(features)
        return self.classifier(features)

    def matrix(self, images: Tensor) -> Tensor:
        """`(N, 1, S, S)` to `(N, 2, 3)`: the affine map of all iterations, output to input.

        It is in normalized coordinates of the image, whose unit is half an image's width. Where the
        transformer warps a feature map, it is the same motion in these coordinates.

        Raises:
            ValueError: if the transformation is not affine, or there is no transformer.
        """
        scale, shift = self.frame
        linear, move = self._transformer().matrix(self.stem(images)).split([2, 1], dim=2)
        return torch.cat([linear, scale * move + shift * (1 - linear.sum(2, True))], dim=2)

    def grid(self, images: Tensor, size: int | None = None) -> Tensor:
        """`(N, 1, S, S)` to `(N, size, size, 2)`: the points of the image that the output shows.

        They are in normalized coordinates of the image for every transformation and placement. The
        outer points outline what the transformer looks at.

        Raises:
            ValueError: if there is no transformer.
        """
        scale, shift = self.frame
        return scale * self._transformer().grid(self.stem(images), size) + shift

    def _transformer(self) -> SpatialTransformer:
        if self.transformer is None:
            raise ValueError("a network of the architecture cnn has no transformer")
        return self.transformer


def localization_parameters(model: SpatialTransformerNetwork) -> list[nn.Parameter]:
    """The localization network's own parameters, without those it shares with the classifier."""
    if model.transformer is None:
        return []
    shared = set(model.classifier.parameters())
    return [p for p in model.transformer.localization.parameters() if p not in shared]
