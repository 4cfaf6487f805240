"""The inputs that a U-Net's graph takes beside its own: their names, shapes and neutral values.

Names and shapes are here, for everyone; ``engines/graphs/variants/`` puts them into a graph.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.choices import choice
from latentrt.engines.shapes import AddedInputs, Shapes
from latentrt.engines.spec import BATCH, TensorSpec

if TYPE_CHECKING:
    from latentrt.engines.bundle.unet.structure import Block, Plane, UnetStructure

MID_RESIDUAL = "mid_residual"
KEYS, VALUES, SCALES = "image_prompt_keys", "image_prompt_values", "image_prompt_scales"
PERTURBED_ATTENTIONS = "perturbed_attentions"
FREEU_BACKBONE, FREEU_SKIPS = "freeu_backbone", "freeu_skips"
FREEU_MODES = 7
"""The constant, and a cosine and a sine along the height, along the width and along both."""

FIXED_IMAGE_PROMPTS, FIXED_IMAGE_TOKENS = 2, 16
"""How many image prompts, and of how many tokens, engines of fixed shapes take.

Sixteen are the Resampler's; the four of the first adapters are repeated, which changes no softmax.
"""


def down_residual(index: int) -> str:
    """What a control net adds to a skip, by its place in ``UnetStructure.skips``."""
    return f"down_residual_{index}"


def previous(residual: str) -> str:
    """What a control net takes of the nets before it: their sum, to which it adds its own residual."""
    return f"previous_{residual}"


def feature(index: int) -> str:
    """What a T2I-Adapter adds to a down block's result."""
    return f"feature_{index}"


def image_prompt_mask(level: int) -> str:
    """Where image prompts count, for the cross-attentions of a level."""
    return f"image_prompt_mask_{level}"


def freeu_modes(block: int) -> str:
    """The modes of FreeU's low frequencies, for the planes of an up block."""
    return f"freeu_modes_{block}"


def freeu_blocks(structure: "UnetStructure") -> "tuple[Block, ...]":
    """The up blocks that FreeU is for: the first two."""
    return structure.up[:2]


def feature_planes(structure: "UnetStructure") -> "tuple[Plane, ...]":
    """Where a T2I-Adapter's features are added (diffusers' ``down_intrablock_additional_residuals``).

    A block with cross-attention takes its feature behind its last layer, before its downsampler; a plain block behind
    all of it. One that is left over is for the mid block's result, if it has its size: SDXL's fourth.
    """
    from latentrt.engines.bundle.unet.structure import Plane  # plain drawing needs none of it

    planes = [
        Plane(channels=block.channels, level=block.level + (block.resamples and not block.attentions))
        for block in structure.down
    ]
    return (*planes, structure.middle) if structure.mid.resnets else tuple(planes)


