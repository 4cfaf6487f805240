"""Which LoRAs a call draws with, and how strongly: the keyword ``loras``, and what prompts ask for."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.schedule_config import SigmaSpacing, TimestepSpacing
from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.accelerators import Accelerator
from latentrt.runtime.adapters.adapter import Adapter
from latentrt.runtime.adapters.block_weights import block_weights
from latentrt.runtime.adapters.loaded import LoadedLora, LoadedLoras, unknown_lora
from latentrt.runtime.adapters.lora_set import LoraSet, Strength
from latentrt.runtime.call.guidance.guidance import Guidance
from latentrt.runtime.call.keywords.options import LoraKeywords
from latentrt.runtime.call.prompts.prompt_set import PromptSet
from latentrt.runtime.call.sampling import Sampling
from latentrt.runtime.checks import number, warn_caller
from latentrt.runtime.metadata.added import LoraMetadata

_FORMS = "a number, a pair (U-Net, text encoders), or {'unet': …, 'text_encoder': …}"


@dataclass(frozen=True, kw_only=True)
class UsedLora:
    """A LoRA in a call: its weight for the U-Net, for blocks of it otherwise, and for each text encoder.

    ``given`` is what the caller wrote, where that is more than two numbers.
    """

    lora: LoadedLora
    unet: float
    blocks: tuple[tuple[str, float], ...]
    text: Mapping[str, float]
    in_prompt: bool = False
    given: Any = None

    @property
    def idle(self) -> bool:
        """Whether all its weights are 0."""
        return not any((self.unet, *(weight for _, weight in self.blocks), *self.text.values()))

    def members(self) -> Iterable[tuple[Adapter, Strength]]:
        """The adapter with its weights; in pieces where the text encoders have different ones."""
        adapter, weights = self.lora.adapter, set(self.text.values())
        if len(weights) < 2:
            return [(adapter, Strength(unet=self.unet, text=weights.pop() if weights else 0.0, blocks=self.blocks))]
        pieces = {name: replace(adapter, parts={name: part}) for name, part in adapter.parts.items()}
        return [
            (piece, Strength(unet=self.unet, text=self.text.get(name, 0.0), blocks=self.blocks))
            for name, piece in pieces.items()
        ]

    def metadata(self) -> LoraMetadata:
        """What a picture's metadata say of it."""
        return LoraMetadata(
            name=self.lora.name,
            short_hash=self.lora.short_hash,
            unet=self.unet,
            text=next(iter(self.text.values()), self.unet),
            weights=self.given,
            in_prompt=self.in_prompt,
        )


@dataclass(frozen=True, kw_only=True)
class CallLoras:
    """The LoRAs of one call, those of weight 0 left out: what they change together, and each by itself."""

    members: LoraSet
    used: tuple[UsedLora, ...]

    def warn_of_settings(self, manifest: BundleManifest, sampling: Sampling, guidance: Guidance) -> None:
        """Says, in a line, which settings an accelerator needs where the call has others."""
        for used in self.used:
            accelerator = used.lora.acceleration
            faults = [] if accelerator is None else _faults(accelerator, manifest, sampling, guidance)
            if accelerator is not None and faults:
                warn_caller(
                    f"LoRA {used.lora.name!r} is {accelerator.label}, made for {accelerator.needs()}; the call has "
                    f"{' and '.join(faults)}; draw with {accelerator.advice()}"
                )
                return


def loras_from_keywords(loaded: LoadedLoras | None, keywords: LoraKeywords, prompts: PromptSet) -> CallLoras | None:
    """Checks which LoRAs to use.

    Args:
        loaded: those of the pipeline.
        keywords: those of the group that were set.
        prompts: the call's.

    Returns:
        None where there is none, or all have weight 0.

    Raises:
        RequestError: one that is not loaded, one that is named in two places, weights that are none, or prompts that
            ask for different ones.
    """
    given: Any = keywords.get("loras", {})
    if not isinstance(given, Mapping):
        raise RequestError(f"got loras {given!r}, expected weights by name; write loras={{'style': 0.8}}")
    tags = prompts.loras
    if not given and not tags:
        return None
    if loaded is None:
        raise unknown_lora(next(iter(given), None) or tags[0].name, ())
    used = {}
    for name, weight in given.items():
        lora = loaded.named(name)
        if lora.name in used:
            raise RequestError(f"got LoRA {lora.name!r} twice in loras, once as {name!r}; leave one out")
        used[lora.name] = _used(lora, weight, loaded)
    for tag in tags:
        lora = loaded.named(tag.name)
        if lora.name in used:
            other = "the prompt twice" if used[lora.name].in_prompt else "the prompt and in loras"
            raise RequestError(f"LoRA {lora.name!r} is named in {other}, expected one place; leave one out")
        text = dict.fromkeys(_text_encoders(loaded), tag.text)
        used[lora.name] = UsedLora(lora=lora, unet=tag.unet, blocks=(), text=text, in_prompt=True)
    active = tuple(one for one in used.values() if not one.idle)
    if not active:
        return None
    if not prompts.trees:
        _warn_of_encoded(active)
    return CallLoras(members=LoraSet(tuple(member for one in active for member in one.members())), used=active)


