"""What SDXL is told of a picture's size, crop and looks (arXiv 2307.01952, section 2.2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.runtime.call.keywords.options import PictureSizeKeywords
from latentrt.runtime.checks import number, whole

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5  # those of diffusers' pipelines
_SIZES = ("original_size", "crops_coords_top_left", "negative_original_size", "negative_crops_coords_top_left")
_TARGETS = ("target_size", "negative_target_size")
_SCORES = ("aesthetic_score", "negative_aesthetic_score")
_TAKEN = {TimeIds.NONE: (), TimeIds.SIZE: (*_SIZES, *_TARGETS), TimeIds.AESTHETIC: (*_SIZES, *_SCORES)}

_Ids = tuple[float, ...]


def time_ids_from_keywords(
    kind: TimeIds, keywords: PictureSizeKeywords, profile: Profile, *, from_picture: bool
) -> tuple[_Ids, _Ids] | None:
    """The numbers for a picture and for its unconditional half, as diffusers' SDXL pipelines have them.

    Args:
        kind: what the model takes.
        keywords: those of the group that were set.
        profile: the size drawn, which stands for sizes that are not given.
        from_picture: whether the run starts from a picture. Then sizes that only the positive half states hold for the
            other one, too, and models without aesthetic scores have one crop for both; from text, the unconditional
            half has sizes of its own only where both of them are given.

    Raises:
        RequestError: a keyword that the model does not take or that would not count, or numbers out of range.
    """
    given = dict(keywords)
    _refuse_foreign(kind, given)
    if kind is TimeIds.NONE:
        return None
    size = (float(profile.height), float(profile.width))
    original = _pair(given, "original_size", size, least=1)
    crop = _pair(given, "crops_coords_top_left", (0.0, 0.0), least=0)
    negative_crop = _pair(given, "negative_crops_coords_top_left", (0.0, 0.0), least=0)
    if kind is TimeIds.AESTHETIC:
        score = _score(given, "aesthetic_score", AESTHETIC_SCORE)
        negative_score = _score(given, "negative_aesthetic_score", NEGATIVE_AESTHETIC_SCORE)
        negative = _pair(given, "negative_original_size", original, least=1)
        return (*original, *crop, score), (*negative, *negative_crop, negative_score)
    target = _pair(given, "target_size", size, least=1)
    positive = (*original, *crop, *target)
    if from_picture:
        if "negative_crops_coords_top_left" in given and negative_crop != crop:
            raise RequestError(
                "got negative_crops_coords_top_left for a run from a picture, where crops_coords_top_left holds for "
                "both halves; leave it out"
            )
        negative_sizes = [
            _pair(given, name, default, least=1)
            for name, default in (("negative_original_size", original), ("negative_target_size", target))
        ]
        return positive, (*negative_sizes[0], *crop, *negative_sizes[1])
    wanted = [name for name in _TAKEN[kind] if name.startswith("negative_") and name in given]
    lacking = [name for name in ("negative_original_size", "negative_target_size") if name not in given]
    if not wanted:
        return positive, positive
    if lacking:
        raise RequestError(
            f"got {' and '.join(wanted)} without {' and '.join(lacking)}, expected both negative sizes; give them, too"
        )
    negative = _pair(given, "negative_original_size", size, least=1)
    return positive, (*negative, *negative_crop, *_pair(given, "negative_target_size", size, least=1))


def _refuse_foreign(kind: TimeIds, given: Mapping[str, Any]) -> None:
    foreign = [name for name in (*_SIZES, *_TARGETS, *_SCORES) if name in given and name not in _TAKEN[kind]]
    if foreign:
        taken = f"it takes {', '.join(_TAKEN[kind])}" if _TAKEN[kind] else "it is told nothing of sizes"
        raise RequestError(f"got {' and '.join(foreign)}, which this model does not take ({taken}); leave it out")


def _pair(given: Mapping[str, Any], name: str, default: tuple[float, float], *, least: int) -> tuple[float, float]:
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)) or len(value) != 2:
        order = "(top, left)" if least == 0 else "(height, width)"
        raise RequestError(f"got {name} {value!r}, expected two whole numbers {order} in pixels; give these")
    first, second = (whole(one, name) for one in value)
    if min(first, second) < least:
        raise RequestError(f"got {name} ({first}, {second}), expected numbers of at least {least}; correct it")
    return float(first), float(second)


def _score(given: Mapping[str, Any], name: str, default: float) -> float:
    value = number(given.get(name, default), name)
    if not np.isfinite(value):
        raise RequestError(f"got {name} {value}, expected a finite number; {default:g} is the default")
    return value
