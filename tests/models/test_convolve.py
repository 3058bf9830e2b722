import pytest
import torch
import torch.nn.functional as F

from pipeline.models.convolve import PooledConv2d, convolve, max_pool


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_gives_the_same_with_and_without_gradients(memory_format):
    images = torch.randn(3, 5, 9, 11).to(memory_format=memory_format)
    for place in range(4):
        images[0, place, place // 2, place % 2] = float("nan")
    expected = F.max_pool2d(images, 2)
    torch.testing.assert_close(max_pool(images), expected, rtol=0, atol=0, equal_nan=True)
    with torch.inference_mode():
        pooled = max_pool(images)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    assert pooled.is_contiguous(memory_format=memory_format)  # else the next layer is slower


@pytest.mark.parametrize("constant_channels", [0, 2])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "height", "width", "kernel_size"),
    [
        (1, 8, 28, 28, 5),
        (1, 3, 26, 26, 7),
        (1, 2, 100, 100, 5),  # in two parts
        (3, 2, 27, 30, 5),
        (2, 20, 29, 28, 7),
        (2, 3, 12, 13, 9),
        (2, 2, 6, 7, 1),
        (1, 3, 20, 21, 4),  # the usual way, as the next
        (16, 16, 11, 12, 5),
    ],
)
def test_it_is_the_convolution_and_the_pooling_with_all_their_gradients(
    in_channels, out_channels, height, width, kernel_size, constant_channels
):
    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    images = randn(11, in_channels, height, width)
    weight = randn(out_channels, in_channels + constant_channels, kernel_size, kernel_size)
    bias = randn(out_channels)
    constant = torch.randn(1, constant_channels, height, width, dtype=torch.float64)
    patches = F.unfold(constant, kernel_size)[0].t() if constant_channels else None
    together = torch.cat([images, constant.expand(11, -1, -1, -1)], dim=1)
    plain = F.max_pool2d(F.conv2d(together, weight, bias), 2)
    pooled = convolve(images, weight, bias, constant=patches, pool=True)
    torch.testing.assert_close(pooled, plain)
    gradient = torch.randn_like(plain)
    inputs = [images, weight, bias]
    expected = torch.autograd.grad(plain, inputs, gradient)
    torch.testing.assert_close(torch.autograd.grad(pooled, inputs, gradient), expected)
    without = convolve(images.detach(), weight, bias, constant=patches, pool=True)
    torch.testing.assert_close(without, plain)
    torch.testing.assert_close(torch.autograd.grad(without, inputs[1:], gradient), expected[1:])
    with torch.no_grad():
        evaluated = convolve(images, weight, bias, constant=patches, pool=True)
        torch.testing.assert_close(evaluated, plain)


@pytest.mark.parametrize("constant_channels", [0, 1])
def test_its_gradients_are_those_of_finite_differences(constant_channels):
    inputs = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 3, 8, 9), (2, 3 + constant_channels, 3, 3), (2,)]
    ]
    patches = torch.randn(6 * 7, 9, dtype=torch.float64) if constant_channels else None
    assert torch.autograd.gradcheck(
        lambda *inputs: convolve(*inputs, constant=patches, pool=True), inputs
    )


def test_layers_one_after_another_pass_the_images_on_as_they_lie():
    def through(images, dtype):
        first, second = (layer.to(dtype) for layer in layers)
        return second(first(images.to(dtype)).relu_()).flatten(1)

    layers = [PooledConv2d(1, 3, 5), PooledConv2d(3, 2, 5)]
    images = torch.randn(7, 1, 28, 28, requires_grad=True)
    flat = through(images, torch.float32)
    assert flat.stride() == (1, 7)  # no copy: the linear layer after it takes it as it is
    torch.testing.assert_close(flat, through(images, torch.float64).float())


@pytest.mark.parametrize("channels", [1, 3])
def test_what_follows_may_work_in_place(channels):
    layer = PooledConv2d(1, channels, 3).double()
    images = torch.randn(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    plain = F.max_pool2d(F.conv2d(images, layer.weight, layer.bias), 2).relu()
    pooled = layer(images).relu_()
    torch.testing.assert_close(
        torch.autograd.grad(pooled.sum(), images), torch.autograd.grad(plain.sum(), images)
    )


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_a_tie_goes_to_the_first_output_of_the_window(kernel_size):
    layer = PooledConv2d(1, 1, kernel_size).double()
    images = torch.zeros(2, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    plain = F.max_pool2d(F.conv2d(images, layer.weight, layer.bias), 2)
    gradient = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(layer(images), images, gradient),
        torch.autograd.grad(plain, images, gradient),
    )


@pytest.mark.parametrize("kernel_size", [3, 4])
def test_an_image_without_a_window_is_refused_as_torch_does(kernel_size):
    layer = PooledConv2d(1, 2, kernel_size)
    with pytest.raises(RuntimeError, match="too small"):
        layer(torch.zeros(1, 1, 9, kernel_size, requires_grad=True))


def test_a_layer_that_was_exported_can_still_be_trained():
    layer = PooledConv2d(1, 2, 9)  # a kernel size that no other test uses
    images = torch.randn(3, 1, 20, 20)
    exported = torch.export.export(layer, (images,)).module()
    pooled = layer(images)
    torch.testing.assert_close(exported(images), pooled)
    pooled.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("bias", [True, False])
def test_its_state_is_that_of_a_convolution(bias):
    layer, plain = PooledConv2d(1, 10, 5, bias=bias), torch.nn.Conv2d(1, 10, 5, bias=bias)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
