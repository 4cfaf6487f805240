"""The settings that drew a picture, and how galleries read them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentrt.runtime.denoiser.combiners.apg import Apg
    from latentrt.runtime.denoiser.combiners.dynamic_thresholding import DynamicThresholding

_BRACKETS = frozenset("()[]")
_CONTROL_MODES = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
}
# A1111's samplers of CFG++ multiply the CFG scale by 1/12.5, so that its range is the usual one
_CFG_PLUS_PLUS = 12.5
# A1111's names for options of its samplers
_OPTIONS = {"s_churn": "Sigma churn", "s_tmin": "Sigma tmin", "s_tmax": "Sigma tmax", "s_noise": "Sigma noise"}

# The first two are the names that A1111's own extension for wildcards gives
_TEMPLATES = {
    "prompt": "Wildcard prompt",
    "negative_prompt": "Wildcard negative prompt",
    "prompt_2": "Wildcard prompt 2",
    "negative_prompt_2": "Wildcard negative prompt 2",
}


# A1111's names for what enlarges in its hires fix; Pillow's bicubic filter is not among them
_UPSCALERS = {
    "latent": "Latent",
    "latent-antialiased": "Latent (antialiased)",
    "latent-bicubic": "Latent (bicubic)",
    "latent-bicubic-antialiased": "Latent (bicubic antialiased)",
    "latent-nearest": "Latent (nearest)",
    "latent-nearest-exact": "Latent (nearest-exact)",
    "lanczos": "Lanczos",
    "bicubic": "Bicubic",
    "nearest": "Nearest",
}


@dataclass(frozen=True, kw_only=True)
class LoraMetadata:
    """A LoRA that a picture was drawn with: its name, A1111's short hash of its file, its weights for the U-Net and the
    text encoders, and whether the prompt names it. ``weights`` is what the call said, where that is more than two."""

    name: str
    short_hash: str
    unet: float
    text: float
    weights: Any = None
    in_prompt: bool = False

    @property
    def tag(self) -> str:
        """How a prompt of A1111's asks for it: first the weight of the text encoders, then that of the U-Net."""
        weights = [self.text] if self.text == self.unet else [self.text, self.unet]
        return f"<lora:{self.name}:{':'.join(f'{weight:g}' for weight in weights)}>"


@dataclass(frozen=True, kw_only=True)
class ControlMetadata:
    """A control net or T2I-Adapter that a picture was drawn with: its bundle's name, its kind, and how it counted.
    ``type`` is a union net's number of the kind of its picture."""

    net: str
    kind: str
    scale: float
    start: float
    end: float
    mode: str
    type: int | None = None

    @property
    def unit(self) -> str:
        """How sd-webui-controlnet, A1111's extension, writes one of its units; its pictures are made elsewhere."""
        pairs = {
            "Module": "none",
            "Model": _plain(self.net),
            "Weight": f"{self.scale:g}",
            "Resize Mode": "Just Resize",
            "Guidance Start": f"{self.start:g}",
            "Guidance End": f"{self.end:g}",
            "Control Mode": _CONTROL_MODES[self.mode],
        }
        if self.type is not None:
            pairs["Union Type"] = str(self.type)
        return ", ".join(f"{key}: {value}" for key, value in pairs.items())


@dataclass(frozen=True, kw_only=True)
class ImagePromptMetadata:
    """An image prompt that a picture was drawn with: the adapter's name, how many pictures, and how they count."""

    adapter: str
    images: int
    scale: float
    blocks: Any = None
    masked: bool = False
    start: float = 0.0
    end: float = 1.0

    @property
    def text(self) -> str:
        """Its settings as A1111 writes those of a control unit."""
        told = [f"Model: {_plain(self.adapter)}", f"Weight: {self.scale:g}"]
        told += [f"Images: {self.images}"] if self.images > 1 else []
        if self.blocks is not None:
            blocks = self.blocks if isinstance(self.blocks, str) else json.dumps(self.blocks, default=_listed)
            told.append(f"Blocks: {blocks}")
        told += ["Masked: True"] if self.masked else []
        return ", ".join([*told, f"Guidance Start: {self.start:g}", f"Guidance End: {self.end:g}"])


