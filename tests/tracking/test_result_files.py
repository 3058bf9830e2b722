"""The files of earlier runs have these formats, so they must not change."""

import io

import numpy as np
from numpy.testing import assert_array_equal

from pipeline.tracking.result_files import (
    Poses,
    confusion_from_csv,
    confusion_to_csv,
    poses_from_npz,
    poses_to_npz,
    predictions_from_csv,
    predictions_to_csv,
)


def test_predictions_have_a_line_for_each_image():
    labels, predicted = np.array([7, 2, 1]), np.array([7, 3, 1])
    text = predictions_to_csv(labels, predicted)
    assert text == "label,predicted\n7,7\n2,3\n1,1\n"
    assert_array_equal(predictions_from_csv(text), (labels, predicted))


def test_a_confusion_matrix_names_its_rows_and_columns():
    confusion = np.arange(100).reshape(10, 10)
    text = confusion_to_csv(confusion)
    lines = text.splitlines()
    assert lines[0] == "true\\predicted,0,1,2,3,4,5,6,7,8,9"
    assert lines[3] == "2,20,21,22,23,24,25,26,27,28,29"
    assert len(lines) == 11
    assert_array_equal(confusion_from_csv(text), confusion)


def test_poses_are_arrays_without_pickle():
    poses = Poses(
        before=np.full((8, 28, 28), 1, np.uint8),
        after=np.full((8, 14, 14), 2, np.uint8),
        outline=np.full((8, 57, 2), 0.5, np.float32),
        warps_image=False,
    )
    content = poses_to_npz(poses)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert set(arrays) == {"before", "after", "outline", "warps_image"}
        assert arrays["after"].dtype == np.uint8
    read = poses_from_npz(content)
    assert_array_equal(read.before, poses.before)
    assert_array_equal(read.after, poses.after)
    assert_array_equal(read.outline, poses.outline)
    assert read.warps_image is False
