"""``bundle.json`` of an upscaler: a network that enlarges pictures by a whole number."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from latentrt.engines.bundle.kinds import UPSCALER
from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.shapes import Shapes

PICTURE, ENLARGED = "picture", "enlarged"
"""The names of its one input and its one output."""
SCALED_HEIGHT, SCALED_WIDTH = "scaled_height", "scaled_width"


class UpscalerManifest(ComponentsManifest):
    """All of an upscaler's ``bundle.json``. Its profiles are sizes of tiles, and its family is its architecture.

    Attributes:
        upscaler: how it was built: read as torch's weights, or of an ONNX file as it is.
        scale: how many pixels a side of one becomes; 1 for networks that restore pictures at their size.
        smallest: the shortest side in pixels that it takes.
    """

    upscaler: Literal["torch", "onnx"]
    scale: Annotated[int, Field(gt=0)]
    smallest: Annotated[int, Field(gt=0)] = 1

    @model_validator(mode="after")
    def _has_its_component(self) -> "UpscalerManifest":
        if set(self.components) != {UPSCALER}:
            raise ValueError("an upscaler without its component, or with others")
        record = self.components[UPSCALER]
        if set(record.inputs) != {PICTURE} or set(record.outputs) != {ENLARGED}:
            raise ValueError("an upscaler with other inputs or outputs than a picture each")
        return self

    def dimensions(self, shapes: Shapes) -> dict[str, int]:
        """The numbers behind the named dimensions."""
        width, height = shapes.profile.width, shapes.profile.height
        return {
            "height": height,
            "width": width,
            SCALED_HEIGHT: height * self.scale,
            SCALED_WIDTH: width * self.scale,
        }