@dataclass(frozen=True, kw_only=True)
class RegionMetadata:
    """A region of a picture: its prompt, its place, and how it counts. ``mask`` is the beginning of the SHA-256 of its
    mask's size and values, which are made elsewhere."""

    prompt: str
    prompt_2: str | None = None
    box: tuple[float, ...] | None = None
    mask: str | None = None
    weight: float = 1.0
    feather: float = 0.0

    @property
    def text(self) -> str:
        """What is not the default, as a JSON object: a prompt may have any characters."""
        defaults = asdict(RegionMetadata(prompt=self.prompt))
        told = {name: value for name, value in asdict(self).items() if name == "prompt" or value != defaults[name]}
        return json.dumps(told, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class DetailMetadata:
    """The detail pass that a picture went through: the boxes of the regions that were drawn, and how."""

    boxes: tuple[tuple[int, int, int, int], ...]
    strength: float
    padding: int
    dilation: int
    mask_blur: float
    detector: str | None = None
    confidence: float | None = None

    @property
    def pairs(self) -> dict[str, str]:
        """As ADetailer, A1111's extension, writes them; where the regions were is told by nobody else."""
        pairs: dict[str, str] = {}
        if self.detector is not None:
            pairs |= {"ADetailer model": _plain(self.detector), "ADetailer confidence": f"{self.confidence:g}"}
        return {
            **pairs,
            "ADetailer dilate erode": str(self.dilation),
            "ADetailer mask blur": f"{self.mask_blur:g}",
            "ADetailer denoising strength": f"{self.strength:g}",
            "ADetailer inpaint only masked": "True",
            "ADetailer inpaint padding": str(self.padding),
            "Detail regions": " / ".join(" ".join(map(str, box)) for box in self.boxes) or "none",
        }


@dataclass(frozen=True, kw_only=True)
class HiresMetadata:
    """How a picture was enlarged and drawn on; what is None is the first pass's. ``width`` and ``height`` are what it
    became, ``steps`` those that the call asked for."""

    scale: float
    width: int
    height: int
    strength: float
    upscaler: str
    steps: int | None = None
    sampler: str | None = None
    sampler_label: str | None = None
    schedule_type: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None

    def pairs(self) -> dict[str, str]:
        """Its settings as A1111 writes them (1.10); the guidance has the name that its descendants gave it."""
        pairs = {
            "Hires upscale": f"{self.scale:g}",
            "Hires upscaler": _quoted(_UPSCALERS.get(self.upscaler, self.upscaler)),
        }
        if self.steps is not None:
            pairs["Hires steps"] = str(self.steps)
        if self.guidance_scale is not None:
            pairs["Hires CFG Scale"] = f"{self.guidance_scale:g}"
        for name, value in (
            ("Hires sampler", self.sampler_label),
            ("Hires schedule type", self.schedule_type),
            ("Hires prompt", self.prompt),
            ("Hires negative prompt", self.negative_prompt),
        ):
            if value is not None:
                pairs[name] = _quoted(value)
        return pairs


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
    With ``cfg_plus_plus`` the guidance scales are its weights, 0 to 1, and None where nothing guides. With ``hires``,
    ``width`` and ``height`` are the first pass's.
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
    clip_skip: int = 0
    prompt_syntax: str = "plain"
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    embeds: tuple[str, ...] = ()
    time_ids: tuple[tuple[float, ...], ...] = ()
    denoising_start: float | None = None
    denoising_end: float | None = None
    guidance_scales: tuple[float | None, ...] = ()
    guidance_rescale: float = 0.0
    cfg_plus_plus: bool = False
    apg: "Apg | None" = None
    dynamic_thresholding: "DynamicThresholding | None" = None
    pag_scale: float = 0.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: tuple[str, ...] = ()
    freeu: Mapping[str, float] = field(default_factory=dict)
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
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
        }
        if self.model_hash is not None:
            pairs["Model hash"] = self.model_hash
        pairs["Model"] = _quoted(self.model)
        if self.vae is not None:
            pairs |= {"VAE hash": self.vae_hash, "VAE": _quoted(self.vae)}
        strength = self.strength if self.hires is None else self.hires.strength
        if strength is not None:
            pairs["Denoising strength"] = f"{strength:g}"
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
                pairs[name] = _quoted(second)
        pairs |= {_TEMPLATES[name]: _quoted(text) for name, text in self.templates.items()}
        if self.embeds:
            pairs["Embeds"] = _quoted(", ".join(self.embeds))
        if self.time_ids:
            pairs["Time ids"] = _quoted(" / ".join(" ".join(f"{one:g}" for one in ids) for ids in self.time_ids))
        if self.denoising_start is not None:
            pairs["Denoising start"] = f"{self.denoising_start:g}"
        if self.denoising_end is not None:
            pairs["Denoising end"] = f"{self.denoising_end:g}"
        if self.guidance_scales:
            scales = ("off" if value is None else f"{value * scale:g}" for value in self.guidance_scales)
            pairs["CFG scales"] = _quoted(", ".join(scales))
        if self.guidance_rescale:
            pairs["CFG rescale"] = f"{self.guidance_rescale:g}"
        if self.apg is not None:
            pairs |= _apg(self.apg)
        if self.dynamic_thresholding is not None:
            pairs |= _thresholding(self.dynamic_thresholding)
        if self.pag_scale:
            pairs |= {"PAG scale": f"{self.pag_scale:g}", "PAG layers": _quoted(", ".join(self.pag_applied_layers))}
        if self.pag_scale and self.pag_adaptive_scale:
            pairs["PAG adaptive"] = f"{self.pag_adaptive_scale:g}"
        if self.freeu:
            pairs["FreeU"] = _quoted(", ".join(f"{name}={factor:g}" for name, factor in self.freeu.items()))
        pairs |= {_OPTIONS[name]: f"{value:g}" for name, value in self.sampler_options.items() if name in _OPTIONS}
        if self.sampler == "ddim" and "eta" in self.sampler_options:
            pairs["Eta DDIM"] = f"{self.sampler_options['eta']:g}"
        if self.sampler_options:
            pairs["Sampler options"] = _quoted(", ".join(f"{k}={v}" for k, v in self.sampler_options.items()))
        told = {lora.name: lora.weights for lora in self.loras if lora.weights is not None}  # as the keyword takes them
        if told:
            pairs["Lora weights"] = _quoted(json.dumps(told, ensure_ascii=False, default=_listed))
        for index, control in enumerate((*self.control_nets, *self.t2i_adapters)):
            pairs[f"ControlNet {index}"] = _quoted(control.unit)
        pairs |= {f"Image prompt {index}": _quoted(one.text) for index, one in enumerate(self.image_prompts)}
        pairs |= {f"Region {index}": _quoted(one.text) for index, one in enumerate(self.regions)}
        if self.detail is not None:
            pairs |= self.detail.pairs
        if self.batch_index:
            pairs["Batch pos"] = self.batch_index
        pairs["Version"] = f"latentrt {version('latentrt')}"
        tags = [lora.tag for lora in self.loras if not lora.in_prompt]
        lines = [" ".join([*([self.prompt] if self.prompt else []), *tags])]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in pairs.items())])


