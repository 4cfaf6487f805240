"""An adapter as it lies on disk: one file of tensors, or a folder of several."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.errors import RequestError
from latentrt.engines.files import sha256_of_file
from latentrt.engines.tensors.tensor_file import Format, TensorFile, TensorFileError, open_tensor_file
from latentrt.runtime.adapters.formats.modules import FIRST_ENCODER, SECOND_ENCODER
from latentrt.runtime.adapters.formats.peft_config import (
    CONFIG_FILE,
    PeftConfig,
    checked_config,
    config_from_file,
    entries_from_text,
)

_PEFT_MODEL = ("adapter_model.safetensors", "adapter_model.bin")
_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_INVOKE = {
    "unet": UNET,
    "text_encoder": FIRST_ENCODER,
    "text_encoder_1": FIRST_ENCODER,
    "text_encoder_2": SECOND_ENCODER,
}
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_HEADER_CONFIG = "lora_adapter_metadata"  # where diffusers keeps PEFT's configs, with a component before each entry
_SHORT = 12  # digits of A1111's short hash (extensions-builtin/Lora/network.py)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of an adapter.

    Attributes:
        file: the opened file.
        component: what a folder says that it is of; None where nothing does.
        config: PEFT's, for what no component is named in a header.
        config_path: the file beside it that this was read from, if there is one.
        configs: those of a header, by component.
    """

    file: TensorFile
    component: str | None = None
    config: PeftConfig = field(default_factory=PeftConfig)
    config_path: Path | None = None
    configs: Mapping[str, PeftConfig] = field(default_factory=dict)

    def config_of(self, component: str) -> PeftConfig:
        """What is said about a component."""
        return self.configs.get(component, self.config)


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """An adapter on disk: what it is called, and its files."""

    name: str
    parts: tuple[Part, ...]

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts of the headers; of a text that several have, the first."""
        merged: dict[str, str] = {}
        for part in self.parts:
            merged = {**part.file.metadata, **merged}
        return merged

    def digests(self) -> tuple[str, str]:
        """SHA-256 of the content, and A1111's short hash.

        Of several files, PEFT's configs among them, it is that of their digests.

        Raises:
            RequestError: a file is gone.
        """
        try:
            whole, short = zip(*(_digests(part.file) for part in self.parts), strict=True)
            configs = tuple(sha256_of_file(part.config_path) for part in self.parts if part.config_path is not None)
        except OSError as error:
            raise RequestError(f"{self.name!r} cannot be read ({error.strerror or error}); check the path") from error
        files = (*whole, *configs)
        together = files[0] if len(files) == 1 else hashlib.sha256(" ".join(files).encode()).hexdigest()
        return together, short[0] if len(short) == 1 else together[:_SHORT]


def _digests(file: TensorFile) -> tuple[str, str]:
    whole = sha256_of_file(file.path)
    own = file.metadata.get("sshs_model_hash", "")
    if file.format is not Format.SAFETENSORS:
        return whole, whole[:_SHORT]
    if len(own) >= _SHORT and own.isalnum() and own.isascii():  # LyCORIS begins it with 0x, which A1111 keeps
        return whole, own[:_SHORT]
    with file.path.open("rb") as opened:
        opened.seek(int.from_bytes(opened.read(8), "little"), 1)
        return whole, hashlib.file_digest(opened, "sha256").hexdigest()[:_SHORT]


def open_adapter(path: Path) -> StoredAdapter:
    """Opens a file, or the files of a folder as PEFT, diffusers and InvokeAI write them; no tensor is read.

    Raises:
        RequestError: there is none, one is damaged, or it is not clear which is meant.
    """
    name = path.name or str(path)
    try:
        if path.is_dir():
            return StoredAdapter(name=name, parts=tuple(_folder_parts(path, name)))
        if not path.exists():
            raise RequestError(f"{str(path)!r} does not exist, expected a LoRA's file or folder; check the path")
        if not path.is_file():
            raise RequestError(f"{str(path)!r} is no file, expected a LoRA's file or folder; check the path")
        if path.stat().st_size == 0:
            raise RequestError(f"{name!r} is empty, expected a LoRA; download it again")
    except (OSError, ValueError) as error:  # a name with a null byte, or one that is too long
        if isinstance(error, RequestError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"{str(path)!r} cannot be read ({reason}); check the path") from error
    beside = path.name in _PEFT_MODEL and (path.parent / CONFIG_FILE).is_file()
    return StoredAdapter(name=name, parts=(_part(path, name, configured=beside),))


def _folder_parts(folder: Path, name: str) -> Iterator[Part]:
    for model in _PEFT_MODEL:
        if (folder / model).is_file():
            yield _part(folder / model, name, configured=True)
            return
    for model in _DIFFUSERS:
        if (folder / model).is_file():
            yield _part(folder / model, name)
            return
    parts = [
        _part(folder / sub / model, f"{name}/{sub}", component, configured=model in _PEFT_MODEL)
        for sub, component in _INVOKE.items()
        for model in (*_PEFT_MODEL, *_DIFFUSERS)
        if (folder / sub / model).is_file()
    ]
    if parts:
        yield from parts
        return
    if (folder / "model_index.json").is_file():
        raise RequestError(
            f"{name!r} is the folder of a whole model, expected a LoRA's; build it with latentrt build, or name the "
            "LoRA's file"
        )
    files = sorted(one.name for one in folder.iterdir() if one.suffix.lower() in _ENDINGS and one.is_file())
    if len(files) != 1:
        listed = (
            f"{len(files)} files of tensors ({', '.join(files[:3])}{', …' * (len(files) > 3)})"
            if files
            else "no file of tensors"
        )
        raise RequestError(
            f"{name!r} holds {listed}, expected {_PEFT_MODEL[0]}, {_DIFFUSERS[0]} or one file; name the file that is "
            "meant"
        )
    yield _part(folder / files[0], name)


def _part(path: Path, name: str, component: str | None = None, *, configured: bool = False) -> Part:
    """Opens one file, with the config beside it where there must be one."""
    config, config_path = PeftConfig(), path.parent / CONFIG_FILE if configured else None
    if config_path is not None:
        if not config_path.is_file():
            raise RequestError(
                f"{name!r} holds {path.name} without {CONFIG_FILE}, which tells its scale; put the config beside it"
            )
        config = config_from_file(config_path, name)
    try:
        file = open_tensor_file(path, name)
    except TensorFileError as error:
        raise RequestError(str(error)) from error
    configs = _header_configs(file.metadata, name)
    config = configs.pop("", config)
    return Part(file=file, component=component, config=config, config_path=config_path, configs=configs)


def _header_configs(metadata: Mapping[str, str], name: str) -> dict[str, PeftConfig]:
    """The configs in a safetensors header by component; under "" one without components."""
    if _HEADER_CONFIG not in metadata:
        return {}
    where = f"{_HEADER_CONFIG} of {name!r}"
    by_component: dict[str, dict[str, Any]] = {}
    for key, value in entries_from_text(metadata[_HEADER_CONFIG], where).items():
        component, dot, entry = key.partition(".")
        known = bool(dot) and component in _INVOKE
        by_component.setdefault(_INVOKE[component] if known else "", {})[entry if known else key] = value
    return {component: checked_config(entries, where) for component, entries in by_component.items()}
