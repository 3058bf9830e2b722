import subprocess
import sys
from dataclasses import replace
from pkgutil import resolve_name

import pytest

from pipeline.data.datasets import DATASETS, PLAIN, ROTATION, Pose, look_up
from pipeline.errors import PipelineError
from tests.conftest import PROJECT


@pytest.mark.parametrize("dataset", DATASETS)
def test_an_entry_names_functions_that_exist(dataset):
    entry = DATASETS[dataset]
    for name in filter(None, (entry.distort, entry.pose and entry.pose.after)):
        assert callable(resolve_name(name))


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_documentation_has_the_row_of_an_entry(dataset):
    entry = DATASETS[dataset]
    row = f"| `{dataset}` | {entry.size}×{entry.size} | {entry.description} |"
    pages = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
    assert any(row in page.read_text() for page in pages), f"missing: {row}"


def test_the_default_data_set_is_the_digits_as_they_are():
    assert DATASETS[PLAIN].distort is None


def test_the_table_is_known_without_torch():
    code = "import sys, pipeline.params; assert not {'torch', 'mlflow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distort": "rotated"}, "got 'rotated'; write module:function"),
        ({"distort": "pipeline.data.distortions:"}, "write module:function"),
        ({"distort": None}, "digits as they are have 28 pixels, one copy and no pose"),
        ({"size": 20}, "size: got 20; allowed: an integer >= 28"),
        ({"mean": 33.3}, "mean: got 33.3; allowed: a number > 0 and < 1"),
        ({"std": 0}, "std: got 0; allowed: a number > 0 and <= 0.5"),
        ({"test_copies": 0}, "test_copies: got 0; allowed: an integer >= 1"),
    ],
)
def test_a_wrong_value_is_refused_when_the_table_is_read(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(DATASETS["rotated"], **wrong)


def test_a_pose_names_a_function():
    with pytest.raises(ValueError, match="got 'rotation'; write module:function"):
        Pose("rotation", unit="°", decimals=1)
    assert ROTATION.period == 360


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(PipelineError, match="got 'sheared'; allowed: mnist, rotated, translated"):
        look_up("sheared")
