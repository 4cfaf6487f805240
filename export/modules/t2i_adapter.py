"""A T2I-Adapter as a component: what it adds to the U-Net's down blocks, once per picture."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from latentrt.engines.bundle.records.manifests.latents_manifest import level_dimensions
from latentrt.engines.bundle.unet.added_inputs import feature
from latentrt.engines.bundle.unet.net_inputs import PICTURE
from latentrt.engines.bundle.unet.structure import Plane
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.modules.pictures import as_trained
from latentrt.export.tracing.onnx_export import Graph, batch_record


class FeaturesModule(ComponentModule):
    """picture (B, 3, H, W) in [0, 1] → feature_0, feature_1, …, one for each down block."""

    checkpoint_names: ClassVar[Mapping[str, str]] = {"net.": ""}

    def __init__(self, net: Any) -> None:
        super().__init__()
        self._channels = net.config.in_channels
        self.net = net

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The features."""
        return tuple(self.net(as_trained(picture, self._channels)))


def features_graph(planes: Sequence[Plane], factors: tuple[int, int], unshuffled: int) -> Graph:
    """Inputs and outputs.

    Args:
        planes: of the features.
        factors: by which the latents are smaller than pictures, in height and width.
        unshuffled: how many pixels of a side become channels.
    """
    deepest = max(plane.level for plane in planes)
    multiples = (max(unshuffled, factor << deepest) for factor in factors)
    return Graph(
        inputs={PICTURE: batch_record("float32", 3, "height", "width")},
        outputs={
            feature(index): batch_record("float32", plane.channels, *level_dimensions(plane.level))
            for index, plane in enumerate(planes)
        },
        multiples=dict(zip(("height", "width"), multiples, strict=True)),
    )
