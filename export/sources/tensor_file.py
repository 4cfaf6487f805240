"""A file of tensors, known by its content and not by its name: safetensors, or what ``torch.save`` writes.

A pickle is read by torch's own restricted reader. Of the names in it only tensors and plain containers are looked up;
those that training leaves in old checkpoints become empty stand-ins; any other is refused. Nothing in it runs.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.foreign_files import FileKind, kind_of_file

# The names of safetensors for what torch calls otherwise
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The tensors of a file, by name: shapes and dtypes are known, numbers are read when they are asked for.

    ``metadata`` is a safetensors header's; ``numbers`` are whole numbers beside the tensors, such as ``global_step``.
    """

    path: Path
    kind: FileKind
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    numbers: Mapping[str, int]
    read: Callable[[Iterable[str]], dict[str, Any]]

    @property
    def renamed(self) -> bool:
        """Whether the name says that it is of the other kind."""
        return (self.path.suffix.lower() == ".safetensors") != (self.kind is FileKind.SAFETENSORS)

    def parameters(self, keys: Iterable[str]) -> int:
        """How many numbers some of the tensors hold."""
        return sum(math.prod(self.shapes[key]) for key in keys)


def open_tensor_file(path: Path) -> TensorFile:
    """Opens a file of tensors.

    Raises:
        CheckpointError: it is something else, which is named, cut short, or a pickle that would run something.
    """
    kind = kind_of_file(path)
    if kind is FileKind.SAFETENSORS:
        return _open_safetensors(path)
    return _open_torch(path, kind)


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file: Any = safe_open(path, "pt")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{str(path)!r} is damaged or cut short ({error}), expected a whole safetensors file; download it again"
        ) from error
    return TensorFile(
        path=path,
        kind=FileKind.SAFETENSORS,
        shapes={key: tuple(tensor.get_shape()) for key, tensor in slices.items()},
        dtypes={key: _DTYPES.get(tensor.get_dtype(), tensor.get_dtype()) for key, tensor in slices.items()},
        metadata=metadata,
        numbers={},
        read=lambda keys: {key: file.get_tensor(key) for key in keys},
    )


class _StandIn:
    """Takes the place of an object that checkpoints carry and a build does not need."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What PyTorch Lightning and NumPy leave in the checkpoints of SD 1.x's time beside the tensors
_LEFT_BY_TRAINING = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)
_NAME_IN_ERROR = re.compile(r"GLOBAL ([\w.]+)")


def _open_torch(path: Path, kind: FileKind) -> TensorFile:
    import torch

    try:
        # A class of its own per name: torch finds an allowed object back by its name
        stand_ins = [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in _LEFT_BY_TRAINING]
        with torch.serialization.safe_globals(stand_ins):
            if path.suffix.lower() == ".safetensors":  # which torch.load would believe
                with path.open("rb") as file:
                    tree = torch.load(file, map_location="cpu", weights_only=True)
            else:
                tree = torch.load(path, map_location="cpu", weights_only=True, mmap=kind is FileKind.TORCH_ZIP)
    except Exception as error:  # a damaged pickle can raise anything
        named = _NAME_IN_ERROR.search(str(error))
        if named:
            raise CheckpointError(
                f"{str(path)!r} is a pickle that asks for {named[1]}, expected tensors and plain containers only; "
                "nothing of it was run; take a safetensors file, or one from its author"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(
            f"{str(path)!r} is damaged or cut short ({reason}), expected what torch.save writes; download it again"
        ) from error
    tensors: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    _flatten(tree, "", tensors, numbers, depth=4)
    return TensorFile(
        path=path,
        kind=kind,
        shapes={key: tuple(tensor.shape) for key, tensor in tensors.items()},
        dtypes={key: str(tensor.dtype).removeprefix("torch.") for key, tensor in tensors.items()},
        metadata={},
        numbers=numbers,
        read=lambda keys: {key: tensors[key] for key in keys},
    )


def _flatten(tree: Any, prefix: str, tensors: dict[str, Any], numbers: dict[str, int], *, depth: int) -> None:
    """Tensors by the path to them; ``state_dict``, which holds a checkpoint's own, is no part of the path.

    No deeper than ``depth``: a pickle may hold itself.
    """
    import torch

    for key, value in tree.items() if isinstance(tree, dict) else ():
        name = f"{prefix}{key}"
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, dict) and depth:
            _flatten(value, "" if name == "state_dict" else f"{name}.", tensors, numbers, depth=depth - 1)
        elif type(value) is int:
            numbers[name] = value
