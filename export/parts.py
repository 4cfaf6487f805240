"""Where a component's configuration and weights are read from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from safetensors import safe_open

# The file of each part's weights in a diffusers folder; large ones come in shards with an index beside them
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


class Part(Protocol):
    """One component of a checkpoint, checked but not loaded."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration as diffusers or transformers stores it."""
        ...

    @property
    def files(self) -> Mapping[str, Path]:
        """Every file that loading reads, under the name that the bundle records."""
        ...

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        ...

    def module(self) -> Any:
        """The torch module in fp32 on the CPU, in evaluation mode; each call loads it anew.

        Raises:
            OSError, ValueError, RuntimeError, KeyError: weights that do not fit the configuration.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FolderPart:
    """A part of a diffusers folder."""

    name: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def files(self) -> Mapping[str, Path]:
        """The configuration and the weights."""
        here = self.folder / self.name
        paths = [path for path in here.iterdir() if path.suffix == ".json"] + weight_files(self.folder, self.name)
        return {f"{self.name}/{path.name}": path for path in paths}

    @cached_property
    def parameters(self) -> int:
        """From the headers of the files."""
        total = 0
        for path in weight_files(self.folder, self.name):
            weights: Any = safe_open(path, "numpy")
            total += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        return total

    def module(self) -> Any:
        """Loads the part."""
        import torch

        folder = self.folder / self.name
        kind = module_class(self.name)
        if self.name.startswith("text_encoder"):
            return kind.from_pretrained(folder, dtype=torch.float32).eval()
        return kind.from_pretrained(folder, torch_dtype=torch.float32).eval()


def module_class(part: str) -> Any:
    """The library's class of a part."""
    import diffusers
    import transformers

    return {
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
    }[part]


def weight_files(folder: Path, part: str) -> list[Path]:
    """The files that the libraries will read: the whole one, or the shards; not variants such as fp16."""
    whole = folder / part / WEIGHTS[part]
    return [whole] if whole.is_file() else sorted((folder / part).glob(f"{whole.stem}-*-of-*.safetensors"))
