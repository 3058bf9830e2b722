"""The files of earlier runs have these formats, so they must not change."""

import io

import numpy as np
import pytest
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
from tests.conftest import poses_file


def test_predictions_have_a_line_for_each_image():
    labels, predicted = np.array([7, 2, 1]), np.array([7, 3, 1])
    text = predictions_to_csv(labels, predicted)
    assert text == "label,predicted\n7,7\n2,3\n1,1\n"
    assert_array_equal(predictions_from_csv(text.encode()), (labels, predicted))


def test_a_confusion_matrix_names_its_rows_and_columns():
    confusion = np.arange(100).reshape(10, 10)
    text = confusion_to_csv(confusion)
    lines = text.splitlines()
    assert lines[0] == "true\\predicted,0,1,2,3,4,5,6,7,8,9"
    assert lines[3] == "2,20,21,22,23,24,25,26,27,28,29"
    assert len(lines) == 11
    assert_array_equal(confusion_from_csv(text.encode()), confusion)


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


@pytest.mark.parametrize(
    ("read", "content", "reason"),
    [
        (predictions_from_csv, b"label,predicted\n\xff,1\n", "not UTF-8 text"),
        (predictions_from_csv, b"label,predicted\n1,x\n", "no table of integers"),
        (predictions_from_csv, b"label,predicted\n1,%d\n" % 10**30, "no table of integers"),
        (predictions_from_csv, b"", "no table of 2 columns"),
        (confusion_from_csv, b"a\n1,2\n", "no table of 11 columns"),
        (confusion_from_csv, b"a\n" + 10 * b"-1,0,0,0,0,0,0,0,0,0,-1\n", "no table of counts"),
        (poses_from_npz, b"garbage", "no archive of poses"),
        (poses_from_npz, poses_file()[:-100], "no archive of poses"),
        (poses_from_npz, poses_file(size=2000), "no archive of poses"),
        (poses_from_npz, poses_file(size=0), "arrays are no poses"),
    ],
)
def test_a_file_that_is_damaged_is_refused_with_the_reason(read, content, reason):
    with pytest.raises(ValueError, match=reason):
        read(content)


def test_no_file_is_unpickled():
    file = io.BytesIO()
    arrays = dict.fromkeys(("before", "after", "outline", "warps_image"), np.array([print]))
    np.savez(file, **arrays)  # NumPy pickles an array of objects
    with pytest.raises(ValueError, match="no archive of poses"):
        poses_from_npz(file.getvalue())
