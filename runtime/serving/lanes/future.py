"""Pictures that will be drawn: a future that tells how far they are, shows them on the way, and ends them early."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from threading import Lock
from typing import TypeVar

from PIL import Image

from latentrt.engines.spec import Array
from latentrt.runtime.call.result import Result
from latentrt.runtime.sampling.run import Interrupt

_Drawn = TypeVar("_Drawn")


class DrawnFuture(Future[_Drawn]):
    """The result of what a pipeline was given to draw; all that ``concurrent.futures`` does with a future goes with it.

    Attributes:
        step: model calls done; of videos decoded chunks are counted, too.
        steps: of how many.
    """

    def __init__(self, steps: int, preview: Callable[[Array], list[Image.Image]]) -> None:
        """Waits to be drawn.

        Args:
            steps: model calls that it takes.
            preview: ``Pipeline.preview``.
        """
        super().__init__()
        self.step, self.steps = 0, steps
        self._picture = preview
        self._denoised: Array | None = None
        self._lock = Lock()
        self._cancels = self._interrupts = self._decided = False

    def preview(self) -> list[Image.Image]:
        """The pictures as the last step left them, one pixel per latent; none before the first."""
        denoised = self._denoised
        return [] if denoised is None else self._picture(denoised)

    def cancel(self) -> bool:
        """Draws it no more: what runs ends at its next step. False once it is done.

        ``result`` raises ``CancelledError`` then.
        """
        if super().cancel():
            return True
        with self._lock:
            self._cancels |= not self._decided
            return self._cancels

    def interrupt(self) -> bool:
        """Ends it at the next step with what there is, as ``Interrupt`` does in a callback. False once it is done."""
        with self._lock:
            self._interrupts = True
            return not self._decided and not self.cancelled()

    def cancelled(self) -> bool:
        """Whether it ended without pictures because it was cancelled."""
        return super().cancelled() or (self._cancels and self.done())

    def stepped(self, step: int, steps: int, denoised: Array) -> None:
        """A model call was done.

        Raises:
            CancelledError: the run shall end.
            Interrupt: the run shall end with what there is.
        """
        self.step, self.steps, self._denoised = step, steps, denoised
        if self._cancels:
            raise CancelledError
        if self._interrupts:
            raise Interrupt

    def draw(self, draw: Callable[[], _Drawn]) -> None:
        """Draws it in the calling thread, unless it was cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        result, error = None, None  # type: _Drawn | None, BaseException | None
        try:
            result = draw()
        except BaseException as raised:  # for who asks for the result
            error = raised
        with self._lock:
            self._decided = True
        if self._cancels:
            self.set_exception(CancelledError())
        elif result is not None:
            self.set_result(result)
        else:
            self.set_exception(error)


class PictureFuture(DrawnFuture[Result]):
    """The result of ``Pipeline.submit``."""
