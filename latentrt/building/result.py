"""What a build returns."""

from dataclasses import dataclass

from latentrt.engines.bundle.bundle import AnyBundle
from latentrt.engines.store.speed import SpeedRecord


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a build did: the bundle, whether it was up to date already, and seconds per stage.

    ``speed`` is what a build for speed measured, None of others.
    """

    bundle: AnyBundle
    up_to_date: bool
    seconds: dict[str, float]
    speed: SpeedRecord | None = None
