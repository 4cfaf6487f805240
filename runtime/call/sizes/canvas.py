"""What a call draws on: the picture's size, what the model is told of it, and how it goes through the autoencoder."""

from dataclasses import dataclass
from typing import Any

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.choices import choice
from latentrt.engines.shapes import Profile, profile_for_size
from latentrt.runtime.call.keywords.options import CanvasKeywords
from latentrt.runtime.call.sizes.picture_size import time_ids_from_keywords
from latentrt.runtime.checks import whole
from latentrt.runtime.denoiser.conditions.condition import Condition
from latentrt.runtime.denoiser.conditions.time_ids import time_ids_condition
from latentrt.runtime.pictures.tiling import VaeMode

_Ids = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SourceSize:
    """The size in pixels of what a run starts from, and what to do with it where it is no profile's."""

    width: int
    height: int
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The size of the pictures, ``time_ids`` of their positive and negative passes, and the autoencoder's way."""

    profile: Profile
    time_ids: tuple[_Ids, _Ids] | None
    vae: VaeMode

    def conditions(self, count: int) -> tuple[Condition, ...]:
        """What the U-Net is told of the size of ``count`` pictures."""
        return () if self.time_ids is None else (time_ids_condition(*self.time_ids, count),)

    def metadata(self) -> dict[str, Any]:
        """What a picture's metadata say of its size."""
        return {"width": self.profile.width, "height": self.profile.height, "time_ids": self.time_ids or ()}


def canvas_from_keywords(
    manifest: BundleManifest, keywords: CanvasKeywords, source: SourceSize | None, *, from_picture: bool
) -> Canvas:
    """Checks the size and what the model is told of it.

    Args:
        manifest: the bundle's.
        keywords: those of the group that were set.
        source: whose size is taken where neither width nor height is given; None takes the bundle's first profile.
        from_picture: whether the run starts from a picture.

    Raises:
        RequestError: a size without a profile, or a keyword that the model does not take.
    """
    first, remedy = manifest.profiles[0], "ask for one of these"
    width, height = keywords.get("width", first.width), keywords.get("height", first.height)
    if source is not None and not {"width", "height"} & keywords.keys():
        width, height, remedy = source.width, source.height, source.remedy
    profile = profile_for_size(
        manifest.profiles,
        whole(width, "width"),
        whole(height, "height"),
        multiple=manifest.pixel_multiple,
        remedy=remedy,
    )
    return Canvas(
        profile=profile,
        time_ids=time_ids_from_keywords(manifest.conditioning.time_ids, keywords, profile, from_picture=from_picture),
        vae=choice(VaeMode, keywords.get("vae", VaeMode.WHOLE), "vae"),
    )
