"""FreeU in a call: its factors, and what they are to the U-Net."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.unet.added_inputs import freeu_blocks, plane_size
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.errors import RequestError, shown
from latentrt.engines.shapes import AddedInputs, Shapes
from latentrt.runtime.checks import number
from latentrt.runtime.denoiser.conditions.freeu import FreeuCondition
from latentrt.runtime.denoiser.conditions.text import POOLED, STATES
from latentrt.runtime.pictures.crop import Crop

_FACTORS = ("b1", "b2", "s1", "s2")
_LARGEST = 1000.0  # far beyond any picture; what is larger ends in infinity


@dataclass(frozen=True, kw_only=True)
class FreeU:
    """The factors of FreeU (Si et al. 2023, arXiv 2309.11497), under diffusers' names.

    What is left out is what its authors recommend for SD 1.4, 2.1 or SDXL
    (https://github.com/ChenyangSi/FreeU#range-for-more-parameters).

    Attributes:
        b1: what half of the channels of the first up block are multiplied by.
        b2: those of the second.
        s1: what the lowest frequencies of all that skips to the first up block are multiplied by.
        s2: likewise, to the second.
    """

    b1: float | None = None
    b2: float | None = None
    s1: float | None = None
    s2: float | None = None


_SD1 = FreeU(b1=1.5, b2=1.6, s1=0.9, s2=0.2)
_SD2 = FreeU(b1=1.4, b2=1.6, s1=0.9, s2=0.2)
_SDXL = FreeU(b1=1.3, b2=1.4, s1=0.9, s2=0.2)
_SD2_WIDTH = 1024  # of what the U-Net attends to


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeuUse:
    """FreeU as a call uses it; an ``AddonUse``.

    Attributes:
        factors: all of them.
        structure: the U-Net's.
        latents: the model's.
    """

    factors: FreeU
    structure: UnetStructure
    latents: LatentSpace

    def opened_for(self, shapes: Shapes) -> Shapes:
        """As ``AddonUse.opened_for``."""
        return replace(shapes, added=shapes.added | {AddedInputs.FREEU})

    def condition(self, shapes: Shapes, count: int, crops: Sequence[Crop]) -> FreeuCondition:
        """As ``AddonUse.condition``."""
        blocks, size = freeu_blocks(self.structure), self.latents.size(shapes.profile)
        factors = {name: float(value) for name, value in asdict(self.factors).items()}
        return FreeuCondition(
            (factors["b1"], factors["b2"])[: len(blocks)],
            (factors["s1"], factors["s2"])[: len(blocks)],
            [plane_size(size, block.level) for block in blocks],
        )

    def metadata(self) -> Mapping[str, Any]:
        """As ``AddonUse.metadata``."""
        return {"freeu": asdict(self.factors)}


def freeu_from_keyword(manifest: BundleManifest, structure: UnetStructure, given: Any) -> FreeuUse | None:
    """The keyword ``freeu``, checked; None where all factors are 1, which changes nothing.

    Raises:
        RequestError: something else than factors.
    """
    if isinstance(given, Mapping):
        for name in given:
            if name not in _FACTORS:
                raise RequestError(f"got {name!r} in freeu, expected some of {', '.join(_FACTORS)}; correct the name")
        given = FreeU(**given)
    if not isinstance(given, FreeU):
        raise RequestError(
            f"got freeu {shown(given)}, expected latentrt.FreeU(…) or its factors by name; give latentrt.FreeU() for "
            "what its authors recommend"
        )
    named = {field.name: getattr(given, field.name) for field in fields(given)}
    checked = {name: _factor(value, name) for name, value in named.items() if value is not None}
    factors = replace(_recommended(manifest), **checked)
    if set(asdict(factors).values()) == {1.0}:
        return None
    return FreeuUse(factors=factors, structure=structure, latents=manifest.latents)


def _factor(value: Any, name: str) -> float:
    factor = number(value, f"{name} of freeu")
    if not (math.isfinite(factor) and factor >= 0.0):
        raise RequestError(f"got {name} {factor:g} of freeu, expected a number of at least 0; 1 changes nothing")
    if factor > _LARGEST:
        raise RequestError(f"got {name} {factor:g} of freeu, expected at most {_LARGEST:g}; 1 changes nothing")
    return factor


def _recommended(manifest: BundleManifest) -> FreeU:
    inputs = manifest.components[UNET].inputs
    if POOLED in inputs:
        return _SDXL
    return _SD2 if inputs[STATES].shape[-1] == _SD2_WIDTH else _SD1
