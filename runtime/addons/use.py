"""What a call adds to the U-Net, whatever it is."""

from collections.abc import Mapping
from typing import Any, Protocol

from latentrt.engines.shapes import Profile, Shapes
from latentrt.runtime.denoiser.conditions.condition import Condition


class AddonUse(Protocol):
    """All control nets of a call, or all T2I-Adapters, or all image prompts: checked, and not opened yet."""

    def opened_for(self, shapes: Shapes) -> Shapes:
        """What the U-Net's engine must be opened for, so that it takes what is added."""
        ...

    def condition(self, profile: Profile, count: int) -> Condition:
        """What the U-Net is told of it: engines are opened, and what is made once is made.

        Args:
            profile: of the pictures.
            count: N, how many are drawn.

        Raises:
            EngineError: no engine fits.
        """
        ...

    def metadata(self) -> Mapping[str, Any]:
        """What a picture's metadata say of it."""
        ...
