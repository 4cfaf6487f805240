"""The inputs of image prompts."""

from typing import TYPE_CHECKING

from latentrt.engines.bundle.unet_structure import UnetStructure

if TYPE_CHECKING:
    import onnx_ir as ir


def add_image_prompt_inputs(model: "ir.Model", structure: UnetStructure, optional: bool) -> None:
    """Adds ``image_prompt_keys`` and what belongs to them to a U-Net's graph, in place."""
    raise NotImplementedError
