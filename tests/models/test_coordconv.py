import pytest
import torch

from pipeline.models.coordconv import (
    CoordConv2d,
    PooledCoordConv2d,
    coordinate_channels,
)


def test_the_channels_are_row_column_and_radius():
    row, column, radius = coordinate_channels(3, 5, 0.0)[0]
    assert row[:, 0].tolist() == [-1, 0, 1]
    assert column[0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert (row == row[:, :1]).all()
    assert (column == column[:1]).all()
    assert radius[1, 2] == 0  # the centre
    torch.testing.assert_close(radius[0, 0], torch.tensor(2.0).sqrt())


def test_the_predecessors_radius_is_measured_from_a_half():
    radius = coordinate_channels(5, 5, radius_center=0.5)[0, 2]
    assert radius[3, 3] == 0
    torch.testing.assert_close(radius[4, 4], torch.tensor(0.5).sqrt())


def test_coordinates_follow_size_and_dtype_and_are_no_state():
    layer = CoordConv2d(4, 2, 3, radius_center=0.0)
    assert layer.coordinates_for(torch.zeros(2, 4, 6, 8)).shape == (1, 3, 6, 8)
    images = torch.zeros(2, 4, 3, 3, dtype=torch.float64)
    assert layer.coordinates_for(images).dtype == torch.float64
    assert layer.state_dict().keys() == {"conv.weight", "conv.bias"}
    assert dict(layer.named_parameters()).keys() == {"conv.weight", "conv.bias"}
    assert dict(layer.named_buffers()).keys() == {"coordinates"}


def test_a_network_that_was_evaluated_first_can_still_be_trained():
    layer = CoordConv2d(1, 2, 3, radius_center=0.0)
    with torch.inference_mode():
        layer(torch.zeros(1, 1, 6, 6))
    layer(torch.zeros(1, 1, 6, 6)).sum().backward()
    assert layer.conv.weight.grad is not None


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_kept_of_the_coordinates_follows_the_images(bias):
    layer = CoordConv2d(1, 2, 3, radius_center=0.0, bias=bias)
    for shape, dtype in [((6, 8), torch.float32), ((8, 6), torch.float32), ((8, 6), torch.float64)]:
        images = torch.randn(2, 1, *shape, dtype=dtype)
        fresh = CoordConv2d(1, 2, 3, radius_center=0.0, bias=bias).to(dtype)
        fresh.load_state_dict(layer.to(dtype).state_dict())
        together = torch.cat(
            [images, coordinate_channels(*shape, 0.0, dtype=dtype).expand(2, -1, -1, -1)], 1
        )
        torch.testing.assert_close(layer(images), fresh(images))
        torch.testing.assert_close(layer(images), layer.conv(together))


@pytest.mark.parametrize("layer_class", [CoordConv2d, PooledCoordConv2d])
def test_of_a_part_of_an_image_the_coordinates_are_those_of_the_whole(layer_class):
    layer = layer_class(2, 3, 5, radius_center=0.5, side=11)
    images = torch.randn(4, 2, 11, 11)
    of_part, of_whole = layer(images[..., :9, :10]), layer(images)
    assert of_part.shape[2:] == ((2, 3) if layer_class is PooledCoordConv2d else (5, 6))
    torch.testing.assert_close(of_part, of_whole[..., : of_part.shape[2], : of_part.shape[3]])


@pytest.mark.parametrize("layer_class", [CoordConv2d, PooledCoordConv2d])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("radius_center", [0.0, 0.5])
def test_coordconv_is_a_convolution_of_image_and_coordinates(radius_center, bias, layer_class):
    layer = layer_class(2, 3, 5, radius_center=radius_center, bias=bias).double()
    images = torch.randn(4, 2, 9, 11, dtype=torch.float64, requires_grad=True)
    row = torch.linspace(-1, 1, 9, dtype=torch.float64).view(1, 1, 9, 1).expand(4, 1, 9, 11)
    column = torch.linspace(-1, 1, 11, dtype=torch.float64).view(1, 1, 1, 11).expand(4, 1, 9, 11)
    radius = ((row - radius_center) ** 2 + (column - radius_center) ** 2).sqrt()
    expected = torch.nn.functional.conv2d(
        torch.cat([images, row, column, radius], 1), layer.conv.weight, layer.conv.bias
    )
    if layer_class is PooledCoordConv2d:
        expected = torch.nn.functional.max_pool2d(expected, 2)
    torch.testing.assert_close(layer(images), expected)
    inputs = [images, *layer.parameters()]
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(layer(images), inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
    )
    with torch.no_grad():
        torch.testing.assert_close(layer(images), expected)
