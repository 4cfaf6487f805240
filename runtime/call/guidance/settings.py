"""What a call says of guidance beyond its weight: CFG++, APG and dynamic thresholding."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.call.guidance.guidance import weights_of_steps
from latentrt.runtime.call.keywords.options import GuidanceKeywords
from latentrt.runtime.denoiser.combiners.apg import Apg
from latentrt.runtime.denoiser.combiners.dynamic_thresholding import DynamicThresholding
from latentrt.runtime.denoiser.guider import CfgPlusPlusScales

_Settings = TypeVar("_Settings", Apg, DynamicThresholding)


def check_model(manifest: BundleManifest, keywords: GuidanceKeywords) -> None:
    """Refuses them with a model that has one pass only.

    Raises:
        RequestError: the model was distilled from guidance.
    """
    given = [name for name in ("cfg_plus_plus", "apg", "dynamic_thresholding") if name in keywords]
    if manifest.guidance_embedding:
        raise RequestError(f"got {given[0]} with a model that has its guidance built in; leave it out")


def cfg_plus_plus_scales(
    keywords: GuidanceKeywords, ratios: tuple[float, ...], inside: tuple[bool, ...]
) -> CfgPlusPlusScales:
    """The weight λ of every step.

    Args:
        keywords: with ``cfg_plus_plus`` among them.
        ratios: the noise-to-signal ratios of the steps, descending.
        inside: which steps are guided.

    Raises:
        RequestError: a weight that cannot be, or ``guidance_scale`` beside it.
    """
    if "guidance_scale" in keywords:
        raise RequestError("got guidance_scale with cfg_plus_plus, which has a weight of its own; leave one out")
    scales = weights_of_steps(keywords["cfg_plus_plus"], "cfg_plus_plus", "weights of cfg_plus_plus", len(ratios))
    for value in scales:
        if not 0.0 <= value <= CfgPlusPlusScales.largest:
            raise RequestError(
                f"got cfg_plus_plus {value:g}, expected 0 to 1; 0.6 is about what a guidance_scale of 7.5 is without it"
            )
    return CfgPlusPlusScales(scales=scales, ratios=ratios, inside=inside)


def apg_from_keywords(keywords: GuidanceKeywords) -> Apg | None:
    """The settings of adaptive projected guidance; None where it is not wanted."""
    return _settings(Apg, keywords["apg"], "apg") if "apg" in keywords else None


def thresholding_from_keywords(keywords: GuidanceKeywords) -> DynamicThresholding | None:
    """The settings of dynamic thresholding; None where it is not wanted."""
    if "dynamic_thresholding" not in keywords:
        return None
    return _settings(DynamicThresholding, keywords["dynamic_thresholding"], "dynamic_thresholding")


def _settings(kind: type[_Settings], value: Any, name: str) -> _Settings:
    """From themselves, or from a mapping of some of their fields."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise RequestError(
            f"got {name} {shown(value)}, expected latentrt.{kind.__name__}(…) or its settings by name; give "
            f"latentrt.{kind.__name__}() for the defaults"
        )
    known = [field.name for field in fields(kind)]
    for given in value:
        if given not in known:
            raise RequestError(f"got {shown(given)} in {name}, expected some of {', '.join(known)}; correct the name")
    return kind(**value)
