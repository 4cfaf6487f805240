"""What nothing but a model's name tells: what a pose's fourth number is, and how many frames its clips have."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.records.conditioning import PoseKind
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.export.sources.distillation import Name, last_piece
from latentrt.export.sources.family import Family
from latentrt.export.sources.partial_model import decision
from latentrt.export.sources.picture_families import pose_row

_STABLE = re.compile(r"stable(?![-_ ]?diffusion)", re.IGNORECASE)  # as in stable_zero123.ckpt
_XT = re.compile(r"(?<![a-zA-Z])xt(?![a-z])", re.IGNORECASE)
_FRAMES, _FRAMES_OF_XT = 14, 25
_BY_DEFAULT = 25  # UNetSpatioTemporalConditionModel's


def kind_of_pose(family: Family, names: Iterable[Name]) -> tuple[Family, DecisionRecord]:
    """Zero123 or Stable Zero123, which take another fourth number."""
    stable = _first(_STABLE, names)
    if stable is None:
        other = pose_row(family, PoseKind.IMAGE_ELEVATION)
        reason = f"its parts; if it is {other.label}, of which no name tells, --family {other.name}"
        return family, decision(family.name, reason)
    other = pose_row(family, PoseKind.IMAGE_ELEVATION)
    return other, decision(other.name, f"{stable.origin} {stable.text!r}; --family {family.name} for the other")


def frames_of(family: Family, unet: Mapping[str, Any], names: Iterable[Name]) -> tuple[int, DecisionRecord] | None:
    """How many frames a video model was trained on, and why; None where its config says it, or it draws no videos."""
    if not family.draws_videos or unet.get("num_frames") is not None:
        return None
    if "_diffusers_version" in unet:
        return _decided(_BY_DEFAULT, "the default of its U-Net's class")
    name = _first(_XT, names)
    if name is not None:
        return _decided(_FRAMES_OF_XT, f"as SVD-XT: {name.origin} {name.text!r}")
    return _decided(_FRAMES, f"no name tells of SVD-XT, which has {_FRAMES_OF_XT}")


def _decided(frames: int, reason: str) -> tuple[int, DecisionRecord]:
    return frames, decision(f"{frames} by default", f"{reason}; --profile for another number")


def _first(pattern: re.Pattern[str], names: Iterable[Name]) -> Name | None:
    """The first name that tells; of a path what it ends with alone."""
    return next((name for name in names if pattern.search(_told(name.text))), None)


def _told(text: str) -> str:
    return last_piece(text) if Path(text).is_absolute() else text
