import math

import kornia.geometry as kornia
import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from pipeline.grids import (
    CONTROL_POINTS,
    CORNERS,
    affine_grid,
    affine_theta,
    compose,
    homography_grid,
)
from pipeline.models.transforms import TRANSFORMS, matrix_function, sampling_grid

AFFINE_FAMILY = [name for name, kind in TRANSFORMS.items() if kind.matrix is not None]


def centers(height, width):
    """The pixel centres (x, y), as float64 and one by one."""
    rows = [(2 * row + 1) / height - 1 for row in range(height)]
    columns = [(2 * column + 1) / width - 1 for column in range(width)]
    return torch.tensor([[[x, y] for x in columns] for y in rows], dtype=torch.float64)


def near_identity(transform, count=3, spread=0.2):
    identity = torch.tensor(TRANSFORMS[transform].identity, dtype=torch.float64)
    torch.manual_seed(1)
    return identity + spread * torch.randn(count, len(identity), dtype=torch.float64)


@pytest.mark.parametrize(
    ("transform", "parameters"),
    [
        ("affine", 6),
        ("translation", 2),
        ("rotation", 1),
        ("similarity", 4),
        ("projective", 8),
        ("tps", 32),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(28, 28), (13, 30)])
def test_the_identity_is_exact(transform, parameters, height, width):
    identity = torch.tensor(TRANSFORMS[transform].identity)
    assert identity.shape == (parameters,)
    grid = sampling_grid(transform, identity.expand(2, -1), height, width)
    expected = centers(height, width).float().expand(2, -1, -1, -1)
    torch.testing.assert_close(grid, expected, atol=6e-8, rtol=0)  # half a step of float32 at 1


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_gradient_of_a_grid(transform):
    theta = near_identity(transform).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: sampling_grid(transform, t, 3, 4), theta)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_is_kept_of_a_grid_serves_evaluation_training_and_other_types(transform):
    theta = torch.tensor([TRANSFORMS[transform].identity])
    with torch.inference_mode():
        expected = sampling_grid(transform, theta, 3, 5)
    grid = sampling_grid(transform, theta.requires_grad_(), 3, 5)
    torch.testing.assert_close(grid, expected)
    assert torch.autograd.grad(grid.sum(), theta)[0].isfinite().all()
    torch.testing.assert_close(sampling_grid(transform, theta.double(), 3, 5).float(), expected)
    centers = torch.tensor([[-2 / 3, -0.8], [0, -0.8], [2 / 3, -0.8]])  # of 5 rows and 3 columns
    torch.testing.assert_close(sampling_grid(transform, theta, 5, 3)[0, 0], centers)


def test_an_affine_grid_is_the_matrix_times_the_pixel_centres():
    angle = math.radians(30)
    theta = torch.tensor(
        [[1.2 * math.cos(angle), -math.sin(angle), 0.3, math.sin(angle), math.cos(angle), -0.1]],
        dtype=torch.float64,
    )
    grid = affine_grid(theta, 4, 6)
    assert grid.shape == (1, 4, 6, 2)
    for row in range(4):
        for column in range(6):
            x, y = (2 * column + 1) / 6 - 1, (2 * row + 1) / 4 - 1
            expected = theta.view(2, 3) @ torch.tensor([x, y, 1.0], dtype=torch.float64)
            torch.testing.assert_close(grid[0, row, column], expected)


def test_an_affine_grid_is_torchs():
    theta = near_identity("affine")
    expected = torch.nn.functional.affine_grid(theta.view(-1, 2, 3), [3, 1, 5, 7], False)
    torch.testing.assert_close(affine_grid(theta, 5, 7), expected)
    torch.testing.assert_close(affine_grid(theta.view(-1, 2, 3), 5, 7), expected)


def homogeneous(matrix):
    """`(N, 2, 3)` to `(N, 3, 3)`."""
    last = torch.tensor([[[0, 0, 1.0]]], dtype=matrix.dtype).expand(len(matrix), 1, 3)
    return torch.cat([matrix, last], dim=1)


@pytest.mark.parametrize("transform", AFFINE_FAMILY)
def test_the_grid_of_the_affine_family_is_kornias(transform):
    theta = near_identity(transform)
    matrix = homogeneous(matrix_function(transform)(theta))
    points = centers(5, 7).view(1, 35, 2).expand(3, -1, -1)
    expected = kornia.linalg.transform_points(matrix, points).view(3, 5, 7, 2)
    torch.testing.assert_close(sampling_grid(transform, theta, 5, 7), expected)


def test_the_restricted_matrices():
    def matrix(transform, *theta):
        return matrix_function(transform)(torch.tensor([theta], dtype=torch.float64))

    def expected(*rows):
        return torch.tensor([rows], dtype=torch.float64)

    angle = math.radians(30)
    cos, sin = math.cos(angle), math.sin(angle)
    torch.testing.assert_close(
        matrix("translation", 0.2, -0.3), expected([1.0, 0, 0.2], [0, 1, -0.3])
    )
    torch.testing.assert_close(matrix("rotation", angle), expected([cos, -sin, 0], [sin, cos, 0]))
    torch.testing.assert_close(
        matrix("similarity", 1.5 * cos, 1.5 * sin, 0.2, -0.3),
        expected([1.5 * cos, -1.5 * sin, 0.2], [1.5 * sin, 1.5 * cos, -0.3]),
    )


