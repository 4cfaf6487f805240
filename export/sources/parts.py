"""Where a component's configuration and weights are read from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentrt.engines.changes import Changes
from latentrt.engines.errors import CheckpointError
from latentrt.export.quiet import quiet
from latentrt.export.sources.checks.fitting import FittingError, fitting_tensors, header_faults, named
from latentrt.export.sources.checks.unread import is_idle
from latentrt.export.sources.family import POSE_PART
from latentrt.export.sources.single_file.ldm_layout import clip_tensors, diffusers_vae_tensors, is_left_out
from latentrt.export.sources.weights_file import WeightsFile, open_weights_file

FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
# OpenCLIP's names for what its converter takes apart or turns, so that no tensor of the module is the file's own
_TAKEN_APART = (".in_proj_weight", ".in_proj_bias")
_OF_TRANSFORMERS = ("text_encoder", "text_encoder_2", "image_encoder")
_TEMPORAL = ("UNetSpatioTemporalConditionModel", "AutoencoderKLTemporalDecoder")
# The names of a pose's projection in the folders that there are
_POSE_SCOPES = ("projection.", "proj.")


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """One component of a checkpoint: known from the headers of its files, loaded when it is asked for.

    ``config`` is as diffusers or transformers stores it; ``recorded`` is what the bundle calls the folder or the file.
    ``changes`` are applied to the weights as they are loaded.
    """

    name: str
    recorded: str
    config: Mapping[str, Any]
    changes: Changes | None = None

    @property
    @abstractmethod
    def files(self) -> Mapping[str, Path]:
        """Every file that loading reads, under the name that the bundle records."""

    @property
    @abstractmethod
    def places(self) -> Mapping[str, tuple[WeightsFile, str]]:
        """The file and the name there of each tensor, by the name that ``converted`` knows."""

    @abstractmethod
    def converted(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors of ``places`` under the library's names."""

    @property
    def parameters(self) -> int:
        """How many weights it has, from the headers."""
        return sum(math.prod(file.shapes[key]) for file, key in self.places.values())

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its weights by the names that a bundle and adapters know; without torch for a folder.

        Raises:
            CheckpointError: tensors that the libraries' converters cannot read.
        """
        floats = {name: place for name, place in self.places.items() if self._dtype(name) in FLOATS}
        return {self._weight_name(name): shape for name, shape in self._converted_shapes(floats).items()}

    @abstractmethod
    def _converted_shapes(self, places: Mapping[str, tuple[WeightsFile, str]]) -> dict[str, tuple[int, ...]]:
        """Shapes of some of ``places`` under the library's names."""

    def _weight_name(self, name: str) -> str:
        return encoder_weight_name(name) if self.name.startswith("text_encoder") else name

    @property
    def dtypes(self) -> frozenset[str]:
        """The types in which its weights are stored, in torch's names, from the headers."""
        return frozenset(file.dtypes[key] for file, key in self.places.values() if file.shapes[key])

    @property
    def called(self) -> str:
        """The part and its first file, for messages."""
        file, _ = next(iter(self.places.values()), (None, ""))
        path = None if file is None else next((name for name, path in self.files.items() if path == file.path), None)
        return f"{self.name} ({path or self.recorded})"

    def header_faults(self) -> list[str]:
        """What is wrong with its tensors, as far as the headers tell without torch."""
        return []

    @cached_property
    def read(self) -> frozenset[str]:
        """The names in ``places`` of what the module takes, found without reading a weight.

        Raises:
            CheckpointError: tensors are missing, of other shapes or of types that are no weights; some are named.
        """
        import torch

        empty = {name: torch.empty(file.shapes[key], device="meta") for name, (file, key) in self.places.items()}
        placed = self._fitting(empty, self._empty_module())
        used = {id(tensor) for tensor in placed.values()} | {id(tensor._base) for tensor in placed.values()}
        read = frozenset(
            name
            for name, tensor in empty.items()
            if id(tensor) in used
            or name.endswith(_TAKEN_APART)
            or (name == "text_projection" and self.name == "text_encoder_2")
        )
        odd = {name: dtype for name in sorted(read) if (dtype := self._dtype(name)) not in FLOATS}
        if odd:
            types = ", ".join(sorted(set(odd.values())))
            raise CheckpointError(
                f"{self.called} is stored as {types} ({named(odd)}), expected float32, float16 or bfloat16"
            )
        return read

    @property
    def unread(self) -> tuple[str, ...]:
        """What the files hold of it and the module does not take, by the files' names; known idle tensors aside."""
        return tuple(
            key
            for name, (_, key) in self.places.items()
            if name not in self.read and not is_idle(key) and not self._left_out(name)
        )

    def value_fault(self) -> str | None:
        """Reads all weights once and names those that are NaN or infinite in float32, if there are any."""
        broken = [key for name, (file, key) in self.places.items() if name in self.read and not file.is_finite(key)]
        return f"{self.called} has NaN or infinite numbers in {named(broken)}" if broken else None

    def module(self) -> Any:
        """The torch module in fp32 on the CPU, in evaluation mode; each call loads it anew.

        Raises:
            CheckpointError: tensors are missing or of other shapes.
        """
        import torch

        stored = {name: file.tensor(key) for name, (file, key) in self.places.items()}
        module = self._empty_module()
        state = {
            key: self._changed(key, tensor.to(torch.float32).contiguous())
            for key, tensor in self._fitting(stored, module).items()
        }
        module.load_state_dict(state, strict=True, assign=True)
        return module.eval().requires_grad_(requires_grad=False)

    def _changed(self, key: str, tensor: Any) -> Any:
        """A float32 weight with what is changed about it.

        Raises:
            CheckpointError: numbers that float32 cannot hold come of it.
        """
        import torch

        change = None if self.changes is None else self.changes.weights.get(self._weight_name(key))
        if change is None:
            return tensor
        changed = torch.from_numpy(change(tensor.numpy())).contiguous()
        if not changed.isfinite().all():
            raise CheckpointError(
                f"{self.called} gets NaN or infinite numbers from the LoRAs in {key}; lower their weights"
            )
        return changed

    def _dtype(self, name: str) -> str:
        file, key = self.places[name]
        return file.dtypes[key]

    def _left_out(self, name: str) -> bool:
        """Whether such a part is known to do without a tensor: OpenCLIP's last layer, a projection for the pooled."""
        if self.name == "text_encoder" and name.startswith("text_projection"):
            return True
        if self.name == "image_encoder":  # of a whole CLIP model
            return name.startswith(("text_model.", "text_projection."))
        return self.name.startswith("text_encoder") and is_left_out(name, self.config["num_hidden_layers"])

    def _fitting(self, tensors: Mapping[str, Any], module: Any) -> dict[str, Any]:
        with self._converting():
            return fitting_tensors(self.converted(tensors), module)

    @contextmanager
    def _converting(self) -> Iterator[None]:
        """Turns what is wrong with tensors into errors that name the part."""
        try:
            yield
        except FittingError as error:
            raise CheckpointError(f"{self.called} {error}") from error
        except Exception as error:  # the libraries' converters believe what they are given
            first = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"{self.called} has tensors that cannot be put into the module's form ({type(error).__name__}: {first})"
            ) from error

    def _empty_module(self) -> Any:
        """The library's module without storage for its weights."""
        from accelerate import init_empty_weights

        kind = module_class(self.name, self.config)
        try:
            with init_empty_weights(), quiet():
                if self.name in _OF_TRANSFORMERS:
                    return kind(kind.config_class.from_dict(dict(self.config)))
                return kind.from_config(dict(self.config))
        except Exception as error:  # whatever a strange value leads to
            first = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"the config of {self.called} describes no {kind.__name__} ({type(error).__name__}: {first})"
            ) from error


