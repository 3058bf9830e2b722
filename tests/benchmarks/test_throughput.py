import subprocess
import sys

from tests.conftest import PROJECT

# in a process of its own, because use_torchs_layers replaces the layers for good
STEPS = """
import torch
from benchmarks.throughput import network, use_torchs_layers
from pipeline.models import pooled_product
from pipeline.params import RunParams

products = []

def count(*arguments):
    products.append(1)
    return as_it_is(*arguments)

def products_of_a_step(conv_layer):
    products.clear()
    network(RunParams(conv_layer=conv_layer))(torch.zeros(4, 1, 28, 28)).sum().backward()
    return len(products)

as_it_is = pooled_product._PooledProduct.apply
pooled_product._PooledProduct.apply = count
layers = "conv2d", "coordconv2d"
ours = [products_of_a_step(layer) for layer in layers]
use_torchs_layers()
torchs = [products_of_a_step(layer) for layer in layers]
print(min(ours) > 0, torchs)
"""


def test_the_column_of_torchs_layers_has_no_products_of_ours():
    done = subprocess.run(
        [sys.executable, "-c", STEPS], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True [0, 0]\n"
