"""Where a component's configuration and weights are read from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from latentrt.export.sources.single_file.ldm_layout import fitting_tensors
from latentrt.export.sources.weights_file import WeightsFile, open_weights_file


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

    @property
    def dtypes(self) -> frozenset[str]:
        """The types in which its weights are stored, in torch's names."""
        ...

    def module(self) -> Any:
        """The torch module in fp32 on the CPU, in evaluation mode; each call loads it anew.

        Raises:
            OSError, ValueError, RuntimeError, KeyError: weights that do not fit the configuration.
            CheckpointError: weights that are missing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FolderPart:
    """A part in a folder of its own, as diffusers and transformers save it.

    ``weights`` are the whole file or its shards, of one variant; ``recorded`` is what the bundle calls the folder.
    """

    name: str
    folder: Path
    recorded: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    variant: str | None

    @property
    def files(self) -> Mapping[str, Path]:
        """The configuration and the weights."""
        paths = [path for path in self.folder.iterdir() if path.suffix == ".json"] + list(self.weights)
        return {f"{self.recorded}/{path.name}": path for path in paths}

    @cached_property
    def _tensors(self) -> Mapping[str, tuple[int, str]]:
        found: dict[str, tuple[int, str]] = {}
        for path in self.weights:
            file = open_weights_file(path)
            found |= {key: (math.prod(shape), file.dtypes[key]) for key, shape in file.shapes.items()}
        return found

    @property
    def parameters(self) -> int:
        """From the headers of the files."""
        return sum(size for size, _ in self._tensors.values())

    @property
    def dtypes(self) -> frozenset[str]:
        """From the headers of the files."""
        return frozenset(dtype for _, dtype in self._tensors.values())

    def module(self) -> Any:
        """Loads the part; the libraries read pickles (``.bin``) with torch's restricted reader, as their check did."""
        import torch

        kind = module_class(self.name)
        options = {"variant": self.variant, "use_safetensors": self.weights[0].suffix == ".safetensors"}
        if self.name.startswith("text_encoder"):
            return kind.from_pretrained(self.folder, dtype=torch.float32, **options).eval()
        return kind.from_pretrained(self.folder, torch_dtype=torch.float32, **options).eval()


@dataclass(frozen=True, kw_only=True)
class FilePart:
    """A part of a single file: some of its tensors, under other names.

    ``keys`` gives the tensor in the file for each name that ``convert`` knows; ``convert`` turns those into the
    library's; ``recorded`` is what the bundle calls the file.
    """

    name: str
    recorded: str
    config: Mapping[str, Any]
    file: WeightsFile
    keys: Mapping[str, str]
    convert: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]

    @property
    def files(self) -> Mapping[str, Path]:
        """The one file."""
        return {self.recorded: self.file.path}

    @property
    def parameters(self) -> int:
        """From the file's header."""
        return self.file.parameters(self.keys.values())

    @property
    def dtypes(self) -> frozenset[str]:
        """From the file's header."""
        return frozenset(self.file.dtypes[key] for key in self.keys.values() if self.file.shapes[key])

    def check(self) -> list[str]:
        """Compares names and shapes with the module's, without reading a weight; returns what has no place in it.

        Tensors that are taken apart on the way count as having none, which holds for text encoders' alone.

        Raises:
            CheckpointError: tensors are missing or of other shapes.
        """
        import torch

        empty = {name: torch.empty(self.file.shapes[key], device="meta") for name, key in self.keys.items()}
        placed = fitting_tensors(self.name, self.convert(empty, self.config), self._empty_module())
        used = {id(tensor) for tensor in placed.values()}
        return [self.keys[name] for name, tensor in empty.items() if id(tensor) not in used]

    def module(self) -> Any:
        """Loads the part."""
        import torch

        stored = self.file.read(self.keys.values())
        converted = self.convert({name: stored[key] for name, key in self.keys.items()}, self.config)
        module = self._empty_module()
        state = {
            key: tensor.to(torch.float32).contiguous()
            for key, tensor in fitting_tensors(self.name, converted, module).items()
        }
        module.load_state_dict(state, strict=True, assign=True)
        return module.eval().requires_grad_(requires_grad=False)

    def _empty_module(self) -> Any:
        from accelerate import init_empty_weights

        kind = module_class(self.name)
        with init_empty_weights():
            if self.name.startswith("text_encoder"):
                return kind(kind.config_class(**self.config))
            return kind.from_config(dict(self.config))


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
