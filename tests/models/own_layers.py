"""Layers as a user may write them: one that works, and one for each fault."""

import sys

import torch
import torch.nn.functional as F
from torch import nn


class Blur(nn.Conv2d):
    def forward(self, images):
        return super().forward(F.avg_pool2d(images, 3, stride=1, padding=1))


class OfTheMean(nn.Conv2d):
    """Reads the whole image, and needs its output for its gradient."""

    def forward(self, images):
        mean = images.mean(dim=(2, 3), keepdim=True)
        return super().forward(images - mean).sigmoid()


class Padded(nn.Conv2d):
    def __init__(self, in_channels, out_channels, kernel_size, bias):
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, padding="same")


class Two(Blur):
    def forward(self, images):
        return super().forward(images), images


class NoBias(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size):
        super().__init__()


class Broken(nn.Conv2d):
    def forward(self, images):
        return super().forward(images.view(3, -1))


class ExitsWhenMade(Blur):
    def __init__(self, **given):
        sys.exit()


class Exits(Blur):
    def forward(self, images):
        sys.exit("no licence")


class ExitsInTraining(Blur):
    def forward(self, images):
        return sys.exit(3) if self.training else super().forward(images)


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, images):
        return images * 2

    @staticmethod
    def backward(context, gradient):
        raise NotImplementedError("no gradient yet")


class FailsBackwards(Blur):
    def forward(self, images):
        return super().forward(NoGradient.apply(images))


class Fixed(Blur):
    """Passes no gradient on, which is allowed."""

    def forward(self, images):
        return super().forward(images).detach()


class InPlace(Blur):
    def forward(self, images):
        return super().forward(images.mul_(0.5))


class ExitsWhenExported(Blur):
    def forward(self, images):
        return sys.exit(3) if torch.compiler.is_exporting() else super().forward(images)


class FixedBatch(Blur):
    def forward(self, images):
        return super().forward(images / (2 if len(images) == 4 else 1))


class Branches(Blur):
    def forward(self, images):
        return super().forward(images if images.mean() > 0 else -images)


class OtherWhenExported(Blur):
    def forward(self, images):
        return super().forward(images * (2 if torch.compiler.is_exporting() else 1))


@torch.library.custom_op("own_layers::twice", mutates_args=())
def twice(images: torch.Tensor) -> torch.Tensor:
    return images * 2


@twice.register_fake
def _(images):
    return torch.empty_like(images)


twice.register_autograd(lambda context, gradient: gradient * 2)


class Foreign(Blur):
    def forward(self, images):
        return super().forward(twice(images))


def function(images):
    return images


number = 3
