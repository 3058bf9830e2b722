import math

import torch

from pipeline.grids import affine_grid


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


def test_the_gradient_of_a_grid():
    theta = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: affine_grid(t, 3, 4), theta)
