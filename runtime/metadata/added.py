"""What a picture's settings tell of what was added to the model: LoRAs, control nets, image prompts; and of regions."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from latentrt.runtime.metadata.a1111_text import listed, plain

_CONTROL_MODES = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
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
            "Model": plain(self.net),
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
        told = [f"Model: {plain(self.adapter)}", f"Weight: {self.scale:g}"]
        told += [f"Images: {self.images}"] if self.images > 1 else []
        if self.blocks is not None:
            blocks = self.blocks if isinstance(self.blocks, str) else json.dumps(self.blocks, default=listed)
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
