"""What a picture's settings tell of what came behind its first pass: a hires fix, a detail pass."""

from dataclasses import dataclass

from latentrt.runtime.metadata.a1111_text import plain, quoted

# A1111's names for what enlarges in its hires fix; Pillow's bicubic filter is not among them
UPSCALERS = {
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
            "Hires upscaler": quoted(UPSCALERS.get(self.upscaler, self.upscaler)),
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
                pairs[name] = quoted(value)
        return pairs


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
            pairs |= {"ADetailer model": plain(self.detector), "ADetailer confidence": f"{self.confidence:g}"}
        return {
            **pairs,
            "ADetailer dilate erode": str(self.dilation),
            "ADetailer mask blur": f"{self.mask_blur:g}",
            "ADetailer denoising strength": f"{self.strength:g}",
            "ADetailer inpaint only masked": "True",
            "ADetailer inpaint padding": str(self.padding),
            "Detail regions": " / ".join(" ".join(map(str, box)) for box in self.boxes) or "none",
        }
