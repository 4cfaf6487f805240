"""A U-Net's graph with further inputs: left out, they change nothing; given, they do what the library does."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.graphs.variants.control import add_control_inputs
from latentrt.engines.graphs.variants.freeu import add_freeu_inputs
from latentrt.engines.graphs.variants.image_prompt import add_image_prompt_inputs
from latentrt.engines.graphs.variants.perturbed_attention import add_perturbed_attention_inputs
from latentrt.engines.shapes import AddedInputs

if TYPE_CHECKING:
    import onnx_ir as ir

Rewrite = Callable[["ir.Model", UnetStructure, bool], None]
"""Adds inputs to a graph in place; the flag says whether those that are left out have neutral defaults."""

_REWRITES: Mapping[AddedInputs, Rewrite] = {
    AddedInputs.CONTROL: add_control_inputs,
    AddedInputs.IMAGE_PROMPT: add_image_prompt_inputs,
    AddedInputs.PERTURBED_ATTENTION: add_perturbed_attention_inputs,
    AddedInputs.FREEU: add_freeu_inputs,
}


def add_inputs(
    model: "ir.Model", structure: UnetStructure, added: Collection[AddedInputs], *, optional: bool = True
) -> None:
    """Adds inputs to a U-Net's graph, in place; its weights stay where they are.

    One whose context is one token has no cross-attentions that image prompts could add to.

    Args:
        model: the graph of an exported U-Net in fp32, fp16 or int8.
        structure: the U-Net's.
        added: which inputs.
        optional: gives them neutral defaults, so that a caller may leave them out, as ONNX Runtime allows. Backends
            that make a constant of an input with a default want none.

    Raises:
        EngineError: a graph that is not built as the exporter builds it.
    """
    for which in AddedInputs:  # FreeU behind control: what is filtered are skips with their residuals
        if which in added and (which is not AddedInputs.IMAGE_PROMPT or structure.cross_attentions):
            _REWRITES[which](model, structure, optional)
