"""What happens after every model call: the caller sees what the run is told, and may change it or end the run."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import as_array
from latentrt.runtime.call.conditioning import Conditioning
from latentrt.runtime.call.delivery import DENOISED, GUIDANCE_SCALE, LATENTS, refuse_unknown
from latentrt.runtime.call.request import Request
from latentrt.runtime.checks import number
from latentrt.runtime.denoiser.conditions.text import EMBEDS
from latentrt.runtime.denoiser.denoiser import AnyDenoiser
from latentrt.runtime.sampling.run import Interrupt, Update


class StepCallbacks:
    """Tells a call's caller of every update, who may change x and the conditioning, or end the run."""

    def __init__(
        self,
        pipeline: Any,
        request: Request,
        denoiser: AnyDenoiser,
        conditioning: Conditioning,
        *,
        before: int = 0,
        after: int = 0,
    ) -> None:
        """Takes the run's denoiser, and what it was made of; ``before`` and ``after`` are model calls of other runs."""
        self._pipeline, self._request = pipeline, request
        self._denoiser, self._conditioning = denoiser, conditioning
        self._before = before
        self._after = after

    @cached_property
    def _total(self) -> int:
        return self._before + len(self._request.sampling.levels) + self._after

    def on_step(self, update: Update) -> Array | None:
        """The x to go on with; None where nobody changed it.

        Raises:
            Interrupt: the callback did, or who watches.
            RequestError: what the callback returned cannot go on.
        """
        x: Array | None = None
        delivery = self._request.delivery
        try:
            if delivery.watcher is not None:
                delivery.watcher(self._before + update.index + 1, self._total, self._tensor(DENOISED, update))
            if delivery.callback is not None:
                x = self._called(update)
            if delivery.progress is not None:
                delivery.progress(self._before + update.index + 1, self._total)
        except Interrupt as interrupt:
            latents = interrupt.latents
            raise Interrupt(x if latents is None else latents_from_callback(update.x, latents)) from None
        return x

    def _called(self, update: Update) -> Array | None:
        """Calls the callback; what it returned counts, and what it left in the mapping that it was given.

        One that never asked for the latents leaves them where they are.
        """
        delivery = self._request.delivery
        assert delivery.callback is not None  # the caller saw to it; for the type checker
        tensors = {name: self._tensor(name, update) for name in delivery.tensors}
        returned = delivery.callback(self._pipeline, self._before + update.index, update.level.timestep, tensors)
        if returned is not None and not isinstance(returned, Mapping):
            raise RequestError(
                f"callback_on_step_end returned {type(returned).__name__}, expected None or {{'latents': x}}; return "
                "that"
            )
        told = {**tensors, **(returned or {})}
        refuse_unknown(told, (*delivery.changeable, DENOISED), "callback_on_step_end returned")
        if DENOISED in told and not _same(told[DENOISED], self._tensor(DENOISED, update)):
            raise RequestError(
                f"callback_on_step_end changed {DENOISED}, which is there to be looked at; change {LATENTS}, or work "
                "on a copy"
            )
        self._condition(told, update)
        return latents_from_callback(update.x, told[LATENTS]) if LATENTS in told else None

    def _tensor(self, name: str, update: Update) -> Any:
        """What the callback is given under a name; new arrays but for the latents, which it may change in place."""
        if name == LATENTS:
            return update.x
        if name == DENOISED:
            return update.denoised * np.float32(self._request.sampling.schedule.data_scale)
        if name == GUIDANCE_SCALE:
            return self._conditioning.guidance.steps.at(update.next_level or update.level)
        return self._conditioning.embeds(name, update.next_level)

    def _condition(self, told: Mapping[str, Any], update: Update) -> None:
        """Goes on with the embeddings and the weight that the callback changed."""
        before = changed = self._conditioning
        for name in EMBEDS:
            if name in told and not _same(told[name], before.embeds(name, update.next_level)):
                changed = changed.with_embeds(name, told[name])
        if GUIDANCE_SCALE in told:
            scale = number(told[GUIDANCE_SCALE], "guidance_scale of callback_on_step_end")
            if not (math.isfinite(scale) and scale >= 0.0):
                raise RequestError(
                    f"callback_on_step_end returned guidance_scale {scale}, expected a number of at least 0; 7.5 is "
                    "common"
                )
            if scale > before.guidance.steps.largest:
                raise RequestError(
                    f"callback_on_step_end returned guidance_scale {scale:g} in a run with cfg_plus_plus, expected its "
                    "weight, 0 to 1; 0.6 is common"
                )
            if scale != self._tensor(GUIDANCE_SCALE, update):
                changed = changed.with_scale(scale)
        if changed is not before:
            changed.check()
            self._conditioning = changed
            self._denoiser.condition(changed.conditions, changed.guider)


def latents_from_callback(x: Array, latents: Any) -> Array:
    """The x that a callback wants to go on with, as an array of x's shape and type.

    Raises:
        RequestError: another shape, or values that are no finite numbers.
    """
    try:
        array = np.asarray(as_array(latents, LATENTS), x.dtype)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"callback_on_step_end returned latents that are no numbers ({error}); return an array"
        ) from error
    if array.shape != x.shape:
        raise RequestError(f"callback_on_step_end returned latents {array.shape}, expected {x.shape}; keep the shape")
    if not np.isfinite(array).all():
        raise RequestError("callback_on_step_end returned latents with NaN or infinity, expected finite values")
    return array


def _same(value: Any, kept: Array | None) -> bool:
    """Whether a callback left an array as it was."""
    if value is None or kept is None:
        return value is kept
    try:
        return np.array_equal(as_array(value, "what callback_on_step_end returned"), kept, equal_nan=True)
    except TypeError:  # no numbers
        return False
