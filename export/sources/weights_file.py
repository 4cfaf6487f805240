"""A model's file of weights, with torch's tensors made of it where they are asked for."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentrt.engines.errors import CheckpointError
from latentrt.engines.tensors.tensor_file import Format, TensorFile, TensorFileError, open_tensor_file
from latentrt.export.sources.foreign_files import check_kind


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
        """Of all tensors."""
        return {key: tensor.shape for key, tensor in self.file.tensors.items()}

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

        Raises:
            CheckpointError: one of a type that is not read.
        """
        return {key: self.tensor(key) for key in keys}

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
        return torch.from_numpy(bits).view(getattr(torch, self.dtypes[key]))

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
        return stored.dtype.is_finite(bits)


def open_weights_file(path: Path) -> WeightsFile:
    """Opens a file of weights.

    Raises:
        CheckpointError: it is something else, which is named, cut short, or a pickle that would run something.
    """
    check_kind(path)
    try:
        file = open_tensor_file(path)
        file.tensors  # noqa: B018  # which may be too many
    except TensorFileError as error:
        raise CheckpointError(str(error)) from error
    return WeightsFile(file)