def test_a_quarter_turn_shows_the_picture_turned_counterclockwise():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    grid = sampling_grid("rotation", torch.tensor([[math.pi / 2]]), 3, 3)
    turned = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(turned, torch.rot90(image, 1, (2, 3)), atol=1e-5, rtol=0)


def test_a_projective_grid_is_kornias():
    theta = near_identity("projective", spread=0.1)
    matrix = torch.cat([theta, torch.ones(3, 1, dtype=torch.float64)], dim=1).view(-1, 3, 3)
    points = centers(5, 7).view(1, 35, 2).expand(3, -1, -1)
    expected = kornia.linalg.transform_points(matrix, points).view(3, 5, 7, 2)
    torch.testing.assert_close(sampling_grid("projective", theta, 5, 7), expected)


@pytest.mark.parametrize("tilt", [2.0, -1.5, 1e4])
def test_a_projective_grid_stays_finite_at_its_horizon_and_beyond(tilt):
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0, tilt, 0]], requires_grad=True)
    for width in (2, 7):  # of 2, with a tilt of 2, one column lies on the horizon
        grid = sampling_grid("projective", theta, 3, width)
        (gradient,) = torch.autograd.grad(grid.square().sum(), theta)
        assert grid.isfinite().all()
        assert gradient.isfinite().all()
    beyond = 1 + tilt * centers(3, 7)[..., 0] <= 0
    assert beyond.any()
    assert (grid[0, ..., 0].abs()[beyond] > 100).all()


def test_a_thin_plate_spline_is_scipys():
    theta = near_identity("tps")
    grid = sampling_grid("tps", theta, 5, 7)
    for displacement, got in zip(theta.view(3, 2, 16).mT, grid, strict=True):
        spline = RBFInterpolator(
            CONTROL_POINTS, CONTROL_POINTS + displacement, kernel="thin_plate_spline"
        )
        expected = torch.from_numpy(spline(centers(5, 7).view(35, 2))).view(5, 7, 2)
        torch.testing.assert_close(got, expected)


def test_a_thin_plate_spline_of_an_affine_motion_is_that_motion():
    affine = near_identity("affine", count=2)
    moved = CONTROL_POINTS @ affine.view(2, 2, 3)[..., :2].mT + affine.view(2, 2, 3)[:, None, :, 2]
    theta = (moved - CONTROL_POINTS).mT.flatten(1)
    torch.testing.assert_close(sampling_grid("tps", theta, 5, 7), affine_grid(affine, 5, 7))


@pytest.mark.parametrize(
    ("angle", "shear", "scale", "shift"),
    [
        (30, 0, 1, (0, 0)),
        (0, 20, 1, (0, 0)),
        (0, 0, 1.4, (0, 0)),
        (0, 0, 1, (3, -2)),
        (-40, 15, 0.8, (2, 5)),
    ],
)
def test_an_affine_theta_is_torchvisions(mnist, angle, shear, scale, shift):
    images = mnist[1].images[:8].float()
    theta = affine_theta(
        angle=torch.full((8,), math.radians(angle)),
        shear=torch.full((8,), math.radians(shear)),
        scale=torch.full((8,), float(scale)),
        shift=torch.tensor(shift).expand(8, 2) * 2 / 28,
    )
    got = torch.nn.functional.grid_sample(
        images, affine_grid(theta, 28, 28), padding_mode="zeros", align_corners=False
    )
    expected = affine(images, angle, list(shift), scale, [shear, 0.0], InterpolationMode.BILINEAR)
    # torchvision rounds its matrix; half a grey level of 255
    torch.testing.assert_close(got, expected, atol=0.5, rtol=0)


def test_a_homography_is_numpys_and_shows_the_corners_where_it_was_told():
    corners = np.array([[-0.9, -0.6], [0.7, -1.1], [1.2, 0.8], [-0.5, 0.6]])
    original = np.array(CORNERS)
    # the null vector of x' × H x = 0 at each corner (direct linear transformation)
    equations = []
    for (x, y), (u, v) in zip(corners, original, strict=True):
        equations.append([x, y, 1, 0, 0, 0, -u * x, -u * y, -u])
        equations.append([0, 0, 0, x, y, 1, -v * x, -v * y, -v])
    matrix = np.linalg.svd(np.array(equations))[2][-1].reshape(3, 3)
    at_corners = matrix @ np.vstack([corners.T, np.ones(4)])
    np.testing.assert_allclose(at_corners[:2] / at_corners[2], original.T, atol=1e-9)
    x, y = centers(20, 28).numpy().transpose(2, 0, 1)
    u, v, w = np.einsum("ij,jrc->irc", matrix, np.stack([x, y, np.ones_like(x)]))
    expected = np.clip(np.stack([u / w, v / w], axis=2), -2, 2)
    batch = torch.tensor(np.stack([original, corners]), dtype=torch.float32)
    identity, got = homography_grid(batch, 20, 28)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(identity, np.stack([x, y], axis=2), atol=1e-6)


def test_composing_is_multiplying_homogeneous_matrices():
    outer, inner = (near_identity("affine", spread=s).view(-1, 2, 3) for s in (0.2, 0.5))
    composed = homogeneous(compose(outer, inner))
    torch.testing.assert_close(composed, homogeneous(outer) @ homogeneous(inner))


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        sampling_grid("affin", torch.zeros(1, 6), 3, 3)