def _text_encoders(loaded: LoadedLoras) -> list[str]:
    return [name for name in loaded.model.weights if name != UNET]


def _used(lora: LoadedLora, weight: Any, loaded: LoadedLoras) -> UsedLora:
    """A LoRA with the weights that the keyword gives it."""
    what = f"weight of LoRA {lora.name!r}"
    encoders = _text_encoders(loaded)
    unet: Any
    blocks: tuple[tuple[str, float], ...] = ()
    if isinstance(weight, Mapping):
        known = (UNET, *encoders)
        unknown = [name for name in weight if name not in known]
        if unknown:
            hint = f"write {{'unet': {{{unknown[0]!r}: …}}}}" if unknown[0] in ("down", "mid", "up") else "correct it"
            raise RequestError(f"got {unknown[0]!r} in the {what}, expected some of {', '.join(known)}; {hint}")
        unet = weight.get(UNET, 1.0)
        if isinstance(unet, Mapping):
            unet, blocks = 1.0, block_weights(unet, loaded.model.weights[UNET], what)
        text = {name: _weight(weight.get(name, 1.0), what) for name in encoders}
    elif isinstance(weight, (tuple, list)):
        if len(weight) != 2:
            raise RequestError(f"got {len(weight)} numbers as {what}, expected {_FORMS}; give one of these")
        unet, of_text = weight
        text = dict.fromkeys(encoders, _weight(of_text, what))
    else:
        unet = weight
        text = dict.fromkeys(encoders, _weight(weight, what))
    given = _plain(weight) if blocks or len(set(text.values())) > 1 else None
    return UsedLora(lora=lora, unet=_weight(unet, what), blocks=blocks, text=text, given=given)


def _plain(value: Any) -> Any:
    """Weights as JSON has them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else float(value)


def _weight(value: Any, what: str) -> float:
    try:
        weight = number(value, what)
    except RequestError as error:
        raise RequestError(f"got {value!r} as {what}, expected {_FORMS}; give one of these") from error
    if not math.isfinite(weight):
        raise RequestError(f"got {weight} as {what}, expected a finite number; 0.8 is common")
    return weight


def _warn_of_encoded(used: Sequence[UsedLora]) -> None:
    """Says which LoRAs change nothing, as they are for text encoders alone and the prompts are encoded already."""
    idle = [
        one.lora.name
        for one in used
        if UNET not in one.lora.adapter.parts or not any((one.unet, *(weight for _, weight in one.blocks)))
    ]
    if idle:
        warn_caller(
            f"LoRA {', '.join(map(repr, idle))} changes the text encoder alone, and the prompts were encoded before; "
            "give loras to pipe.encode"
        )


def _faults(accelerator: Accelerator, manifest: BundleManifest, sampling: Sampling, guidance: Guidance) -> list[str]:
    """What of a call's settings an accelerator does not go with."""
    sampler, faults = sampling.sampler, []
    if sampler.name not in accelerator.samplers:
        faults.append(f"sampler {sampler.name}")
    elif accelerator.trailing and sampler.timesteps is None and sampler.sigmas is None:
        config = sampler.config(manifest.schedule)
        trails = config.timestep_spacing is TimestepSpacing.TRAILING and config.sigma_spacing is SigmaSpacing.TIMESTEPS
        if "timestep_spacing" in sampler.options and not trails:
            faults.append(f"{config.timestep_spacing or TimestepSpacing.LINSPACE} timesteps")
    fewest, most = accelerator.steps
    if not fewest <= sampling.steps <= most:
        faults.append(f"{sampling.steps} step{'s' * (sampling.steps != 1)}")
    low, high = accelerator.guidance
    scale = max(guidance.steps.scales)
    if not guidance.embedding and (scale > max(high, 1.0) or scale < low > 1.0):
        faults.append(f"guidance {scale:g}")
    return faults
