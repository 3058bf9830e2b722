import copy

import pytest
import torch
from torch import nn

from pipeline.data.batches import normalize
from pipeline.errors import PipelineError
from pipeline.models.build import build_model
from pipeline.models.conv_layers import CONV_LAYERS
from pipeline.models.coordconv import CoordConv2d
from pipeline.models.placements import ARCHITECTURES, Placement
from pipeline.models.stn import localization_parameters
from pipeline.models.transforms import TRANSFORMS, matrix_function

WITH_TRANSFORMER = [name for name, placement in ARCHITECTURES.items() if placement is not None]
AFFINE_FAMILY = [name for name, kind in TRANSFORMS.items() if kind.matrix is not None]
SETTINGS = {"radius_center": 0.5}


def build(architecture="stn-c0", conv_layer="conv2d", **given):
    return build_model(
        architecture=architecture, conv_layer=conv_layer, layer_settings=SETTINGS, **given
    )


def trained(model):
    """The model with a localization network that tells images apart."""
    torch.manual_seed(0)
    nn.init.normal_(model.transformer.localization[-1].weight, std=0.2)
    return model


@pytest.mark.parametrize(("conv_layer", "count"), [("conv2d", 27_360), ("coordconv2d", 29_286)])
def test_the_number_of_trainable_parameters(conv_layer, count):
    model = build(conv_layer=conv_layer)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("conv_layer", CONV_LAYERS)
@pytest.mark.parametrize("padding_mode", ["border", "zeros", "reflection"])
def test_an_untrained_transformer_returns_its_input(mnist, conv_layer, padding_mode):
    images = normalize("mnist", mnist[1].images[:16])
    transformer = build(conv_layer=conv_layer, padding_mode=padding_mode).transformer
    torch.testing.assert_close(transformer(images), images, atol=2e-5, rtol=0)


def test_theta_maps_output_to_input_so_the_picture_moves_the_other_way(mnist):
    images = normalize("mnist", mnist[1].images[:4])
    transformer = build().transformer
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
    model = build(conv_layer=conv_layer).double().eval()
    w = list(model.parameters())
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
    weights = torch.randn_like(logits)
    torch.testing.assert_close(
        torch.autograd.grad((model(x) * weights).sum(), w),
        torch.autograd.grad((logits * weights).sum(), w),
    )
    with torch.inference_mode():
        torch.testing.assert_close(model(x), logits.detach())


def parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("batch_norm", ["none", "classifier"])
def test_the_default_network_draws_its_weights_in_the_order_they_always_had(batch_norm):
    torch.manual_seed(0)
    model = build(batch_norm=batch_norm)
    torch.manual_seed(0)
    localization = [nn.Conv2d(1, 8, 7), nn.Conv2d(8, 10, 5), nn.Linear(90, 32), nn.Linear(32, 6)]
    nn.init.zeros_(localization[-1].weight)
    localization[-1].bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])
    classifier = [nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5), nn.Linear(320, 50), nn.Linear(50, 10)]
    places = [0, 2, 6, 9]
    if batch_norm == "classifier":
        norms = [nn.BatchNorm2d(10), nn.BatchNorm2d(20), nn.BatchNorm1d(50)]
        classifier = [*sum(zip(classifier, norms, strict=False), ()), classifier[-1]]
        places = [0, 2, 3, 6, 8, 10, 12]
    expected = {}
    for at, layer in zip([0, 2, 5, 7], localization, strict=True):
        expected |= layer.state_dict(prefix=f"transformer.localization.{at}.")
    for at, layer in zip(places, classifier, strict=True):
        expected |= layer.state_dict(prefix=f"classifier.{at}.")
    assert list(model.state_dict()) == list(expected)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, expected[name]), name


TABLE_VI = {
    (28, 0): {
        "cnn": 54_122,
        "stn-c0": 53_744,
        "stn-c1": 53_984,
        "stn-dl1": 55_296,
        "stn-sl1": 53_984,
    },
    (60, 30): {
        "cnn": 66_692,
        "stn-c0": 67_138,
        "stn-c1": 67_088,
        "stn-dl1": 66_800,
        "stn-sl1": 65_488,
    },
    (112, 0): {
        "cnn": 136_674,
        "stn-c0": 136_448,
        "stn-c1": 137_072,
        "stn-dl1": 138_384,
        "stn-sl1": 137_072,
    },
}


