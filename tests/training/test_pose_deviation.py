import numpy as np
import pytest

from pipeline.data.datasets import DATASETS
from pipeline.data.fixed_sets import fixed_set
from pipeline.training.pose_deviation import final_pose, pose_deviation

IDENTITY = np.array([1.0, 0, 0, 0, 1, 0])


def rotation(degrees: np.ndarray) -> np.ndarray:
    """The theta that shows an image rotated counter-clockwise, by hand."""
    cos, sin, zero = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0 * degrees
    return np.stack([cos, -sin, zero, sin, cos, zero], axis=1)


def case(dataset: str, count: int = 40_000):
    """Poses by the data set's law, the theta that takes them back, and its opposite; labels."""
    random = np.random.default_rng(0)
    one, zero = np.ones(count), np.zeros(count)
    if dataset in ("rotated", "rts"):
        poses = random.uniform(-90, 90, count)
        thetas = rotation(-poses), rotation(poses)
    elif dataset == "translated":
        poses = random.integers(-16, 17, (count, 2)).astype(float)
        thetas = tuple(
            np.stack([one, zero, s * poses[:, 0] / 30, zero, one, s * poses[:, 1] / 30], axis=1)
            for s in (1, -1)
        )
    else:
        octaves = random.uniform(-1, 2, count)
        poses = 2 * octaves
        factors = 2**octaves, 2**-octaves
        thetas = tuple(np.stack([f, zero, zero, zero, f, zero], axis=1) for f in factors)
    return poses, *thetas, random.integers(0, 10, count)


@pytest.mark.parametrize(
    ("dataset", "of_the_law"),
    [
        ("rotated", 180 / 12**0.5),
        ("translated", (2 * (33**2 - 1) / 12) ** 0.5),  # of two discrete uniform variables
        ("scaled", 6 / 12**0.5),
    ],
)
def test_the_pose_deviation_of_the_identity_is_that_of_the_perturbation(dataset, of_the_law):
    poses, back, further, labels = case(dataset)
    identity = np.tile(IDENTITY, (len(poses), 1))
    got = pose_deviation(dataset, poses=poses, theta=identity, labels=labels)
    assert got == pytest.approx(of_the_law, rel=0.01)
    assert pose_deviation(dataset, poses=poses, theta=back, labels=labels) == pytest.approx(
        0, abs=1e-6
    )
    if dataset != "rotated":  # where twice the angle is anywhere on the circle
        doubled = pose_deviation(dataset, poses=poses, theta=further, labels=labels)
        assert doubled == pytest.approx(2 * got)


def test_a_wrong_sign_doubles_the_deviation_of_rotations_that_fit_in_the_circle():
    poses, _, further, labels = case("rotated")
    identity = np.tile(IDENTITY, (len(poses), 1))
    small = pose_deviation("rts", poses=poses / 2, theta=identity, labels=labels)
    double = pose_deviation("rts", poses=poses / 2, theta=rotation(poses / 2), labels=labels)
    assert double == pytest.approx(2 * small)
    anywhere = pose_deviation("rotated", poses=poses, theta=further, labels=labels)
    assert anywhere == pytest.approx(360 / 12**0.5, rel=0.02)


def test_a_pose_that_each_digit_has_for_itself_is_no_deviation_also_at_180_degrees():
    labels = np.repeat([3, 8], 3)
    poses = np.array([178.0, -178, 180, 20, 22, 24])
    identity = np.tile(IDENTITY, (6, 1))
    of_each = np.std([-2, 2, 0]), np.std([20, 22, 24])
    got = pose_deviation("rotated", poses=poses, theta=identity, labels=labels)
    assert got == pytest.approx(np.mean(of_each))


def test_the_deviations_of_the_digits_are_averaged_and_those_of_x_and_y_combined():
    identity = np.tile(IDENTITY, (4, 1))
    poses = np.array([[3.0, 4], [-3, -4], [10, 0], [10, 0]])  # 5 pixels about one place; none
    got = pose_deviation("translated", poses=poses, theta=identity, labels=np.array([0, 0, 1, 1]))
    assert got == pytest.approx(2.5)


def test_rotation_and_scale_do_not_disturb_each_other():
    # 30° counter-clockwise and twice as large, by the inverse of theta
    theta = rotation(np.array([30.0])) / 2
    theta[:, [2, 5]] = 0.4
    assert final_pose("rotated", poses=np.array([10.0]), theta=theta) == pytest.approx(40)
    assert final_pose("scaled", poses=np.array([1.0]), theta=theta) == pytest.approx(3)


def test_a_unit_of_theta_is_half_the_width_of_the_image():
    theta = np.array([[1, 0, 0.5, 0, 1, -0.25]])
    poses = np.array([[15.0, -7.5]])
    assert final_pose("translated", poses=poses, theta=theta) == pytest.approx(0)


def test_a_transformer_that_flips_or_flattens_the_image_has_a_finite_deviation():
    theta = np.array([[-1.0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    for dataset in ("rotated", "scaled"):
        deviation = pose_deviation(dataset, poses=np.zeros(3), theta=theta, labels=np.zeros(3))
        assert np.isfinite(deviation)
    assert final_pose("scaled", poses=np.zeros(3), theta=theta)[0] == 0


def test_a_data_set_without_a_pose_is_refused():
    with pytest.raises(ValueError, match="got 'elastic', which has no pose; allowed: rotated"):
        final_pose("elastic", poses=np.zeros(1), theta=IDENTITY[None])


@pytest.mark.parametrize("dataset", [name for name, entry in DATASETS.items() if entry.pose])
def test_the_identity_leaves_every_pose_as_it_is(some_digits, dataset):
    train, test = some_digits
    poses = fixed_set(dataset, test, train.images).pose.numpy()
    identity = np.tile(IDENTITY, (len(poses), 1))
    changed = final_pose(dataset, poses=poses, theta=identity) - poses
    if (period := DATASETS[dataset].pose.period) is not None:
        changed = (changed + period / 2) % period - period / 2
    np.testing.assert_allclose(changed, 0, atol=1e-4)
    assert pose_deviation(dataset, poses=poses, theta=identity, labels=test.labels.numpy()) > 0
    alike = np.broadcast_to(poses[:1], poses.shape)
    deviation = pose_deviation(dataset, poses=alike, theta=identity, labels=test.labels.numpy())
    assert deviation == pytest.approx(0, abs=1e-4)
