"""The network that the parameters of a run describe."""

import torch

from pipeline.data.datasets import DATASETS
from pipeline.models.build import build_model
from pipeline.models.conv_layers import is_own
from pipeline.models.layer_class import check_export
from pipeline.models.stn import SpatialTransformerNetwork
from pipeline.params import RunParams


def build_network(params: RunParams) -> SpatialTransformerNetwork:
    """A network with fresh weights, drawn from torch's global random state.

    Raises:
        PipelineError: if the parameters do not go together; see `models.build.build_model`.
    """
    return build_model(
        conv_layer=params.conv_layer,
        layer_settings=params.layer_settings,
        padding_mode=params.padding_mode,
        image_size=DATASETS[params.dataset].size,
        batch_norm=params.batch_norm,
        architecture=params.architecture,
        transform=params.transform,
        transformer_iterations=params.transformer_iterations,
        sampler_size=params.sampler_size,
        network=params.network,
    )


def check_network(params: RunParams) -> None:
    """Check that the network can be built, without advancing torch's random state.

    A network with a user's own layer must also be fit for export, because its model is registered.

    Raises:
        PipelineError: if the parameters do not go together, or the export is not possible.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(params)
        if is_own(params.conv_layer):
            check_export(network, params.conv_layer, DATASETS[params.dataset].size)
