import pytest
import torch

from pipeline.data.mnist import normalize
from pipeline.models.stn import build_model


@pytest.mark.parametrize(("conv_layer", "count"), [("conv2d", 27_360), ("coordconv2d", 29_286)])
def test_the_number_of_trainable_parameters(conv_layer, count):
    model = build_model(conv_layer, "border", 0.5)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("conv_layer", ["conv2d", "coordconv2d"])
@pytest.mark.parametrize("padding_mode", ["border", "zeros", "reflection"])
def test_an_untrained_transformer_returns_its_input(mnist, conv_layer, padding_mode):
    images = normalize(mnist[1].images[:16])
    transformer = build_model(conv_layer, padding_mode, 0.5).transformer
    torch.testing.assert_close(transformer(images), images, atol=2e-5, rtol=0)


def test_theta_maps_output_to_input_so_the_picture_moves_the_other_way(mnist):
    images = normalize(mnist[1].images[:4])
    transformer = build_model("conv2d", "border", 0.5).transformer
    bias = transformer.localization[-1].bias
    with torch.no_grad():
        bias.copy_(torch.tensor([1, 0, 2 * 3 / 28, 0, 1, 0.0]))  # reads three pixels to the right
    moved = transformer(images)
    torch.testing.assert_close(moved[..., :25], images[..., 3:], atol=2e-5, rtol=0)


@pytest.mark.parametrize("conv_layer", ["conv2d", "coordconv2d"])
def test_the_network_is_the_published_one(conv_layer):
    """Layer by layer against the network written out with torch's functions."""
    torch.manual_seed(0)
    f = torch.nn.functional
    model = build_model(conv_layer, "border", 0.5).double().eval()
    w = [p.detach() for p in model.parameters()]
    with torch.no_grad():
        model.transformer.localization[-1].weight.normal_(std=0.1)

    def with_coordinates(x):
        if conv_layer == "conv2d":
            return x
        side = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        row, column = torch.meshgrid(side, side, indexing="ij")
        radius = ((row - 0.5) ** 2 + (column - 0.5) ** 2).sqrt()
        extra = torch.stack([row, column, radius]).expand(len(x), -1, -1, -1)
        return torch.cat([x, extra], 1)

    x = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    h = f.relu(f.max_pool2d(f.conv2d(with_coordinates(x), w[0], w[1]), 2))
    h = f.relu(f.max_pool2d(f.conv2d(with_coordinates(h), w[2], w[3]), 2))
    theta = f.linear(f.relu(f.linear(h.flatten(1), w[4], w[5])), w[6], w[7]).view(-1, 2, 3)
    grid = f.affine_grid(theta, [5, 1, 28, 28], align_corners=False)
    y = f.grid_sample(x, grid, padding_mode="border", align_corners=False)
    h = f.relu(f.max_pool2d(f.conv2d(y, w[8], w[9]), 2))
    h = f.relu(f.max_pool2d(f.conv2d(h, w[10], w[11]), 2))
    logits = f.linear(f.relu(f.linear(h.flatten(1), w[12], w[13])), w[14], w[15])
    torch.testing.assert_close(model(x), logits)
