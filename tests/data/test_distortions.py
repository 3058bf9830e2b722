import math
import re
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from pipeline.data import distortions
from pipeline.data.datasets import DATASETS, ROTATION
from pipeline.data.distortions import Distorted, distort
from pipeline.errors import PipelineError
from pipeline.grids import CONTROL_POINTS, CORNERS, affine_grid, affine_theta
from pipeline.training.pose_deviation import final_pose

NO_CLUTTER = torch.zeros(1, 1, 28, 28)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The image between its pixels, bilinearly and black outside; x and y are normalized."""
    size = len(image)
    rows, columns = (y + 1) * size / 2 - 0.5, (x + 1) * size / 2 - 0.5
    return ndimage.map_coordinates(image, [rows, columns], order=1, mode="grid-constant")


def pixel_centers(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(size) + 0.5) * 2 / size - 1
    return np.meshgrid(line, line)


@pytest.mark.parametrize("dataset", DATASETS)
def test_distorted_images_have_their_size_and_follow_the_seed(mnist, dataset):
    train, test = mnist
    images, pose = distort(dataset, test.images[:32], train.images, generator=seeded())
    size = DATASETS[dataset].size
    assert images.shape == (32, 1, size, size)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    again = distort(dataset, test.images[:32] / 255, train.images / 255, generator=seeded())
    assert torch.equal(again.images, images)
    assert pose is None or torch.equal(again.pose, pose)
    torch.manual_seed(7)
    from_global = distort(dataset, test.images[:32], train.images)
    torch.manual_seed(7)
    assert torch.equal(distort(dataset, test.images[:32], train.images).images, from_global.images)
    assert torch.equal(images, from_global.images) == (DATASETS[dataset].distort is None)
    if pose is not None:
        assert pose.dtype == torch.float32
        assert len(pose) == 32


def test_a_data_set_that_does_not_exist_is_refused():
    with pytest.raises(PipelineError, match="got 'sheared'; allowed: mnist, rotated"):
        distort("sheared", NO_CLUTTER, NO_CLUTTER)


ROTATED = DATASETS["rotated"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (replace(ROTATED, size=30), "shape (4, 1, 28, 28), but by its entry"),
        (replace(ROTATED, pose=None), "must return a pose if its entry"),
        (replace(DATASETS["elastic"], pose=ROTATION), "must return a pose if its entry"),
        (replace(ROTATED, distort="pipeline.data.distortions:absent"), ":absent was not found"),
        (replace(ROTATED, distort="pipeline.data.absent:rotated"), "No module named"),
        (
            replace(ROTATED, pose=replace(ROTATION, after="pipeline.data.final_poses:absent")),
            ":absent was not found",
        ),
    ],
)
def test_an_entry_that_does_not_fit_its_function_is_told_at_the_first_batch(
    monkeypatch, entry, message
):
    if entry.size == 30:  # a function that does not heed the size
        monkeypatch.setattr(distortions, "rotated", lambda digits, **_: Distorted(digits, None))
    monkeypatch.setitem(DATASETS, "other", entry)
    with pytest.raises(PipelineError, match=f"data set other: .*{re.escape(message)}"):
        distort("other", torch.zeros(4, 1, 28, 28), NO_CLUTTER)


def test_mnist_is_left_as_it_is(mnist):
    images = mnist[1].images[:8]
    assert torch.equal(distort("mnist", images, NO_CLUTTER).images, images / 255)


def test_a_rotated_digit_is_scipys_rotation_by_its_pose(mnist):
    digits = mnist[1].images[:64]
    images, degrees = distort("rotated", digits, NO_CLUTTER, generator=seeded())
    for digit, image, angle in zip(digits, images, degrees, strict=True):
        # counter-clockwise, as np.rot90
        expected = ndimage.rotate(
            digit[0] / 255.0, float(angle), reshape=False, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(image[0], expected, atol=1e-4)


def test_a_rotated_digit_rotated_back_by_its_pose_is_upright(mnist):
    digits = mnist[1].images[:200]
    images, degrees = distort("rotated", digits, NO_CLUTTER, generator=seeded())
    zero = torch.zeros(200)
    theta = affine_theta(
        angle=degrees.deg2rad(), shear=zero, scale=zero + 1, shift=torch.zeros(200, 2)
    )
    back = torch.nn.functional.grid_sample(images, affine_grid(theta, 28, 28), align_corners=False)
    error = (back - digits / 255).square().flatten(1).mean(1).sqrt()
    assert error.max() < 0.15  # two bilinear samplings blur
    turned = (images - digits / 255).square().flatten(1).mean(1).sqrt()
    assert turned[degrees.abs() > 60].min() > 0.15


def test_the_theta_that_restores_a_digit_leaves_no_pose_by_the_metric(mnist):
    digits = mnist[1].images[:50] / 255
    zero, one, still = torch.zeros(50), torch.ones(50), torch.zeros(50, 2)
    padded = {size: torch.nn.functional.pad(digits, [(size - 28) // 2] * 4) for size in (60, 112)}
    for dataset, upright, error in (("rotated", digits, 0.1), ("translated", padded[60], 0.01)):
        images, pose = distort(dataset, digits, NO_CLUTTER, generator=seeded())
        if dataset == "rotated":
            theta = affine_theta(angle=pose.deg2rad(), shear=zero, scale=one, shift=still)
        else:
            theta = affine_theta(angle=zero, shear=zero, scale=one, shift=-pose / 30)
        size = images.shape[-1]
        grid = affine_grid(theta, size, size)
        restored = torch.nn.functional.grid_sample(images, grid, align_corners=False)
        assert (restored - upright).square().mean().sqrt() < error
        left = final_pose(dataset, poses=pose.numpy(), theta=theta.numpy())
        np.testing.assert_allclose(left, 0, atol=1e-4)
    images, pose = distort("scaled", digits, NO_CLUTTER, generator=seeded())
    theta = affine_theta(angle=zero, shear=zero, scale=(-pose / 2).exp2(), shift=still)
    grid = affine_grid(theta, 112, 112)
    restored = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    larger = pose > 0  # else there are too few pixels to restore it from
    assert (restored - padded[112])[larger].square().mean().sqrt() < 0.05
    left = final_pose("scaled", poses=pose.numpy(), theta=theta.numpy())
    np.testing.assert_allclose(left, 0, atol=1e-4)


def test_a_dot_lands_where_its_pose_says():
    digits = torch.zeros(300, 1, 28, 28)
    digits[:, :, 13:15, 20:22] = 1  # centre: 7 pixels right of the digit's
    images, degrees = distort("rotated", digits, NO_CLUTTER, generator=seeded())
    x, y = center_of_mass(images)
    torch.testing.assert_close(x, 7 * degrees.deg2rad().cos(), atol=0.1, rtol=0)
    torch.testing.assert_close(y, -7 * degrees.deg2rad().sin(), atol=0.1, rtol=0)
    images, shift = distort("translated", digits, NO_CLUTTER, generator=seeded())
    torch.testing.assert_close(
        torch.stack(center_of_mass(images), dim=1), shift + torch.tensor([7, 0])
    )
    images, octaves = distort("scaled", digits, NO_CLUTTER, generator=seeded())
    x, y = center_of_mass(images)
    # a dot of one pixel or two, where the digit is half as large
    torch.testing.assert_close(x, 7 * (octaves / 2).exp2(), atol=0.25, rtol=0)
    torch.testing.assert_close(y, torch.zeros(300), atol=0.25, rtol=0)


def center_of_mass(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels to the right of and below the image's centre."""
    line = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    mass = images.sum((1, 2, 3))
    return (images.sum((1, 2)) @ line) / mass, (images.sum((1, 3)) @ line) / mass


