"""A file of tensors: safetensors, or what ``torch.save`` writes, known by its content and not by its name.

Opening reads names, types and shapes; numbers stay in the file, mapped, until a tensor is asked for. Nothing in a file
runs, torch is not needed, and no claim of a file is believed: what it would take is compared with what is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.errors import LatentrtError
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import StoredDtype

_DEPTH = 4  # of containers inside containers; one may hold itself
_MOST_ENTRIES = 2**20  # of all containers together


class TensorFileError(LatentrtError):
    """A file of tensors that cannot be read, in one sentence; whoever asked for it raises it as an error of its own."""


class ForeignContentError(Exception):
    """A file asks for something that is no tensor or plain container; the text names it."""


class DamagedError(Exception):
    """A file does not hold what it says."""


class UnreadableError(Exception):
    """A file is whole and breaks a rule of its format; the text says which, what was expected, and what to do."""


class Format(StrEnum):
    """The forms in which tensors are read."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch.save's archive"
    TORCH_STREAM = "torch.save's older stream"


@dataclass(frozen=True)
class Source:
    """A file's bytes, mapped once: private pages, so that whoever writes to them changes nothing but a copy."""

    path: Path

    @cached_property
    def bytes(self) -> Array:
        """All of them."""
        return np.memmap(self.path, np.uint8, "c").view(np.ndarray)


@dataclass(frozen=True, slots=True)
class Block:
    """Where numbers lie in a row: ``size`` bytes at ``offset``, or ``content`` where a file had to be unpacked."""

    source: Source
    offset: int
    size: int
    content: bytes | None = None

    def numbers(self, start: int, count: int, dtype: np.dtype[Any]) -> Array:
        """(count,) numbers from the ``start``-th on."""
        if self.content is not None:
            return np.frombuffer(self.content, dtype, count, start * dtype.itemsize).copy()
        begin = self.offset + start * dtype.itemsize
        numbers = self.source.bytes[begin : begin + count * dtype.itemsize].view(dtype)
        return numbers if numbers.flags.aligned else numbers.copy()


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: its type and shape are known, and checked against the file; its numbers are not read."""

    dtype: StoredDtype | None  # None: one that is not read
    dtype_name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None  # in numbers; None: one behind the other
    start: int
    block: Block

    def __setstate__(self, state: object) -> None:
        """A pickle changes nothing of it."""

    def bits(self) -> Array:
        """The numbers in the shape of the tensor, in the file's own type; float8 and bfloat16 as whole numbers.

        They are mapped where they lie, if they are aligned; writing to them changes no file.

        Raises:
            TensorFileError: they are of a type that is not read.
        """
        if self.dtype is None:
            raise TensorFileError(
                f"{str(self.block.source.path)!r} holds {self.dtype_name} numbers, expected floats or whole numbers of "
                "whole bytes; take the model in another type"
            )
        dtype = np.dtype(self.dtype.bits)
        if self.stride is None:
            return self.block.numbers(self.start, prod(self.shape), dtype).reshape(self.shape)
        span = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        numbers = self.block.numbers(self.start, 0 if 0 in self.shape else span, dtype)
        steps = [step * dtype.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(numbers, self.shape, steps)

    def array(self) -> Array:
        """The numbers as NumPy can compute with them: bfloat16 and float8 exactly as float32."""
        bits = self.bits()
        return bits if self.dtype is None else self.dtype.values(bits)


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """What a file holds.

    Attributes:
        path: the file.
        format: its form.
        tree: what was saved, with a StoredTensor for each tensor: of safetensors a flat dictionary.
        metadata: texts of a safetensors header.
    """

    path: Path
    format: Format
    tree: Any
    metadata: Mapping[str, str]

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Tensors by the path to them; ``state_dict``, which holds a checkpoint's own, is no part of the path."""
        return self._flat[0]

    @property
    def numbers(self) -> Mapping[str, int]:
        """Whole numbers beside the tensors, such as ``global_step``."""
        return self._flat[1]

    @property
    def objects(self) -> tuple[str, ...]:
        """The classes of what a pickle holds beside tensors and plain containers, next to the top."""
        if self.format is Format.SAFETENSORS or not isinstance(self.tree, dict):
            return ()
        from latentrt.engines.tensors.stand_ins import StandIn

        return tuple(type(value).__name__ for value in self.tree.values() if isinstance(value, StandIn))

    @cached_property
    def _flat(self) -> tuple[dict[str, StoredTensor], dict[str, int]]:
        tensors: dict[str, StoredTensor] = {}
        numbers: dict[str, int] = {}
        left = _MOST_ENTRIES

        def flatten(tree: Any, prefix: str, depth: int) -> None:
            nonlocal left
            for key, value in tree.items() if isinstance(tree, dict) else ():
                left -= 1
                if left < 0:
                    raise TensorFileError(
                        f"{str(self.path)!r} holds more than {_MOST_ENTRIES} entries, expected far less; take another"
                    )
                name = f"{prefix}{key}"
                if isinstance(value, StoredTensor):
                    tensors[name] = value
                elif isinstance(value, dict) and depth:
                    flatten(value, "" if name == "state_dict" else f"{name}.", depth - 1)
                elif type(value) is int:
                    numbers[name] = value

        flatten(self.tree, "", _DEPTH)
        return tensors, numbers


def is_safetensors(head: bytes) -> bool:
    """Whether a file's first nine bytes are the length of a header and its beginning; in a text, no such number."""
    return head[8:9] == b"{" and not head.startswith(b"PK") and int.from_bytes(head[:8], "little") < 2**48


def open_tensor_file(path: Path, name: str | None = None) -> TensorFile:
    """Opens a file of tensors.

    Args:
        path: the file.
        name: what messages call it; None takes the path.

    Raises:
        TensorFileError: it cannot be read, is cut short or damaged, is no such file, or asks for anything but tensors
            and plain containers, which is named.
    """
    name = str(path) if name is None else name
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise TensorFileError(f"{name!r} cannot be read ({error.strerror or error}); check the path") from error
    if is_safetensors(head):
        from latentrt.engines.tensors.safetensors_file import read_safetensors

        try:
            tree, metadata = read_safetensors(path)
        except UnreadableError as error:
            raise TensorFileError(f"{name!r} {' '.join(str(error).split())}") from error
        except (DamagedError, OSError, ValueError, RecursionError) as error:
            raise TensorFileError(
                f"{name!r} is cut short or damaged ({_reason(error)}), expected a whole safetensors file; "
                "download it again"
            ) from error
        return TensorFile(path=path, format=Format.SAFETENSORS, tree=tree, metadata=metadata)
    from latentrt.engines.tensors.torch_file import read_torch_file

    try:
        form = Format.TORCH_ZIP if head.startswith(b"PK\x03\x04") else Format.TORCH_STREAM
        return TensorFile(path=path, format=form, tree=read_torch_file(path, form), metadata={})
    except ForeignContentError as error:
        raise TensorFileError(
            f"{name!r} holds {_reason(error)}, expected tensors and plain containers only; nothing of it was run; "
            "save it as safetensors, or take a file from its author"
        ) from error
    except RecursionError as error:
        raise TensorFileError(f"{name!r} is nested too deep, expected a file of tensors; download it again") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise TensorFileError(
            f"{name!r} is cut short or no torch file ({_reason(error)}), expected what torch.save writes; "
            "download it again"
        ) from error


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
