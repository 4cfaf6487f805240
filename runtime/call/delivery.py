"""What a call gives back, and what it tells on the way."""

from dataclasses import dataclass

from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.options import CallbackOnStepEnd, DeliveryKeywords, OnProgress
from latentrt.runtime.call.result import OutputType


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The form of the pictures, and who is told of every model call."""

    output_type: OutputType
    callback: CallbackOnStepEnd | None
    progress: OnProgress | None


def delivery_from_keywords(keywords: DeliveryKeywords) -> Delivery:
    """Checks what shall come back.

    Raises:
        RequestError: an unknown form, or something that is no function.
    """
    callback, progress = keywords.get("callback_on_step_end"), keywords.get("progress")
    for name, function in (("callback_on_step_end", callback), ("progress", progress)):
        if function is not None and not callable(function):
            raise RequestError(f"got {name} {function!r}, expected a function; give one")
    return Delivery(
        output_type=choice(OutputType, keywords.get("output_type", OutputType.PIL), "output_type"),
        callback=callback,
        progress=progress,
    )