def test_a_translated_digit_is_whole_and_unchanged(mnist):
    digits = mnist[1].images[:256]
    images, shift = distort("translated", digits, NO_CLUTTER, generator=seeded())
    for digit, image, (x, y) in zip(digits, images, shift.int() + 16, strict=True):
        expected = torch.zeros(60, 60)
        expected[y : y + 28, x : x + 28] = digit[0] / 255
        assert torch.equal(image[0], expected)


def test_a_scaled_digit_is_scipys_zoom_by_its_pose(mnist):
    digits = mnist[1].images[:32].clone()
    # only there it matters that the reference fades a border pixel out, and ours repeats it
    digits[..., [0, -1], :], digits[..., [0, -1]] = 0, 0
    images, octaves = distort("scaled", digits, NO_CLUTTER, generator=seeded())
    for digit, image, factor in zip(digits, images, (octaves / 2).exp2(), strict=True):
        x, y = pixel_centers(112)
        expected = sampled(digit[0] / 255.0, x * 4 / float(factor), y * 4 / float(factor))
        np.testing.assert_allclose(image[0], expected, atol=1e-4)


def test_a_digit_of_rts_is_scipys_similarity(mnist, monkeypatch):
    seen = []

    def record(**motion):
        seen.append(motion)
        return affine_theta(**motion)

    monkeypatch.setattr(distortions, "affine_theta", record)
    digits = mnist[1].images[:32]
    images, degrees = distort("rts", digits, NO_CLUTTER, generator=seeded())
    factors, shifts = seen[0]["scale"], seen[0]["shift"]
    for i, digit in enumerate(digits):
        # in pixels from the centres: back from the place, the turn, the factor
        x, y = (21 * (c - float(s)) for c, s in zip(pixel_centers(42), shifts[i], strict=True))
        angle = math.radians(degrees[i])
        turned = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        source = [c / float(factors[i]) / 14 for c in turned]
        np.testing.assert_allclose(images[i, 0], sampled(digit[0] / 255.0, *source), atol=1e-4)


