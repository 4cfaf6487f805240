"""What a call adds to the U-Net, whatever it is."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from latentrt.engines.shapes import Shapes
from latentrt.runtime.denoiser.conditions.condition import Condition
from latentrt.runtime.pictures.crop import Crop


class AddonUse(Protocol):
    """All control nets of a call, or all T2I-Adapters, or all image prompts: checked, and not opened yet.

    What a call changes in the U-Net itself is one, too: perturbed attentions, FreeU.
    """

    def opened_for(self, shapes: Shapes) -> Shapes:
        """What the U-Net's engine must be opened for, so that it takes what is added."""
        ...

    def condition(self, shapes: Shapes, count: int, crops: Sequence[Crop]) -> Condition:
        """What the U-Net is told of it: engines are opened, and what is made once is made.

        Args:
            shapes: of the U-Net's engine, but for what is added.
            count: N, how many pictures are drawn.
            crops: which parts of their pictures they are, where those are cropped: one for all, or one for each.

        Raises:
            EngineError: no engine fits.
            RequestError: a picture of another size, or shapes that were not compiled.
        """
        ...

    def metadata(self) -> Mapping[str, Any]:
        """What a picture's metadata say of it."""
        ...
