"""Where the transformer sits in the network: the table of architectures, known without torch.

The names are those of arXiv:2004.11678. An architecture says how many convolutions of the
classifier come before the transformer, and how many its localization network begins with:

    stn-cX     X layers ──> transformer ──> the rest    stn-c0 warps the image, others feature maps
    stn-dlX                 transformer ──> all layers  localization begins with copies of X layers
    stn-slX                 transformer ──> all layers  localization begins with X of them, shared

To add an architecture, add its entry to `ARCHITECTURES`: the parameter `architecture` then allows
it, `build.build_model` builds it, and the tests of all members include it.
"""

from typing import NamedTuple


class Placement(NamedTuple):
    """Where a transformer sits; each number counts convolutions, with their pooling and ReLU.

    stem: the classifier's first convolutions, which come before the transformer.
    shared: the classifier's next convolutions, which the localization network begins with. The
        weights are the same in both.
    copied: the convolutions after those, of which the localization network has copies with weights
        of its own.
    """

    stem: int = 0
    shared: int = 0
    copied: int = 0

    @property
    def depth(self) -> int:
        """How many of the classifier's convolutions lie between the image and theta."""
        return self.stem + self.shared + self.copied


# None: there is no transformer
ARCHITECTURES: dict[str, Placement | None] = {
    "cnn": None,
    "stn-c0": Placement(),
    "stn-c1": Placement(stem=1),
    "stn-c2": Placement(stem=2),
    "stn-dl1": Placement(copied=1),
    "stn-dl2": Placement(copied=2),
    "stn-sl1": Placement(shared=1),
    "stn-sl2": Placement(shared=2),
}
