"""What happens after every model call: the caller sees x, and may replace it or end the run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.request import Request
from latentrt.runtime.sampling.run import Interrupt, Update


class StepCallbacks:
    """Tells a call's caller of every update, who may change x or end the run."""

    def __init__(self, pipeline: Any, request: Request) -> None:
        self._pipeline, self._request = pipeline, request
        self._total = 0 if request.delivery.progress is None else len(request.sampling.levels)

    def on_step(self, update: Update) -> Array:
        """The x to go on with.

        Raises:
            Interrupt: the callback did.
            RequestError: what the callback returned cannot go on.
        """
        x, delivery = update.x, self._request.delivery
        try:
            if delivery.callback is not None:
                denoised = update.denoised * np.float32(self._request.sampling.schedule.data_scale)
                tensors = {"latents": x, "denoised": denoised}
                x = latents_from_callback(
                    x, delivery.callback(self._pipeline, update.index, update.level.timestep, tensors)
                )
            if delivery.progress is not None:
                delivery.progress(update.index + 1, self._total)
        except Interrupt as interrupt:
            raise Interrupt(
                latents_from_callback(x, {"latents": interrupt.latents} if interrupt.latents is not None else {})
            ) from None
        return x


def latents_from_callback(x: Array, returned: Any) -> Array:
    """The x that a callback wants to go on with: its own, or the one that it was given.

    Raises:
        RequestError: no mapping, or latents of another shape or with values that are not finite.
    """
    if returned is None:
        return x
    if not isinstance(returned, Mapping):
        raise RequestError(
            f"callback_on_step_end returned {type(returned).__name__}, expected None or {{'latents': x}}; return that"
        )
    try:
        latents = np.asarray(returned.get("latents", x), x.dtype)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"callback_on_step_end returned latents that are no numbers ({error}); return an array"
        ) from error
    if latents.shape != x.shape:
        raise RequestError(f"callback_on_step_end returned latents {latents.shape}, expected {x.shape}; keep the shape")
    if not np.isfinite(latents).all():
        raise RequestError("callback_on_step_end returned latents with NaN or infinity, expected finite values")
    return latents
