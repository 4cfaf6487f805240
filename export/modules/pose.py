"""A camera's pose and a picture's embedding as one token (Liu et al. 2023, arXiv 2303.11328)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from latentrt.engines.bundle.unet.net_inputs import IMAGE_EMBEDS, POSE
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.tracing.onnx_export import Graph, batch_record

POSE_NUMBERS = 4


class PoseProjection(nn.Linear):
    """A picture's embedding, with the pose behind it, projected to the width of the embedding."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PoseProjection":
        """Of the sizes that a checkpoint's tensors have."""
        return cls(config["in_features"], config["out_features"])


class PoseModule(ComponentModule):
    """image_embeds (B, width), pose (B, 4) → encoder_hidden_states (B, 1, width)."""

    checkpoint_names: ClassVar[Mapping[str, str]] = {"projection.": ""}

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, image_embeds: torch.Tensor, pose: torch.Tensor) -> tuple[torch.Tensor]:
        """The token."""
        return (self.projection(torch.cat([image_embeds, pose], 1))[:, None],)


def pose_graph(width: int) -> Graph:
    """Inputs and outputs."""
    return Graph(
        inputs={IMAGE_EMBEDS: batch_record("float32", width), POSE: batch_record("float32", POSE_NUMBERS)},
        outputs={"encoder_hidden_states": batch_record("float32", 1, width)},
        multiples={},
    )
