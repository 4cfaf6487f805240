"""What a service takes on, and what it refuses."""

import re
from dataclasses import dataclass

from latentrt.engines.errors import shown
from latentrt.runtime.serving.jobs.errors import CostError
from latentrt.runtime.serving.jobs.order import Cost, Order

_DIVIDES = re.compile(r"\b(?:AND|BREAK)\b")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds of one service.

    Attributes:
        queued: orders that may wait; more are refused.
        at_once: orders that are drawn at the same time; None: as many as fill the models' engines twice.
        pictures: most pictures of an order.
        pixels: most pixels of a picture, of the first pass where there are two.
        steps: most steps of an order.
        parts: most control nets, image prompts and regions of an order together.
        sizes: the widths and heights that are drawn, as one asks for them; None: all that a model has.
        cost: most millions of steps × pixels × pictures of an order; None: any.
        queued_cost: the same of all that wait together; None: any. One may always wait.
        queued_picture_bytes: of the decoded pictures of all that wait together. One may always wait.
        prompt_bytes: most bytes of all prompts of an order, in UTF-8: what attention takes grows with them.
        prompt_parts: most parts into which AND and BREAK divide the prompts of an order, each of them as long as the
            text encoder reads, and of AND a pass of its own.
        kept: finished jobs that are remembered.
        kept_bytes: of their pictures.
        kept_seconds: how long they are remembered.
    """

    queued: int = 64
    at_once: int | None = None
    pictures: int = 16
    pixels: int = 4096 * 4096
    steps: int = 200
    parts: int = 16
    sizes: frozenset[tuple[int, int]] | None = None
    cost: float | None = None
    queued_cost: float | None = None
    queued_picture_bytes: int = 1 << 29
    prompt_bytes: int = 8_000
    prompt_parts: int = 32
    kept: int = 256
    kept_bytes: int = 1 << 29
    kept_seconds: float = 600.0

    def check(self, order: Order, cost: Cost) -> None:
        """Refuses an order that asks for more.

        Raises:
            CostError: the first thing that it asks too much of.
        """
        asked = {"pictures": cost.pictures, "pixels": cost.pixels, "steps": cost.steps, "parts": len(order.parts)}
        for what, got in asked.items():
            most = getattr(self, what)
            if got > most:
                raise CostError(f"got {shown(got)} {what}, expected at most {most} here; ask for fewer")
        if self.sizes is not None and (cost.width, cost.height) not in self.sizes:
            sizes = ", ".join(f"{width}x{height}" for width, height in sorted(self.sizes))
            raise CostError(f"got size {cost.width}x{cost.height}, expected one of: {sizes}; ask for one of these")
        if self.cost is not None and cost.total > self.cost:
            raise CostError(
                f"got {cost.steps} steps × {cost.pixels} pixels × {cost.pictures} pictures, expected a product of at "
                f"most {self.cost:g} million here; ask for fewer steps, a smaller size or fewer pictures"
            )
        length = sum(len(text.encode(errors="replace")) for text in order.prompts)
        if length > self.prompt_bytes:
            raise CostError(f"got prompts of {length} bytes, expected at most {self.prompt_bytes}; shorten them")
        divided = sum(len(_DIVIDES.findall(text)) for text in order.prompts)
        if divided >= self.prompt_parts:
            raise CostError(
                f"got prompts in {divided + 1} parts, expected at most {self.prompt_parts}; leave out some AND or BREAK"
            )