@pytest.mark.parametrize(("sizes", "counts"), TABLE_VI.items())
def test_the_papers_numbers_of_trainable_parameters(sizes, counts):
    image_size, sampler_size = sizes
    for architecture, count in counts.items():
        model = build(
            architecture, image_size=image_size, sampler_size=sampler_size, network="paper"
        )
        assert parameters(model) == count, architecture


@pytest.mark.parametrize("image_size", [28, 42, 60, 112])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_every_image_size(architecture, image_size):
    images = torch.randn(2, 1, image_size, image_size)
    for network in ["tutorial"] + ["paper"] * (image_size != 42):
        for sampler_size in (0, image_size - image_size // 7):
            model = build(
                architecture, image_size=image_size, sampler_size=sampler_size, network=network
            )
            assert model(images).shape == (2, 10)


@pytest.mark.parametrize("conv_layer", CONV_LAYERS)
@pytest.mark.parametrize(
    ("architecture", "network", "image_size", "shown"),
    [
        ("stn-c0", "tutorial", 28, 26),  # 28, 22, 11, 7, 3; and back from 3: 6, 10, 20, 26
        ("stn-c0", "tutorial", 60, 58),
        ("stn-c0", "paper", 112, 112),  # sees it halved
        ("stn-c1", "tutorial", 42, 18),  # of a feature map of 19
        ("stn-dl2", "paper", 112, 108),
        ("stn-sl1", "tutorial", 42, 40),
    ],
)
def test_a_localization_network_is_shown_what_its_theta_depends_on_and_no_more(
    conv_layer, architecture, network, image_size, shown
):
    model = trained(build(architecture, conv_layer, image_size=image_size, network=network))
    images = torch.randn(3, 1, image_size, image_size)
    features = model.stem(images).detach().requires_grad_()
    of_whole = model.transformer.localization(features)
    (gradient,) = torch.autograd.grad(of_whole.sum(), features)
    last_row = gradient.abs().amax(dim=(0, 1, 3)).nonzero().max()
    last_column = gradient.abs().amax(dim=(0, 1, 2)).nonzero().max()
    assert model.transformer.localization_size == shown == last_row + 1 == last_column + 1
    torch.testing.assert_close(model.transformer.theta(features), of_whole)


def test_the_sampler_of_the_paper_halves_translated_digits_and_their_feature_maps():
    images = torch.randn(2, 1, 60, 60)
    for architecture, shape in {"stn-c0": (1, 30), "stn-sl1": (1, 30), "stn-c1": (16, 13)}.items():
        model = build(architecture, image_size=60, sampler_size=30, network="paper")
        assert model.transformer(model.stem(images)).shape[1:] == (*shape, shape[1])


@pytest.mark.parametrize("architecture", WITH_TRANSFORMER)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_every_untrained_transformer_returns_its_input(mnist, architecture, transform):
    images = normalize("mnist", mnist[1].images[:8])
    iterations = 3 if TRANSFORMS[transform].matrix else 1
    model = build(architecture, transform=transform, transformer_iterations=iterations)
    features = model.stem(images)
    torch.testing.assert_close(model.transformer(features), features, atol=5e-5, rtol=0)
    assert (features is images) == (architecture not in ("stn-c1", "stn-c2"))


def test_a_new_placement_is_a_line(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "stn-c1-sl1", Placement(stem=1, shared=1))
    model = build("stn-c1-sl1")
    features = model.stem(torch.randn(3, 1, 28, 28))
    torch.testing.assert_close(model.transformer(features), features, atol=5e-5, rtol=0)
    shared = [p for p in model.transformer.localization.parameters() if p.dim() == 4]
    assert [p.data_ptr() for p in shared] == [model.classifier[0].weight.data_ptr()]


@pytest.mark.parametrize("architecture", WITH_TRANSFORMER)
def test_a_deep_localization_network_copies_layers_and_a_shared_one_shares_them(architecture):
    model = build(architecture)
    localization = list(model.transformer.localization.parameters())
    own = localization_parameters(model)
    others = [*model.stem.parameters(), *model.classifier.parameters()]
    assert len(own) + len(others) == len(list(model.parameters()))
    shared = int(architecture[-1]) if "sl" in architecture else 0
    assert len(localization) - len(own) == 2 * shared
    for mine, classifiers in zip(localization[: 2 * shared], others, strict=False):
        assert mine.data_ptr() == classifiers.data_ptr()
    if "dl" in architecture:
        first = [p for p in localization if p.dim() == 4][: int(architecture[-1])]
        convolutions = [p for p in model.classifier.parameters() if p.dim() == 4]
        for copy, original in zip(first, convolutions, strict=False):
            assert copy.shape == original.shape
            assert not torch.equal(copy, original)


def test_a_shared_layers_gradient_is_the_sum_of_both_its_uses():
    def gradient(model, layer):
        logits = model(torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)))
        return torch.autograd.grad(logits.square().sum(), layer.weight)[0]

    model = trained(build("stn-sl1")).double().eval()
    model.forward = lambda images: type(model).forward(model, images.double())
    together = gradient(model, model.classifier[0])
    apart = copy.deepcopy(model.classifier[0])
    model.transformer.localization[0] = apart
    torch.testing.assert_close(
        together, gradient(model, model.classifier[0]) + gradient(model, apart)
    )
    assert gradient(model, apart).abs().max() > 0


