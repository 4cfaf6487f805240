"""An upscaler as a component: a picture in [0, 1], enlarged by a whole number."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from latentrt.engines.bundle.records.component import TensorRecord
from latentrt.engines.bundle.records.manifests.upscaler_manifest import ENLARGED, PICTURE, SCALED_HEIGHT, SCALED_WIDTH
from latentrt.engines.shapes import Profile
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.tracing.onnx_export import Graph


class UpscalerModule(ComponentModule):
    """picture (1, 3, H, W) in [0, 1] → enlarged (1, 3, H · scale, W · scale), which may leave [0, 1] a little."""

    checkpoint_names: ClassVar[Mapping[str, str]] = {"net.": ""}

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor]:
        """The network's picture."""
        return (self.net(picture),)


def upscaler_graph(multiple: int) -> Graph:
    """Inputs and outputs of a graph that takes every size.

    Args:
        multiple: what the sides of pictures must be multiples of.
    """
    return Graph(
        inputs={PICTURE: _picture("height", "width")},
        outputs={ENLARGED: _picture(SCALED_HEIGHT, SCALED_WIDTH)},
        multiples={"height": multiple, "width": multiple},
    )


def fixed_upscaler_graph(size: Profile, scale: int) -> Graph:
    """Inputs and outputs of a graph that takes one size alone."""
    return Graph(
        inputs={PICTURE: _picture(size.height, size.width)},
        outputs={ENLARGED: _picture(size.height * scale, size.width * scale)},
        multiples={},
    )


def _picture(height: int | str, width: int | str) -> TensorRecord:
    """One picture: tiles go through one by one, and of networks with windows a batch of any size cannot be traced."""
    return TensorRecord(shape=(1, 3, height, width), dtype="float32")
