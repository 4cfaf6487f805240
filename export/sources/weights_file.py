"""A model's file of weights, with torch's tensors made of it where they are asked for."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentrt.engines.errors import CheckpointError
from latentrt.engines.spec import Array
from latentrt.engines.tensors.tensor_file import (
    Format,
    StoredTensor,
    TensorFile,
    TensorFileError,
    open_tensor_file,
)
from latentrt.export.sources.foreign.files import check_kind, refusal

SHARD = re.compile(r"-(\d{5})-of-(\d{5})")  # in the names of files that are a part of a model's weights
# What stands beside the scales of a model in float8, as ComfyUI writes it: marks, and the scales of activations
_BESIDE_SCALES = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant")


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file, by name: shapes and dtypes are known, numbers are read when they are asked for."""

    file: TensorFile

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.file.path

    @property
    def format(self) -> Format:
        """The form of its content."""
        return self.file.format

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of all tensors but the scales of others."""
        tensors, scales = self.file.tensors, self._scales
        hidden = set(scales.values())
        return {
            key: tensor.shape
            for key, tensor in tensors.items()
            if key not in hidden and not (scales and key.endswith(_BESIDE_SCALES))
        }

    @cached_property
    def _scales(self) -> Mapping[str, str]:
        """Of weights in float8 that were divided by a number, or a number a row, the tensor that holds it."""
        tensors, found = self.file.tensors, {}
        for key, tensor in tensors.items():
            if not tensor.dtype_name.startswith("float8"):
                continue
            for name in (f"{key}_scale", key.removesuffix("weight") + "scale_weight"):
                scale = tensors.get(name)
                rows = (1, *tensor.shape[:1])
                if scale is not None and "float" in scale.dtype_name and math.prod(scale.shape) in rows:
                    found[key] = name
        return found

    @cached_property
    def dtypes(self) -> Mapping[str, str]:
        """In torch's names."""
        return {key: tensor.dtype_name for key, tensor in self.file.tensors.items()}

    @property
    def metadata(self) -> Mapping[str, str]:
        """A safetensors header's."""
        return self.file.metadata

    @property
    def numbers(self) -> Mapping[str, int]:
        """Whole numbers beside the tensors, such as ``global_step``."""
        return self.file.numbers

    @property
    def renamed(self) -> bool:
        """Whether the name says that it is of the other kind."""
        return (self.path.suffix.lower() == ".safetensors") != (self.format is Format.SAFETENSORS)

    def parameters(self, keys: Iterable[str]) -> int:
        """How many numbers some of the tensors hold."""
        return sum(math.prod(self.shapes[key]) for key in keys)

    def read(self, keys: Iterable[str]) -> dict[str, Any]:
        """Some tensors as torch's, in the file's types; mapped, and whoever writes to them changes no file.

        Those in float8 with a scale beside them are in float32, with it.

        Raises:
            CheckpointError: one of a type that is not read.
        """
        return {key: self.tensor(key) for key in keys}

    def array(self, key: str) -> Array:
        """A tensor's numbers as NumPy's, without torch.

        Raises:
            CheckpointError: it is of a type that is not read.
        """
        try:
            return self.file.tensors[key].array()
        except TensorFileError as error:
            raise CheckpointError(f"{key}: {error}") from error

    def tensor(self, key: str) -> Any:
        """One of them.

        Raises:
            CheckpointError: it is of a type that is not read.
        """
        import torch

        try:
            bits = self.file.tensors[key].bits()
        except TensorFileError as error:
            raise CheckpointError(f"{key}: {error}") from error
        stored = torch.from_numpy(bits).view(getattr(torch, self.dtypes[key]))
        if key not in self._scales:
            return stored
        scale = torch.from_numpy(self.array(self._scales[key]).astype("float32"))
        return stored.float() * scale.reshape(-1, *(1,) * (stored.ndim - 1))

    def is_finite(self, key: str) -> bool:
        """Whether a tensor's numbers are finite in float32. Reads them all, without torch.

        Raises:
            CheckpointError: it is of a type that is not read.
        """
        stored = self.file.tensors[key]
        try:
            bits = stored.bits()
        except TensorFileError as error:
            raise CheckpointError(f"{key}: {error}") from error
        assert stored.dtype is not None
        scale = self._scales.get(key)
        return stored.dtype.is_finite(bits) and (scale is None or self.is_finite(scale))


def open_weights_file(path: Path) -> WeightsFile:
    """Opens a file of weights.

    Raises:
        CheckpointError: it is something else, which is named, cut short, or a pickle that would run something.
    """
    check_kind(path)
    try:
        file = open_tensor_file(path)
        tensors = file.tensors  # of which there may be too many
    except TensorFileError as error:
        raise CheckpointError(str(error)) from error
    if isinstance(file.tree, dict) and any(_is_hypernetwork(key, value) for key, value in file.tree.items()):
        raise refusal(path, "a hypernetwork", "it adds to another model: give that one")
    if not tensors:
        if isinstance(file.tree, StoredTensor):
            raise refusal(path, "a single tensor")
        if file.objects:
            raise refusal(
                path, f"a pickled object ({file.objects[0]}), of which nothing was run", "save its state_dict instead"
            )
        raise refusal(path, "a file without tensors")
    return WeightsFile(file)


def _is_hypernetwork(key: object, value: object) -> bool:
    """Whether an entry is a pair of small networks for a width of attention, as A1111 saves them."""
    pair = value if isinstance(value, (list, tuple)) else ()
    return type(key) is int and len(pair) == 2 and all(isinstance(network, dict) for network in pair)
