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


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("height", "width", "kernel_size"),
    [(28, 28, 5), (28, 28, 7), (27, 30, 5), (29, 28, 7), (20, 21, 4), (12, 12, 9), (60, 60, 9)],
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
    gradient = torch.randn_like(plain)
    inputs = [images, layer.weight, layer.bias]
    torch.testing.assert_close(
        torch.autograd.grad(pooled, inputs, gradient), torch.autograd.grad(plain, inputs, gradient)
    )
    # images that need no gradient take another way
    torch.testing.assert_close(layer(images.detach()), plain)


def test_its_gradients_are_those_of_finite_differences():
    layer = PooledConv2d(1, 2, 3).double()
    images = torch.randn(2, 1, 8, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, images)


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