def _apg(apg: "Apg") -> dict[str, str]:
    """The settings of adaptive projected guidance, which A1111 does not have."""
    pairs = {name: f"{getattr(apg, name):g}" for name in ("eta", "norm_threshold", "momentum")}
    pairs |= {} if apg.space == "output" else {"space": str(apg.space)}
    return {f"APG {name.replace('_', ' ')}": value for name, value in pairs.items()}


def _thresholding(settings: "DynamicThresholding") -> dict[str, str]:
    """The settings of dynamic thresholding as A1111's extension writes them."""
    pairs = {
        "Dynamic thresholding enabled": "True",
        "Mimic scale": f"{settings.mimic_scale:g}",
        "Separate Feature Channels": str(settings.separate_feature_channels),
        "Scaling Startpoint": settings.scaling_startpoint.upper(),
        "Variability Measure": settings.variability_measure.upper(),
        "Interpolate Phi": f"{settings.interpolate_phi:g}",
        "Threshold percentile": f"{settings.threshold_percentile:g}",
    }
    mimic, cfg = settings.modes
    for name, mode, least in (("Mimic", mimic, settings.mimic_scale_min), ("CFG", cfg, settings.cfg_scale_min)):
        if mode != "constant":
            pairs |= {f"{name} mode": mode.replace("_", " ").title(), f"{name} scale minimum": f"{least:g}"}
    if mimic.takes_value or cfg.takes_value:
        pairs["Scheduler value"] = f"{settings.scheduler_value:g}"
    return pairs


def _hashes(short: Mapping[str, str]) -> str:
    """Hashes by name as A1111 writes them; separators in a name are left out there, too."""
    names = {name.replace(":", "").replace(",", ""): value for name, value in short.items()}
    return _quoted(", ".join(f"{name}: {value}" for name, value in names.items()))


def _plain(name: str) -> str:
    """A name without the characters that separate settings."""
    return name.replace(",", "").replace(":", "")


def _listed(value: Any) -> Any:
    """NumPy's numbers and arrays, and other sequences, as JSON writes them."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _quoted(value: str) -> str:
    """A value as A1111 writes it: in JSON's quotes where it holds a separator."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:\n"') else value