def uniform(values: torch.Tensor, low: float, high: float) -> bool:
    assert low <= values.min()
    assert values.max() <= high
    return stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-4


def test_poses_follow_their_laws():
    digits = torch.zeros(20_000, 1, 28, 28)
    assert uniform(distort("rotated", digits, NO_CLUTTER, generator=seeded()).pose, -90, 90)
    assert uniform(distort("rts", digits, NO_CLUTTER, generator=seeded()).pose, -45, 45)
    octaves = [
        distort("scaled", part, NO_CLUTTER, generator=seeded(i)).pose
        for i, part in enumerate(digits.split(1000)[:5])
    ]
    assert uniform(torch.cat(octaves), -2, 4)
    shift = distort("translated", digits[:10_000], NO_CLUTTER, generator=seeded()).pose
    for values in shift.T:
        counts = torch.bincount(values.int() + 16)
        assert len(counts) == 33
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert abs(np.corrcoef(shift.T)[0, 1]) < 0.05


def test_rts_scales_and_places_uniformly(monkeypatch):
    seen = []

    def record(**motion):
        seen.append(motion)
        return affine_theta(**motion)

    monkeypatch.setattr(distortions, "affine_theta", record)
    distort("rts", torch.zeros(20_000, 1, 28, 28), NO_CLUTTER, generator=seeded())
    factor, shift = seen[0]["scale"], seen[0]["shift"]
    assert uniform(factor, 0.7, 1.2)
    assert uniform(21 * shift.flatten(), -7, 7)  # pixels


def recorded(monkeypatch, dataset: str, grid: str) -> torch.Tensor:
    """The points, in pixels from the centre, of 20,000 grids."""
    seen = []
    original = getattr(distortions, grid)

    def record(points, *size):
        seen.append(points)
        return original(points[:1], *size).expand(len(points), -1, -1, -1)

    monkeypatch.setattr(distortions, grid, record)
    distort(dataset, torch.zeros(20_000, 1, 28, 28), NO_CLUTTER, generator=seeded())
    return 14 * seen[0]


def along_and_across(points: torch.Tensor, places) -> tuple[torch.Tensor, torch.Tensor]:
    """Components in the direction of each place from the centre, and at right angles to it."""
    towards = torch.nn.functional.normalize(torch.as_tensor(places), dim=1)
    across = torch.stack([-towards[:, 1], towards[:, 0]], dim=1)
    return (points * towards).sum(2), (points * across).sum(2)


def test_corners_move_by_a_normal_distribution_and_stay_convex(monkeypatch):
    corners = recorded(monkeypatch, "projective", "homography_grid")
    along, across = along_and_across(corners, CORNERS)
    # 0.875 of the way to the corner, and 5 pixels about that, a little less for those not convex
    torch.testing.assert_close(
        along.mean(0), torch.full((4,), 14 * 2**0.5 * 0.875), rtol=0.04, atol=0
    )
    torch.testing.assert_close(across.mean(0), torch.zeros(4), rtol=0, atol=0.2)
    torch.testing.assert_close(across.std(0), torch.full((4,), 5.0), rtol=0.05, atol=0)
    turns = [
        np.cross(b - a, c - b)
        for a, b, c in (
            [np.pad(corners[:, (i + j) % 4].numpy(), ((0, 0), (0, 1))) for j in range(3)]
            for i in range(4)
        )
    ]
    assert (np.array(turns)[..., 2] > 0).all()


