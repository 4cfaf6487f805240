"""Why an order is not taken on."""

from latentrt.engines.errors import LatentrtError, RequestError


class QueueFullError(LatentrtError):
    """As many orders wait as may. ``retry_after`` is after how many seconds there will be room, as far as is known."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DrainingError(LatentrtError):
    """The service ends, and takes nothing on."""


class CostError(RequestError):
    """An order asks for more than the service draws at once."""


class UnknownNameError(RequestError):
    """A model, LoRA, net or upscaler that the catalog does not have."""

    def __init__(self, message: str, *, what: str) -> None:
        super().__init__(message)
        self.what = what
