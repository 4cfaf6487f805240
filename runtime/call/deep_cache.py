"""DeepCache in a call: how often the whole U-Net is computed, and how much of it in between."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from latentrt.engines.bundle.unet.deep_cache import branch_count
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.call.sampling import Sampling
from latentrt.runtime.checks import whole

FEWEST_CALLS = 9
"""Of the model in a run: in fewer, what is kept has changed too much by the next call."""
_LARGEST = 1000


@dataclass(frozen=True, kw_only=True)
class DeepCache:
    """DeepCache (Ma et al. 2023, arXiv 2312.00858), whose names these are.

    Attributes:
        interval: every so many model calls one computes the whole U-Net, beginning with the first. 1: all of them.
        branch: how many layers of the first down block the others compute, and one more of the last up block.
    """

    interval: int = 3
    branch: int = 0


def deep_cache_from_keyword(
    structure: UnetStructure, given: Any, sampling: Sampling, *, first: bool
) -> DeepCache | None:
    """The keyword ``deep_cache``, checked; None where every call is whole anyway.

    Args:
        structure: of the model's U-Net.
        given: an interval, a ``DeepCache``, or its fields by name.
        sampling: of the run.
        first: whether the run is the call's first. One that goes on with it is whole where it is too short.

    Raises:
        RequestError: something else, or a run that is too short.
    """
    if isinstance(given, Mapping):
        known = [field.name for field in fields(DeepCache)]
        for name in given:
            if name not in known:
                raise RequestError(f"got {shown(name)} in deep_cache, expected some of {', '.join(known)}; correct it")
        given = DeepCache(**given)
    elif isinstance(given, int) and not isinstance(given, bool):
        given = DeepCache(interval=given)
    if not isinstance(given, DeepCache):
        raise RequestError(
            f"got deep_cache {shown(given)}, expected a whole number, of so many model calls one computes the whole "
            "U-Net, or latentrt.DeepCache(…); 3 is common"
        )
    interval = whole(given.interval, "interval of deep_cache")
    if not 1 <= interval <= _LARGEST:
        raise RequestError(
            f"got interval {interval} of deep_cache, expected 1 to {_LARGEST}; 3 is common, and 1 is without it"
        )
    branch, count = whole(given.branch, "branch of deep_cache"), branch_count(structure)
    if not 0 <= branch < count:
        raise RequestError(
            f"got branch {branch} of deep_cache, expected {' or '.join(map(str, range(count)))}, which this model has; "
            "0 is the fastest"
        )
    if interval == 1:
        return None
    calls = len(sampling.levels)
    if calls < FEWEST_CALLS:
        if first:
            raise RequestError(
                f"got deep_cache in a run of {calls} model calls, expected at least {FEWEST_CALLS}; raise "
                "num_inference_steps, or leave deep_cache out"
            )
        return None
    return DeepCache(interval=interval, branch=branch)