def added_inputs(structure: "UnetStructure", shapes: Shapes, size: tuple[int, int]) -> dict[str, TensorSpec]:
    """The inputs that engines opened for ``shapes.added`` take beside the U-Net's own. All are float32.

    - ``down_residual_<i>``, ``mid_residual`` (batch, C, h, w): of control nets, all of them summed and scaled.
    - ``feature_<i>`` (batch, C, h, w): of T2I-Adapters, likewise.
    - ``image_prompt_keys``, ``image_prompt_values`` (batch, prompts, tokens, ΣC): of every image prompt, for all
      cross-attentions side by side in the order of ``UnetStructure.cross_attentions``.
    - ``image_prompt_scales`` (batch, prompts, cross-attentions): what each branch is multiplied by.
    - ``image_prompt_mask_<level>`` (batch, prompts, h · w): and at each place of the level's planes.
    - ``perturbed_attentions`` (batch, self-attentions): 1 where the result is the values alone, in the order of
      ``UnetStructure.self_attentions``.
    - ``freeu_backbone`` (batch, blocks): what half of the first two up blocks' own channels are multiplied by, b.
    - ``freeu_skips`` (batch, blocks): and the lowest frequencies of what is joined to them, s.
    - ``freeu_modes_<block>`` (batch, modes, h · w): these frequencies as orthonormal rows, Φ (see ``graphs/variants``).

    Args:
        structure: the U-Net's.
        shapes: what the engine is opened for.
        size: height and width of the latents.
    """
    tensors = {}
    if AddedInputs.CONTROL in shapes.added:
        for index, plane in enumerate(structure.skips):
            tensors[down_residual(index)] = _of_plane(plane, size)
        tensors[MID_RESIDUAL] = _of_plane(structure.middle, size)
        for index, plane in enumerate(feature_planes(structure)):
            tensors[feature(index)] = _of_plane(plane, size)
    if AddedInputs.IMAGE_PROMPT in shapes.added and structure.cross_attentions:
        prompts, width = shapes.image_prompts, sum(one.width for one in structure.cross_attentions)
        packed = _neutral((prompts, shapes.image_tokens, width), 0.0)
        tensors |= {KEYS: packed, VALUES: packed, SCALES: _neutral((prompts, len(structure.cross_attentions)), 0.0)}
        for level in attended_levels(structure):
            height, width = plane_size(size, level)
            tensors[image_prompt_mask(level)] = _neutral((prompts, height * width), 1.0)
    if AddedInputs.PERTURBED_ATTENTION in shapes.added:
        tensors[PERTURBED_ATTENTIONS] = _neutral((len(structure.self_attentions),), 0.0)
    if AddedInputs.FREEU in shapes.added:
        blocks = freeu_blocks(structure)
        tensors |= dict.fromkeys((FREEU_BACKBONE, FREEU_SKIPS), _neutral((len(blocks),), 1.0))
        for index, block in enumerate(blocks):
            height, width = plane_size(size, block.level)
            tensors[freeu_modes(index)] = _neutral((FREEU_MODES, height * width), 0.0)
    return tensors


def attended_levels(structure: "UnetStructure") -> tuple[int, ...]:
    """The levels that have cross-attentions, ascending."""
    return tuple(sorted({one.level for one in structure.cross_attentions}))


def added_text(added: Collection[AddedInputs]) -> str:
    """Their names as one argument: ``control,image-prompt``."""
    return ",".join(which.value for which in AddedInputs if which in added)


def added_from_texts(texts: str | Iterable[str]) -> frozenset[AddedInputs]:
    """Those that a text or several name, separated by commas.

    Raises:
        RequestError: an unknown name.
    """
    names = [name.strip() for text in ((texts,) if isinstance(texts, str) else texts) for name in text.split(",")]
    return frozenset(choice(AddedInputs, name, "added input") for name in names)


def added_of(names: Iterable[str]) -> frozenset[AddedInputs]:
    """Which of them a graph's inputs hold, by their names."""
    present = set(names)
    told: Mapping[AddedInputs, str] = {
        AddedInputs.CONTROL: MID_RESIDUAL,
        AddedInputs.IMAGE_PROMPT: KEYS,
        AddedInputs.PERTURBED_ATTENTION: PERTURBED_ATTENTIONS,
        AddedInputs.FREEU: FREEU_BACKBONE,
    }
    return frozenset(added for added, name in told.items() if name in present)


def _of_plane(plane: "Plane", size: tuple[int, int]) -> TensorSpec:
    return _neutral((plane.channels, *plane_size(size, plane.level)), 0.0)


def plane_size(size: tuple[int, int], level: int) -> tuple[int, int]:
    """A plane's height and width behind so many downsamplers: each is a convolution of stride 2 with padding 1."""
    height, width = size
    for _ in range(level):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def _neutral(rest: tuple[int, ...], value: float) -> TensorSpec:
    return TensorSpec(shape=(BATCH, *rest), dtype=np.dtype("float32"), neutral=value)
