"""Image prompts: further keys and values for every cross-attention of the U-Net."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latentrt.engines.bundle.unet.added_inputs import KEYS, SCALES, VALUES, image_prompt_mask
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, UnetCall
from latentrt.runtime.denoiser.guider import Pass, Side
from latentrt.runtime.denoiser.steps import ActiveSteps

_Shape = tuple[tuple[Pass, ...], tuple[bool, ...], int]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttendedImages:
    """One image prompt as the U-Net takes it. Tokens of all its pictures lie side by side.

    Attributes:
        keys: (tokens, ΣC) of all cross-attentions, for the positive pass.
        values: likewise.
        negative: makes both for the negative pass, which not every run has; called once.
        scales: of each cross-attention.
        masks: by level, what each place's branch is multiplied by (h · w); None: by 1.
        steps: in which it counts.
    """

    keys: Array
    values: Array
    negative: Callable[[], tuple[Array, Array]]
    scales: tuple[float, ...]
    masks: Mapping[int, Array] | None
    steps: ActiveSteps

    def of_pass(self, which: Pass) -> tuple[Array, Array]:
        """Keys and values for a pass."""
        return self._negative if which.side.told is Side.NEGATIVE else (self.keys, self.values)

    @cached_property
    def _negative(self) -> tuple[Array, Array]:
        return self.negative()


class ImagePromptCondition:
    """All image prompts of a run, each with a softmax of its own. Where none counts, the U-Net is given nothing."""

    def __init__(self, prompts: Sequence[AttendedImages], tokens: int, levels: Sequence[int]) -> None:
        """Takes them.

        Args:
            prompts: of one run.
            tokens: a multiple of the tokens of each of them; those of a prompt with fewer are repeated, which changes
                nothing: a softmax over every token k times gives each the k-th part.
            levels: of the U-Net that have cross-attentions.
        """
        self._prompts, self._tokens, self._levels = prompts, tokens, levels
        self._made: dict[_Shape, dict[str, Array]] = {}

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing, as there may be steps without."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """Keys, values, scales and masks of the call's rows; nothing in a step in which no prompt counts."""
        counts = tuple(prompt.steps.at(call.level) for prompt in self._prompts)
        if not any(counts):
            return {}
        shape = (call.pass_of_each, counts, call.inputs[SAMPLE].shape[0])
        if shape not in self._made:
            self._made = {shape: self._rows(*shape), **dict(list(self._made.items())[:3])}  # a few parts of a batch
        return self._made[shape]

    def _rows(self, passes: tuple[Pass, ...], counts: tuple[bool, ...], batch: int) -> dict[str, Array]:
        """Those of a whole batch; rows that are of no meaning repeat the last."""
        passes = passes + passes[-1:] * (batch - len(passes))
        made = {which: self._packed(which) for which in dict.fromkeys(passes)}
        scales = np.array(
            [prompt.scales if counted else (0.0,) * len(prompt.scales) for prompt, counted in self._counted(counts)],
            np.float32,
        )
        rows = len(passes)
        found = {
            KEYS: np.stack([made[which][0] for which in passes]),
            VALUES: np.stack([made[which][1] for which in passes]),
            SCALES: np.repeat(scales[None], rows, 0),
        }
        if any(prompt.masks is not None for prompt in self._prompts):
            for level in self._levels:
                found[image_prompt_mask(level)] = np.repeat(self._masks(level)[None], rows, 0)
        for array in found.values():
            array.flags.writeable = False  # so engines on a device copy them there once, and not in every step
        return found

    def _counted(self, counts: tuple[bool, ...]) -> list[tuple[AttendedImages, bool]]:
        return list(zip(self._prompts, counts, strict=True))

    def _packed(self, which: Pass) -> tuple[Array, Array]:
        """Keys and values (prompts, tokens, ΣC) of a pass."""
        pairs = [prompt.of_pass(which) for prompt in self._prompts]
        keys, values = (
            np.stack([np.tile(pair[part], (self._tokens // len(pair[part]), 1)) for pair in pairs]) for part in (0, 1)
        )
        return keys, values

    def _masks(self, level: int) -> Array:
        """The masks (prompts, h · w) of a level."""
        some = next(prompt.masks[level] for prompt in self._prompts if prompt.masks is not None)
        return np.stack(
            [np.ones_like(some) if prompt.masks is None else prompt.masks[level] for prompt in self._prompts]
        )
