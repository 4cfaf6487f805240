"""What a build returns."""

from dataclasses import dataclass

from latentrt.engines.bundle.bundle import AddonBundle, Bundle


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a build did: the bundle, whether it was up to date already, and seconds per stage."""

    bundle: Bundle | AddonBundle
    up_to_date: bool
    seconds: dict[str, float]
