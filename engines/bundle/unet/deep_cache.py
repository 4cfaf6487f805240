"""DeepCache in a U-Net: which of its features a call may keep, and what graphs call them.

Ma et al. 2023, arXiv 2312.00858. What the last up block's layers take changes little from one call to the next. A whole
call keeps one such feature. A shallow one takes it in the place of all that is below, and computes branch layers of the
first down block and one more of the last up block: branch 0 goes from the first convolution to the last layer.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.bundle.unet.added_inputs import plane_size
from latentrt.engines.bundle.unet.structure import Plane
from latentrt.engines.spec import BATCH, EngineSpec, TensorSpec

if TYPE_CHECKING:
    from latentrt.engines.bundle.unet.structure import UnetStructure


def deep_feature(branch: int) -> str:
    """The output of whole calls and input of shallow ones: (batch, C, h, w), as the engine computes it."""
    return f"deep_feature_{branch}"


def branch_count(structure: "UnetStructure") -> int:
    """How many branches there are: as many as the last up block has layers."""
    return structure.up[-1].resnets


def kept_plane(structure: "UnetStructure", branch: int) -> Plane:
    """What a branch keeps: the block's own plane before it is joined to a skip."""
    *before, last = structure.up
    below = before[-1].channels if before else structure.middle.channels
    return Plane(channels=below if branch == last.resnets - 1 else last.channels, level=last.level)


def kept_feature(
    structure: "UnetStructure", branch: int, spec: EngineSpec, dtype: "np.dtype[Any] | None" = None
) -> dict[str, TensorSpec]:
    """The feature of a branch at the size that a U-Net's engine is opened for.

    Args:
        structure: the U-Net's.
        branch: which.
        spec: of the engine.
        dtype: of its numbers; None: float32.
    """
    plane = kept_plane(structure, branch)
    height, width = spec.inputs["sample"].sized(1)[2:]
    shape = (BATCH, plane.channels, *plane_size((height, width), plane.level))
    return {deep_feature(branch): TensorSpec(shape=shape, dtype=dtype or np.dtype("float32"))}
