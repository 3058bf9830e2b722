"""The table of data sets: MNIST's digits as they are, or each in a random pose.

`DATASETS` holds everything that the pipeline knows about a data set: the allowed values of the
parameter `dataset`, image sizes, normalization, test sets, and the pose metric with its unit all
come from it. To add a data set, write a function in `distortions.py` and an entry here; see
docs/extending.md.

The table names functions as text, `module:function`, so that reading it does not import torch.
"""

from dataclasses import dataclass

from pipeline.errors import PipelineError

DIGIT = 28  # pixels, the side of an MNIST image


@dataclass(frozen=True)
class Pose:
    """A kind of pose, such as a rotation, and how it is measured and printed.

    Attributes:
        after: `module:function`, which computes the pose of each digit after a transformer; see
            `final_poses.py`.
        unit: printed in tables, such as `px`.
        decimals: printed in tables.
        period: for angles, the full circle in that unit; None for other poses.
    """

    after: str
    unit: str
    decimals: int
    period: float | None = None

    def __post_init__(self) -> None:
        _check_function(self.after)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set.

    Attributes:
        description: what happens to a digit, for the documentation.
        distort: `module:function`, which shows a batch of digits in random poses; see
            `distortions.py`. None leaves the digits as they are.
        size: side of the images in pixels.
        mean, std: mean and standard deviation of the pixels, scaled to [0, 1], over the 60,000
            training images, each distorted once. They normalize the images; see
            `batches.normalize`.
        test_copies: how many times the test set holds each test image, each time in another pose.
        pose: the kind of pose that `distort` returns for each digit; None if it returns none.

    Raises:
        ValueError: if a value is out of its range.
    """

    description: str
    distort: str | None
    size: int = DIGIT
    mean: float
    std: float
    test_copies: int = 1
    pose: Pose | None = None

    def __post_init__(self) -> None:
        if self.distort is None:
            if self.size != DIGIT or self.test_copies != 1 or self.pose is not None:
                raise ValueError(f"digits as they are have {DIGIT} pixels, one copy and no pose")
        else:
            _check_function(self.distort)
        if self.size < DIGIT:
            raise ValueError(f"size: got {self.size}; allowed: an integer >= {DIGIT}")
        if not 0 < self.mean < 1:
            raise ValueError(f"mean: got {self.mean}; allowed: a number > 0 and < 1")
        if not 0 < self.std <= 0.5:
            raise ValueError(f"std: got {self.std}; allowed: a number > 0 and <= 0.5")
        if self.test_copies < 1:
            raise ValueError(f"test_copies: got {self.test_copies}; allowed: an integer >= 1")


def _check_function(text: str) -> None:
    module, colon, function = text.partition(":")
    if not (colon and function.isidentifier() and module.replace(".", "").isidentifier()):
        raise ValueError(f"got {text!r}; write module:function")


ROTATION = Pose("pipeline.data.final_poses:rotation", unit="°", decimals=1, period=360)
TRANSLATION = Pose("pipeline.data.final_poses:translation", unit="px", decimals=2)
SCALE = Pose("pipeline.data.final_poses:log_area", unit="log2 area", decimals=3)

# The default data set. Names of runs and aliases of models leave it out.
PLAIN = "mnist"

# Sizes: arXiv:2004.11678 for rotated, translated and scaled digits, arXiv:1506.02025 for rts. The
# latter gives no size for projective and elastic digits. Their digits are at most as large as the
# original, which leaves a margin for what the distortion moves outwards; so the size is that of
# the original images.
#
# Test copies: the authors of arXiv:2004.11678 evaluate ten times in their code, each time on the
# whole test set in new poses; arXiv:1506.02025 does not mention copies.
#
# Means and standard deviations were measured here. (The authors of arXiv:2004.11678 note in their
# code that they measured 0.1302 and 0.2892 for rotated, 0.0394 and 0.1798 for translated digits.)
DATASETS = {
    "mnist": DataSet(
        description="nothing",
        distort=None,
        mean=0.1307,
        std=0.3081,
    ),
    "rotated": DataSet(
        description="rotated by up to 90° in either direction",
        distort="pipeline.data.distortions:rotated",
        mean=0.1306,
        std=0.2898,
        test_copies=10,
        pose=ROTATION,
    ),
    "translated": DataSet(
        description="put at a random place, among six 6×6 patches of other digits",
        distort="pipeline.data.distortions:translated",
        size=60,
        mean=0.0394,
        std=0.1797,
        test_copies=10,
        pose=TRANSLATION,
    ),
    "scaled": DataSet(
        description="scaled by 0.5 to 4 in the middle of the image, among six patches scaled "
        "by the same law",
        distort="pipeline.data.distortions:scaled",
        size=112,
        mean=0.0429,
        std=0.1779,
        test_copies=10,
        pose=SCALE,
    ),
    "rts": DataSet(
        description="rotated by up to 45° in either direction, scaled by 0.7 to 1.2, and put at a "
        "random place",
        distort="pipeline.data.distortions:rotated_scaled_translated",
        size=42,
        mean=0.0536,
        std=0.1961,
        pose=ROTATION,
    ),
    "projective": DataSet(
        description="shrunk by up to a quarter, then its four corners moved at random",
        distort="pipeline.data.distortions:projective",
        mean=0.0884,
        std=0.2454,
    ),
    "elastic": DataSet(
        description="shrunk by up to a quarter, then 16 control points of a thin plate spline "
        "moved at random",
        distort="pipeline.data.distortions:elastic",
        mean=0.1001,
        std=0.2590,
    ),
}


def look_up(dataset: str) -> DataSet:
    """The entry of `DATASETS` with that name.

    Raises:
        PipelineError: if there is none.
    """
    if dataset not in DATASETS:
        raise PipelineError(f"dataset: got {dataset!r}; allowed: {', '.join(DATASETS)}")
    return DATASETS[dataset]