@dataclass(frozen=True, kw_only=True)
class FolderPart(Part):
    """A part in a folder of its own, as diffusers and transformers save it.

    ``weights`` are the whole file or its shards, of one variant.
    """

    folder: Path
    weights: tuple[Path, ...]
    variant: str | None

    @property
    def files(self) -> Mapping[str, Path]:
        """The configuration and the weights."""
        paths = [path for path in self.folder.iterdir() if path.suffix == ".json"] + list(self.weights)
        return {f"{self.recorded}/{path.name}": path for path in paths}

    @cached_property
    def places(self) -> Mapping[str, tuple[WeightsFile, str]]:
        """The library's names are the files' own."""
        return {key: (file, key) for file in map(open_weights_file, self.weights) for key in file.shapes}

    def header_faults(self) -> list[str]:
        """Names and shapes that its config tells, compared with the files'."""
        if self.name == POSE_PART:  # whose config its tensors tell
            return []
        shapes = {name: file.shapes[key] for name, (file, key) in self.places.items()}
        return [f"{self.called} {fault}" for fault in header_faults(self.name, self.config, shapes)]

    def _converted_shapes(self, places: Mapping[str, tuple[WeightsFile, str]]) -> dict[str, tuple[int, ...]]:
        return self.converted({name: file.shapes[key] for name, (file, key) in places.items()})

    def converted(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The same, but for names of earlier releases."""
        if self.name == "vae":
            return diffusers_vae_tensors(tensors)
        if self.name == POSE_PART:
            return {_without(_POSE_SCOPES, name): tensor for name, tensor in tensors.items()}
        return clip_tensors(tensors, self.config) if self.name.startswith("text_encoder") else dict(tensors)


@dataclass(frozen=True, kw_only=True)
class FilePart(Part):
    """A part of a single file: some of its tensors, under other names.

    ``keys`` gives the tensor in the file for each name that ``convert`` knows; ``convert`` turns those into the
    library's.
    """

    file: WeightsFile
    keys: Mapping[str, str]
    convert: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]

    @property
    def files(self) -> Mapping[str, Path]:
        """The one file."""
        return {self.recorded: self.file.path}

    @cached_property
    def places(self) -> Mapping[str, tuple[WeightsFile, str]]:
        """All in the one file."""
        return {name: (self.file, key) for name, key in self.keys.items()}

    def _converted_shapes(self, places: Mapping[str, tuple[WeightsFile, str]]) -> dict[str, tuple[int, ...]]:
        import torch

        empty = {name: torch.empty(file.shapes[key], device="meta") for name, (file, key) in places.items()}
        with self._converting():
            return {name: tuple(tensor.shape) for name, tensor in self.converted(empty).items()}

    def converted(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """By the layout's converter."""
        return self.convert(tensors, self.config)


def encoder_weight_name(name: str) -> str:
    """A text encoder's weight as checkpoints name it: transformers 5 leaves ``text_model`` out."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _without(scopes: Iterable[str], name: str) -> str:
    """A name without the first scope that it begins with."""
    return next((name.removeprefix(scope) for scope in scopes if name.startswith(scope)), name)


def module_class(part: str, config: Mapping[str, Any]) -> Any:
    """The class of a part, the library's but for a pose's projection; the config names it where there are several."""
    import diffusers
    import transformers

    if part == POSE_PART:
        from latentrt.export.modules.pose import PoseProjection

        return PoseProjection
    if config.get("_class_name") in _TEMPORAL:
        return getattr(diffusers, config["_class_name"])
    return {
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "controlnet": diffusers.ControlNetModel,
        "controlnet_union": diffusers.ControlNetUnionModel,
        "t2i_adapter": diffusers.T2IAdapter,
        "image_encoder": transformers.CLIPVisionModelWithProjection,
    }[part]
