"""What a model_index.json says beside its parts."""

from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.export.sources.family import Family
from latentrt.export.sources.partial_model import PartialModel

_ZEROS, _SCORED = "force_zeros_for_empty_prompt", "requires_aesthetics_score"


def zero_empty_negative(own: PartialModel, base: PartialModel | None, family: Family) -> bool:
    """What model_index.json says, of the model or else of its base; only pipelines of SDXL's kind read it."""
    if family.time_ids is not TimeIds.NONE:
        for model in (own, base):
            if model is not None and model.index.get(_ZEROS) is not None:
                return bool(model.index[_ZEROS])
    return family.zero_empty_negative


def index_faults(own: PartialModel, family: Family) -> list[str]:
    """Settings in model_index.json that are none, or that contradict the U-Net."""
    if family.time_ids is TimeIds.NONE:
        return []
    faults = [
        f"model_index.json has {key} {own.index[key]!r}, expected true or false"
        for key in (_ZEROS, _SCORED)
        if own.index.get(key) is not None and not isinstance(own.index[key], bool)
    ]
    scored, takes = own.index.get(_SCORED), family.time_ids is TimeIds.AESTHETIC
    # The pipeline from text does not know the setting
    if isinstance(scored, bool) and scored != takes and own.pipeline != "StableDiffusionXLPipeline":
        kind = "an aesthetic score" if takes else "a target size"
        faults.append(f"model_index.json has {_SCORED} {str(scored).lower()}, but its U-Net takes {kind}")
    return faults
