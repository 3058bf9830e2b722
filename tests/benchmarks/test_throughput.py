import subprocess
import sys

import pytest

from tests.conftest import PROJECT

STEP = """
import sys
import torch
from benchmarks.throughput import network, use_torchs_layers
from pipeline.models import pooled_product
from pipeline.params import RunParams

def refuse(*arguments):
    raise AssertionError("a product")

pooled_product._PooledProduct.apply = refuse
if sys.argv[2] == "torch's":
    use_torchs_layers()
network(RunParams(conv_layer=sys.argv[1]))(torch.zeros(4, 1, 28, 28)).sum().backward()
"""


@pytest.mark.parametrize(
    "conv_layer", ["coordconv2d", pytest.param("conv2d", marks=pytest.mark.slow)]
)
def test_the_column_of_torchs_layers_has_no_products_of_ours(conv_layer):
    ended = [
        subprocess.run(
            [sys.executable, "-c", STEP, conv_layer, whose],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        for whose in ("ours", "torch's")
    ]
    assert "AssertionError: a product" in ended[0].stderr
    assert ended[1].returncode == 0, ended[1].stderr
