"""What a service takes on, and what it refuses."""

from dataclasses import dataclass


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
        prompt_bytes: most bytes of all prompts of an order, in UTF-8.
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
    prompt_bytes: int = 20_000
    kept: int = 256
    kept_bytes: int = 1 << 29
    kept_seconds: float = 600.0
