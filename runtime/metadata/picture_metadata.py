"""The settings that drew a picture, and how galleries read them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from latentrt.runtime.metadata.a1111_text import listed, quoted
from latentrt.runtime.metadata.added import ControlMetadata, ImagePromptMetadata, LoraMetadata, RegionMetadata
from latentrt.runtime.metadata.clip_metadata import ClipMetadata
from latentrt.runtime.metadata.further_passes import DetailMetadata, HiresMetadata
from latentrt.runtime.metadata.guidance_settings import apg_pairs, thresholding_pairs
from latentrt.runtime.metadata.view import pose_pairs

if TYPE_CHECKING:
    from latentrt.runtime.call.tasks.views.pose import Pose
    from latentrt.runtime.denoiser.combiners.apg import Apg
    from latentrt.runtime.denoiser.combiners.dynamic_thresholding import DynamicThresholding

_BRACKETS = frozenset("()[]")
# A1111's samplers of CFG++ multiply the CFG scale by 1/12.5, so that its range is the usual one
_CFG_PLUS_PLUS = 12.5
# A1111's names for options of its samplers
_OPTIONS = {"s_churn": "Sigma churn", "s_tmin": "Sigma tmin", "s_tmax": "Sigma tmax", "s_noise": "Sigma noise"}
_MASKED_CONTENT = {"original": "original", "fill": "fill", "noise": "latent noise", "nothing": "latent nothing"}

# The first two are the names that A1111's own extension for wildcards gives
_TEMPLATES = {
    "prompt": "Wildcard prompt",
    "negative_prompt": "Wildcard negative prompt",
    "prompt_2": "Wildcard prompt 2",
    "negative_prompt_2": "Wildcard negative prompt 2",
}


@dataclass(frozen=True, kw_only=True)
class PictureMetadata:
    """The settings that drew one picture.

    ``negative_prompt`` is None where the model steered away from zeros; the second prompts are None where the second
    text encoder read the first. ``embeds`` names what was given encoded, in place of a text. ``time_ids`` is what SDXL
    was told of the picture, and of what to steer away from. ``sampler_label`` and ``schedule_type`` are A1111's names,
    ``model_hash`` and ``vae_hash`` its short hashes of a checkpoint in one file and of the file that took its
    autoencoder's place (``vae``), and ``embeddings`` those of the textual inversions in the prompts, by their triggers.
    ``templates`` has what was written in the place of a prompt, by its field, where wildcards were chosen.
    ``loras``, ``control_nets``, ``t2i_adapters`` and ``image_prompts`` are those of the call, ``regions`` those of the
    picture. ``detail`` is the detail pass that drew parts of it. ``seeded`` is False where the caller gave the noise.
    ``masked_content`` is None where inpainting starts from the picture itself. ``poses`` has that of a view of an
    object, or those of several in one file.
    ``image_guidance_scale`` is an edit's weight of guidance towards its picture.
    With ``cfg_plus_plus`` the guidance scales are its weights, 0 to 1, and None where nothing guides. With ``hires``,
    ``width`` and ``height`` are the first pass's. ``clip`` is about the frames of a video, whose guidance scale is that
    of its last frame.
    """

    prompt: str
    negative_prompt: str | None
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    sampler_label: str
    seed: int
    batch_index: int
    width: int
    height: int
    model: str
    strength: float | None = None
    masked_content: str | None = None
    clip_skip: int = 0
    prompt_syntax: str = "plain"
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    embeds: tuple[str, ...] = ()
    time_ids: tuple[tuple[float, ...], ...] = ()
    denoising_start: float | None = None
    denoising_end: float | None = None
    guidance_scales: tuple[float | None, ...] = ()
    image_guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    cfg_plus_plus: bool = False
    apg: "Apg | None" = None
    dynamic_thresholding: "DynamicThresholding | None" = None
    pag_scale: float = 0.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: tuple[str, ...] = ()
    freeu: Mapping[str, float] = field(default_factory=dict)
    deep_cache: Mapping[str, int] = field(default_factory=dict)
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    schedule_type: str | None = None
    model_hash: str | None = None
    vae: str | None = None
    vae_hash: str | None = None
    embeddings: Mapping[str, str] = field(default_factory=dict)
    loras: tuple[LoraMetadata, ...] = ()
    control_nets: tuple[ControlMetadata, ...] = ()
    t2i_adapters: tuple[ControlMetadata, ...] = ()
    image_prompts: tuple[ImagePromptMetadata, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    regions: tuple[RegionMetadata, ...] = ()
    detail: DetailMetadata | None = None
    seeded: bool = True
    hires: HiresMetadata | None = None
    poses: "tuple[Pose, ...]" = ()
    clip: ClipMetadata | None = None

    def parameters(self) -> str:
        """A1111's ``parameters`` text: prompt, negative prompt, then one line of ``Key: value`` pairs."""
        sampler, scale = self.sampler_label, 1.0
        if self.cfg_plus_plus:
            sampler, scale = f"{sampler} CFG++", _CFG_PLUS_PLUS
        pairs: dict[str, Any] = {"Steps": self.num_inference_steps, "Sampler": sampler}
        if self.schedule_type is not None:
            pairs["Schedule type"] = self.schedule_type
        pairs |= {
            "CFG scale": f"{self.guidance_scale * scale:g}",
            **_image_scale(self.image_guidance_scale),
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
        }
        if self.model_hash is not None:
            pairs["Model hash"] = self.model_hash
        pairs["Model"] = quoted(self.model)
        if self.vae is not None:
            pairs |= {"VAE hash": self.vae_hash, "VAE": quoted(self.vae)}
        strength = self.strength if self.hires is None else self.hires.strength
        if strength is not None:
            pairs["Denoising strength"] = f"{strength:g}"
        if self.masked_content is not None:
            pairs["Masked content"] = _MASKED_CONTENT[self.masked_content]
        if self.poses:
            pairs |= pose_pairs(self.poses)
        if self.clip_skip:
            pairs["Clip skip"] = self.clip_skip + 1  # A1111 counts the layer that is taken, from 1 for the last
        if self.seeded:
            pairs["RNG"] = "CPU"  # whose noise is torch's on a CPU; without it A1111 takes the GPU's
        if self.hires is not None:
            pairs |= self.hires.pairs()
        if self.loras:
            pairs["Lora hashes"] = _hashes({lora.name: lora.short_hash for lora in self.loras})
        if self.embeddings:
            pairs["TI hashes"] = _hashes(self.embeddings)
        if self.prompt_syntax == "plain" and _BRACKETS & {*self.prompt, *(self.negative_prompt or "")}:
            pairs["Emphasis"] = "None"  # what reads this takes brackets for weights otherwise
        if self.prompt_syntax not in ("plain", "a1111"):
            pairs["Prompt syntax"] = self.prompt_syntax
        for name, second in (("Prompt 2", self.prompt_2), ("Negative prompt 2", self.negative_prompt_2)):
            if second is not None:
                pairs[name] = quoted(second)
        pairs |= {_TEMPLATES[name]: quoted(text) for name, text in self.templates.items()}
        if self.embeds:
            pairs["Embeds"] = quoted(", ".join(self.embeds))
        if self.time_ids:
            pairs["Time ids"] = quoted(" / ".join(" ".join(f"{one:g}" for one in ids) for ids in self.time_ids))
        if self.denoising_start is not None:
            pairs["Denoising start"] = f"{self.denoising_start:g}"
        if self.denoising_end is not None:
            pairs["Denoising end"] = f"{self.denoising_end:g}"
        if self.guidance_scales:
            scales = ("off" if value is None else f"{value * scale:g}" for value in self.guidance_scales)
            pairs["CFG scales"] = quoted(", ".join(scales))
        if self.guidance_rescale:
            pairs["CFG rescale"] = f"{self.guidance_rescale:g}"
        if self.apg is not None:
            pairs |= apg_pairs(self.apg)
        if self.dynamic_thresholding is not None:
            pairs |= thresholding_pairs(self.dynamic_thresholding)
        if self.pag_scale:
            pairs |= {"PAG scale": f"{self.pag_scale:g}", "PAG layers": quoted(", ".join(self.pag_applied_layers))}
        if self.pag_scale and self.pag_adaptive_scale:
            pairs["PAG adaptive"] = f"{self.pag_adaptive_scale:g}"
        if self.freeu:
            pairs["FreeU"] = quoted(", ".join(f"{name}={factor:g}" for name, factor in self.freeu.items()))
        if self.deep_cache:
            pairs["DeepCache"] = quoted(", ".join(f"{name}={number}" for name, number in self.deep_cache.items()))
        pairs |= {_OPTIONS[name]: f"{value:g}" for name, value in self.sampler_options.items() if name in _OPTIONS}
        if self.sampler == "ddim" and "eta" in self.sampler_options:
            pairs["Eta DDIM"] = f"{self.sampler_options['eta']:g}"
        if self.sampler_options:
            pairs["Sampler options"] = quoted(", ".join(f"{k}={v}" for k, v in self.sampler_options.items()))
        told = {lora.name: lora.weights for lora in self.loras if lora.weights is not None}  # as the keyword takes them
        if told:
            pairs["Lora weights"] = quoted(json.dumps(told, ensure_ascii=False, default=listed))
        for index, control in enumerate((*self.control_nets, *self.t2i_adapters)):
            pairs[f"ControlNet {index}"] = quoted(control.unit)
        pairs |= {f"Image prompt {index}": quoted(one.text) for index, one in enumerate(self.image_prompts)}
        pairs |= {f"Region {index}": quoted(one.text) for index, one in enumerate(self.regions)}
        if self.detail is not None:
            pairs |= self.detail.pairs
        if self.clip is not None:
            pairs |= self.clip.pairs()
        if self.batch_index:
            pairs["Batch pos"] = self.batch_index
        pairs["Version"] = f"latentrt {version('latentrt')}"
        tags = [lora.tag for lora in self.loras if not lora.in_prompt]
        lines = [" ".join([*([self.prompt] if self.prompt else []), *tags])]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in pairs.items())])


def _image_scale(scale: float | None) -> dict[str, str]:
    """An edit's second weight, which A1111 has as well."""
    return {} if scale is None else {"Image CFG scale": f"{scale:g}"}


def _hashes(short: Mapping[str, str]) -> str:
    """Hashes by name as A1111 writes them; separators in a name are left out there, too."""
    names = {name.replace(":", "").replace(",", ""): value for name, value in short.items()}
    return quoted(", ".join(f"{name}: {value}" for name, value in names.items()))
