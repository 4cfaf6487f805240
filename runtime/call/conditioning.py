"""What the U-Net is told in a run, and how a caller's callback changes it on the way."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import as_array
from latentrt.runtime.call.guidance.guidance import Guidance
from latentrt.runtime.denoiser.conditions.condition import Condition
from latentrt.runtime.denoiser.conditions.text import EMBEDS, TextCondition, fixed_text
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE, Guider
from latentrt.runtime.sampling.schedule import Level


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """The prompts, the guidance and everything else. Never changes; changing makes another.

    ``guider`` is the run's, which ``guidance`` made.
    """

    text: TextCondition
    guidance: Guidance
    guider: Guider
    others: tuple[Condition, ...]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What the denoiser takes."""
        return (self.text, *self.guidance.conditions(), *self.others)

    def embeds(self, name: str, level: Level | None = None) -> Array | None:
        """A new array of what the U-Net is told at a level, by one of ``EMBEDS``; None where there is none.

        As in diffusers, what concerns the prompts begins with the negatives while guidance runs.
        """
        which, of = EMBEDS[name]
        sides = [NEGATIVE, POSITIVE] if which is POSITIVE and self.guidance.guides else [which]
        arrays = [rows[of] for side in sides if of in (rows := self.text.rows(side, level))]
        return np.concatenate(arrays) if arrays else None

    def with_embeds(self, name: str, value: Any) -> "Conditioning":
        """This one with other embeddings from now on: (N, …), or (2 · N, …) where the negatives come first.

        Raises:
            RequestError: another shape, or values that are not finite.
        """
        which, of = EMBEDS[name]
        kept = self.text.rows(POSITIVE)[of]
        array = as_array(value, name)
        count = len(kept)
        counts = (count, 2 * count) if which is POSITIVE else (count,)
        if array.ndim == 0 or len(array) not in counts or array.shape[1:] != kept.shape[1:]:
            wanted = " or ".join(map(str, counts))
            raise RequestError(
                f"callback_on_step_end returned {name} {array.shape}, expected {wanted} rows of {kept.shape[1:]}; keep "
                "the shape"
            )
        try:
            floats = array.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise RequestError(f"callback_on_step_end returned {name} that are no numbers; return an array") from error
        if not np.isfinite(floats).all():
            raise RequestError(f"callback_on_step_end returned {name} with NaN or infinity, expected finite values")
        sides = {which: floats} if len(array) == count else {NEGATIVE: floats[:count], POSITIVE: floats[count:]}
        of_pass = self.text.of_pass
        changed = {
            side: of_pass[side].with_rows(of, rows) if side in of_pass else fixed_text({of: rows})
            for side, rows in sides.items()
        }
        return replace(self, text=replace(self.text, of_pass={**of_pass, **changed}))

    def with_scale(self, scale: float) -> "Conditioning":
        """This one with another weight of guidance at all steps."""
        steps = self.guidance.steps.with_scale(scale)
        return replace(self, guidance=replace(self.guidance, steps=steps), guider=replace(self.guider, steps=steps))

    def check(self) -> None:
        """Refuses guidance away from nothing.

        Raises:
            RequestError: guidance of a run that began without, and no negatives.
        """
        positive, negative = self.text.rows(POSITIVE), self.text.rows(NEGATIVE)
        lacking = [
            name for name, (which, of) in EMBEDS.items() if which is NEGATIVE and of in positive and of not in negative
        ]
        if lacking and self.guidance.guides:
            raise RequestError(
                f"callback_on_step_end began to guide a run without guidance, expected {' and '.join(lacking)} with "
                "it; return these, too, or give guidance_scale as a list with a number above 1 for the later steps"
            )