def test_the_cnn_has_no_transformer_and_takes_coordconv_into_its_own_layers():
    plain, coordconv = build("cnn"), build("cnn", "coordconv2d")
    assert plain.transformer is None
    assert localization_parameters(plain) == []
    assert parameters(plain) == 21_840
    assert parameters(coordconv) == 21_840 + 3 * 25 * (10 + 20)
    for question in (plain.matrix, plain.grid):
        with pytest.raises(ValueError, match="no transformer"):
            question(torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize(
    ("architecture", "channels"),
    [
        ("stn-c0", [4, 11]),
        ("stn-c1", [13]),
        ("stn-dl1", [4, 13]),
        ("stn-dl2", [4, 13]),
        ("stn-sl1", [1, 13]),
    ],
)
def test_coordconv_is_in_the_localization_networks_own_layers_alone(architecture, channels):
    model = build(architecture, "coordconv2d")
    localization = model.transformer.localization
    assert [p.shape[1] for p in localization.parameters() if p.dim() == 4] == channels
    others = [*model.stem.modules(), *model.classifier.modules()]
    assert not any(isinstance(layer, CoordConv2d) for layer in others)


@pytest.mark.parametrize("transform", AFFINE_FAMILY)
def test_iterations_compose_one_matrix_and_sample_the_original_once(mnist, transform):
    images = normalize("mnist", mnist[1].images[:8]).double()
    model = trained(build("stn-c0", transform=transform, transformer_iterations=3)).double()
    transformer = model.transformer
    product = torch.eye(3, dtype=torch.float64)
    warped = images
    for _ in range(3):
        step = matrix_function(transform)(transformer.localization(warped))
        product = product @ torch.cat([step, torch.tensor([[[0, 0, 1.0]]] * 8)], dim=1)
        grid = nn.functional.affine_grid(product[:, :2], images.shape, align_corners=False)
        warped = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(transformer.matrix(images), product[:, :2])
    torch.testing.assert_close(model.matrix(images), product[:, :2])
    torch.testing.assert_close(transformer(images), warped)
    transformer.iterations = 1
    assert not torch.allclose(transformer.matrix(images), product[:, :2], atol=1e-3)


@pytest.mark.parametrize(("architecture", "stride"), [("stn-c1", 2), ("stn-c2", 4)])
@pytest.mark.parametrize("network", ["tutorial", "paper"])
def test_a_feature_maps_shift_is_that_of_the_image_in_the_images_coordinates(
    mnist, architecture, stride, network
):
    """Moved by one of its pixels, the feature map is that of the image moved by the stride."""
    image = normalize("mnist", mnist[1].images[:1])
    model = build(architecture, network=network)
    features = model.stem(image)
    with torch.no_grad():
        model.transformer.localization[-1].bias[2] = 2 / features.shape[-1]
    expected = torch.tensor([[[1.0, 0, stride * 2 / 28], [0, 1, 0]]])
    torch.testing.assert_close(model.matrix(image), expected)
    moved = nn.functional.pad(image, (0, stride, 0, 0), mode="replicate")[..., stride:]
    torch.testing.assert_close(
        model.transformer(features)[..., :-1], model.stem(moved)[..., :-1], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("image_size", [28, 42])
@pytest.mark.parametrize("architecture", ["stn-sl1", "stn-c1", "stn-c2"])
def test_the_grid_in_the_image_is_its_matrix_times_the_frame(architecture, image_size):
    images = torch.randn(3, 1, image_size, image_size)
    model = trained(build(architecture, image_size=image_size, transformer_iterations=2))
    scale, shift = model.frame
    side = (torch.arange(5) * 2 + 1) / 5 - 1
    y, x = torch.meshgrid(scale * side + shift, scale * side + shift, indexing="ij")
    frame = torch.stack([x, y, torch.ones(5, 5)]).flatten(1)
    expected = (model.matrix(images) @ frame).mT.view(3, 5, 5, 2)
    torch.testing.assert_close(model.grid(images, 5), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "image_size", "frame"),
    [
        ("stn-c0", 28, (1, 0)),
        ("stn-dl2", 42, (1, 0)),
        ("stn-c1", 28, (24 / 28, 0)),
        ("stn-c2", 28, (16 / 28, 0)),
        # the second pooling drops the last row and column of 15, so the centre is at 20 of 21
        ("stn-c2", 42, (28 / 42, -1 / 21)),
    ],
)
def test_where_a_feature_map_lies_in_the_image(architecture, image_size, frame):
    assert build(architecture, image_size=image_size).frame == pytest.approx(frame)


@pytest.mark.parametrize("architecture", ["stn-sl1", "stn-c1"])
@pytest.mark.parametrize("transform", ["projective", "tps"])
def test_what_is_not_affine_has_a_grid_but_no_matrix(architecture, transform):
    images = torch.randn(2, 1, 28, 28)
    model = trained(build(architecture, transform=transform))
    assert model.grid(images, 40).shape == (2, 40, 40, 2)
    with pytest.raises(ValueError, match=f"{transform} has no affine matrix"):
        model.matrix(images)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_training_changes_every_weight(architecture, transform):
    torch.manual_seed(0)
    model = build(architecture, transform=transform, batch_norm="classifier")
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    images, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the first step reaches the localization network's last layer only
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weights in model.named_parameters():
        assert not torch.equal(weights, before[name]), name


def test_a_theta_beyond_use_counts_as_0_and_passes_no_gradient_back():
    model = build("stn-c0")
    bias = model.transformer.localization[-1].bias
    with torch.no_grad():
        bias[:3] = torch.tensor([float("nan"), -1e5, 9999.0])
    theta = model.transformer.theta(torch.randn(2, 1, 28, 28))
    assert theta[0, :3].tolist() == [0, 0, 9999]
    assert torch.autograd.grad(theta.sum(), bias)[0].tolist() == [0, 0, 2, 2, 2, 2]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("padding_mode", ["border", "zeros", "reflection"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e38])
def test_a_diverged_transformer_neither_crashes_nor_spreads(transform, padding_mode, value):
    iterations = 3 if TRANSFORMS[transform].matrix else 1
    model = build(padding_mode=padding_mode, transform=transform, transformer_iterations=iterations)
    with torch.no_grad():
        model.transformer.localization[-1].bias.fill_(value)
    images = torch.randn(4, 1, 28, 28)
    assert model.grid(images).isfinite().all()
    logits = model(images)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.classifier.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"architecture": "stn-c3"},
            r"architecture: got 'stn-c3'; allowed: cnn, stn-c0, .*stn-sl2",
        ),
        ({"conv_layer": "conv3d"}, "conv_layer: got 'conv3d'; allowed: conv2d, coordconv2d"),
        ({"transform": "afine"}, "transform: got 'afine'; allowed: affine, .*tps"),
        ({"network": "papers"}, "network: got 'papers'; allowed: tutorial, paper"),
        (
            {"network": "paper", "image_size": 42},
            "which has layers for images of 28, 60, 112 pixels, but these have 42",
        ),
        (
            {"transform": "tps", "transformer_iterations": 2},
            "transform: got 'tps' with 2 iterations; allowed: affine, translation, rotation, sim",
        ),
        ({"transform": "projective", "transformer_iterations": 3}, "got 'projective' with 3 iter"),
        ({"architecture": "stn-c2", "conv_layer": "coordconv2d"}, "stn-c2 in the tutorial network"),
        ({"architecture": "stn-sl2", "conv_layer": "coordconv2d"}, "no convolution of its own"),
        ({"network": "paper", "conv_layer": "coordconv2d"}, "stn-c0 in the paper network has no"),
        ({"image_size": 15}, "15 pixels are too few for the convolutions"),
        ({"sampler_size": 10}, "10 pixels are too few for the convolutions 5×5, 5×5"),
        ({"architecture": "stn-c2", "sampler_size": 1}, "sampler_size"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(wrong, message):
    with pytest.raises(PipelineError, match=message):
        build(**wrong)
