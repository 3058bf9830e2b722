import pytest
import torch
import torch.nn.functional as F

from pipeline.models.pooled import MaxPool2x2, PooledConv2d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_gives_the_same_with_and_without_gradients(memory_format):
    images = torch.randn(3, 5, 9, 11).to(memory_format=memory_format)
    for place in range(4):
        images[0, place, place // 2, place % 2] = float("nan")
    expected = F.max_pool2d(images, 2)
    torch.testing.assert_close(MaxPool2x2()(images), expected, rtol=0, atol=0, equal_nan=True)
    with torch.inference_mode():
        pooled = MaxPool2x2()(images)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    assert pooled.is_contiguous(memory_format=memory_format)  # else the next layer is slower


@pytest.mark.parametrize(
    ("channels", "height", "width", "kernel_size"),
    [
        (1, 28, 28, 5),
        (1, 28, 28, 7),
        (1, 27, 30, 5),
        (1, 29, 28, 7),
        (1, 20, 21, 4),
        (1, 12, 12, 9),
        (1, 60, 60, 9),
        (2, 27, 30, 5),
    ],
)
def test_it_is_the_convolution_and_the_pooling_with_all_their_gradients(
    channels, height, width, kernel_size
):
    layer = PooledConv2d(channels, 3, kernel_size).double()
    # more than fit into one part of the largest
    images = torch.randn(18, channels, height, width, dtype=torch.float64, requires_grad=True)
    pooled = layer(images)
    plain = F.max_pool2d(F.conv2d(images, layer.weight, layer.bias), 2)
    torch.testing.assert_close(pooled, plain)
    gradient = torch.randn_like(plain).to(memory_format=torch.channels_last)
    inputs = [images, layer.weight, layer.bias]
    torch.testing.assert_close(
        torch.autograd.grad(pooled, inputs, gradient), torch.autograd.grad(plain, inputs, gradient)
    )
    torch.testing.assert_close(layer(images.detach()), plain)
    if channels == 1:  # the way of images that need a gradient; the next layer is faster so
        assert pooled.is_contiguous(memory_format=torch.channels_last)


def test_its_gradients_are_those_of_finite_differences():
    layer = PooledConv2d(1, 2, 3).double()
    images = torch.randn(2, 1, 8, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_follows_may_work_in_place(channels):
    layer = PooledConv2d(1, channels, 3).double()
    images = torch.randn(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    plain = F.max_pool2d(F.conv2d(images, layer.weight, layer.bias), 2).relu()
    pooled = layer(images).relu_()
    torch.testing.assert_close(
        torch.autograd.grad(pooled.sum(), images), torch.autograd.grad(plain.sum(), images)
    )


def test_a_tie_goes_to_the_first_output_of_the_window():
    layer = PooledConv2d(1, 1, 1).double()
    images = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    layer(images).sum().backward()
    weight = layer.weight.item()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[::2, ::2] = weight
    torch.testing.assert_close(images.grad[0, 0], expected)


def test_its_state_is_that_of_a_convolution():
    layer, plain = PooledConv2d(1, 10, 5), torch.nn.Conv2d(1, 10, 5)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