def test_control_points_move_by_a_normal_distribution(monkeypatch):
    moves = recorded(monkeypatch, "elastic", "tps_grid").view(-1, 2, 16).mT
    control = CONTROL_POINTS.float()
    along, across = along_and_across(14 * control + moves, control)
    # of the digit before it was scaled: divided by a uniform factor f, of which the means of
    # 1 / f and 1 / f² are log(4 / 3) / 0.25 and 4 / 3
    distance = 14 * control.norm(dim=1)
    torch.testing.assert_close(along.mean(0), distance * math.log(4 / 3) / 0.25, rtol=0, atol=0.1)
    torch.testing.assert_close(across.mean(0), torch.zeros(16), rtol=0, atol=0.08)
    torch.testing.assert_close(across.std(0), torch.full((16,), 3**0.5), rtol=0.02, atol=0)


def test_clutter_is_six_squares_anywhere_on_the_image():
    black, white = torch.zeros(6000, 1, 28, 28), torch.ones(1, 1, 28, 28)
    images, _ = distort("translated", black, white, generator=seeded())
    area = images.sum((1, 2, 3))
    assert area.max() == 6 * 6 * 6
    assert (area == 216).float().mean() > 0.3  # where none lies on another
    first = images[area == 216][0, 0].numpy()
    assert ndimage.label(first)[1] <= 6
    shares = images.mean(0)[0]
    assert shares[0, 0] > 0
    assert shares[59, 59] > 0
    # each place of a square is as likely: 36 of the 55² cover a pixel of the middle
    expected = 1 - (1 - 36 / 55**2) ** 6
    assert shares[10:50, 10:50].mean() == pytest.approx(expected, rel=0.02)


def test_clutter_of_scaled_digits_is_scaled_alike():
    black, white = torch.zeros(1000, 1, 28, 28), torch.ones(1, 1, 28, 28)
    images, _ = distort("scaled", black, white, generator=seeded())
    assert images.flatten(1).sum(1).max() <= 6 * 25**2
    # squares that touch no other, by their sides; both sides to a pixel, whose centre counts
    sides = []
    for image in images[:, 0]:
        for rows, columns in ndimage.find_objects(ndimage.label(image > 0)[0]):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            if image[rows, columns].min() == 1 and abs(height - width) <= 1:
                sides.append((height, width))
    sides = np.array(sides)
    assert len(sides) > 3000
    assert 3 <= sides.min() <= 4
    assert 23 <= sides.max() <= 25
    # half of them on either side of 6 × 2^0.5; larger ones overlap a little more often
    assert 0.5 < (sides[:, 0] < 6 * 2**0.5).mean() < 0.6


@pytest.mark.parametrize("dataset", ["translated", "scaled"])
def test_clutter_is_cut_from_the_clutter_images_and_added(dataset):
    values = torch.tensor([0.1, 0.3, 0.45])
    clutter = values.view(3, 1, 1, 1).expand(3, 1, 28, 28)
    black, white = torch.zeros(300, 1, 28, 28), torch.ones(300, 1, 28, 28)
    images, _ = distort(dataset, black, clutter, generator=seeded())
    found, counts = images.mul(1000).round().div(1000).unique(return_counts=True)
    for value in (0.0, *values.tolist()):
        assert counts[(found - value).abs() < 1e-6].sum() > 1000
    sums = {
        round(float(sum(p)), 3)
        for n in range(7)
        for p in combinations_with_replacement(values.tolist(), n)
    }
    assert {round(float(v), 3) for v in found} <= {min(v, 1.0) for v in sums}
    covered, _ = distort(dataset, white, clutter, generator=seeded())
    alone, _ = distort(dataset, white, NO_CLUTTER, generator=seeded())
    torch.testing.assert_close(covered[alone == 1], torch.ones(int((alone == 1).sum())))


def test_cuttings_are_6_by_6_pixels_of_an_image():
    # the grey of a pixel tells its place in the image, and a cutting is a part of it
    line = torch.arange(28.0)
    ramp = (1 + line[:, None] * 28 + line).div(2000)[None, None]
    images, _ = distort("translated", torch.zeros(200, 1, 28, 28), ramp, generator=seeded())
    seen = set()
    for image in images[:, 0]:
        for rows, columns in ndimage.find_objects(ndimage.label(image > 0)[0]):
            square = image[rows, columns]
            place = round(float(square[0, 0]) * 2000) - 1
            row, column = divmod(place, 28)
            whole = ramp[0, 0, row : row + 6, column : column + 6]
            if square.shape == whole.shape == (6, 6) and torch.allclose(square, whole):
                seen.add((row, column))
    rows, columns = np.array(sorted(seen)).T
    assert len(seen) > 300
    assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (0, 22)
