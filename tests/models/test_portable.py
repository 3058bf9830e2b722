import pytest
import torch

from pipeline.data.mnist import MEAN, STD, normalize
from pipeline.models.portable import PortableModel
from pipeline.models.stn import build_model


@pytest.mark.parametrize("conv_layer", ["conv2d", "coordconv2d"])
@pytest.mark.parametrize("used_before", [True, False])
def test_raw_pixels_to_probabilities_in_any_batch_size_after_export(mnist, conv_layer, used_before):
    images = mnist[1].images[:20]
    network = build_model(conv_layer, "border", 0.5).eval()
    portable = PortableModel(network, MEAN, STD).eval().requires_grad_(False)
    if used_before:
        portable(images)
    dynamic = ({0: torch.export.Dim.AUTO},)
    exported = torch.export.export(portable, (images[:4],), dynamic_shapes=dynamic).module()
    with torch.no_grad():
        expected = network(normalize(images)).softmax(dim=1)
        for count in (1, 4, 20):
            torch.testing.assert_close(exported(images[:count]), expected[:count])
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(20))
