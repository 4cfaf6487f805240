"""Where a model comes from: a diffusers folder, a hub id or the embedded model, checked before torch is asked."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from latentrt.engines.errors import CheckpointError, LatentrtError
from latentrt.engines.files import sha256_of_file
from latentrt.engines.manifest import FileRecord, LatentRecord
from latentrt.engines.schedule_config import ScheduleConfig
from latentrt.export.families import SAMPLER_OF_SCHEDULER, Family, family_of
from latentrt.models import EMBEDDED, EMOJI

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = {
    "text_encoder": ("model.safetensors", "model.safetensors.index.json"),
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
}

# What a build reads from the configs and cannot guess
_KEYS = {
    "text_encoder": ("max_position_embeddings", "hidden_size"),
    "unet": ("in_channels", "out_channels", "block_out_channels", "cross_attention_dim"),
    "vae": ("latent_channels", "block_out_channels"),
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked diffusers folder and what its configs say."""

    name: str
    revision: str | None
    folder: Path
    family: Family
    index: dict[str, Any]
    text_encoder: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]

    @property
    def latents(self) -> LatentRecord:
        """Channels and scale of the latents, from the VAE's config."""
        return LatentRecord(
            channels=self.vae["latent_channels"],
            scaling_factor=self.vae.get("scaling_factor") or 0.18215,  # AutoencoderKL's default
            shift_factor=self.vae.get("shift_factor") or 0.0,
            pixels=2 ** (len(self.vae["block_out_channels"]) - 1),
        )

    @property
    def pixel_multiple(self) -> int:
        """What a picture's sides must be multiples of: the VAE's factor times the U-Net's."""
        return int(self.latents.pixels * 2 ** (len(self.unet["block_out_channels"]) - 1))

    @property
    def default_size(self) -> tuple[int, int]:
        """The picture size (width, height) that the U-Net was trained on."""
        size = self.unet.get("sample_size") or 64
        height, width = size if isinstance(size, list) else (size, size)
        return width * self.latents.pixels, height * self.latents.pixels

    @property
    def sampler(self) -> str:
        """The sampler that stands for the checkpoint's own scheduler."""
        name = SAMPLER_OF_SCHEDULER.get(self.scheduler.get("_class_name", ""), self.family.defaults.sampler)
        karras = bool(self.scheduler.get("use_karras_sigmas"))
        return f"{name}_k" if karras and name in ("euler", "dpmpp_2m") else name

    @property
    def parameters(self) -> int:
        """How many weights the components have, from the headers of their files."""
        total = 0
        for part in _WEIGHTS:
            for path in _weight_files(self.folder, part):
                weights: Any = safe_open(path, "numpy")
                total += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        return total

    def schedule(self) -> ScheduleConfig:
        """The training schedule; keys that concern only one sampler's habits are left to the samplers.

        Raises:
            CheckpointError: a value that no sampler knows.
        """
        known = {key: self.scheduler[key] for key in ScheduleConfig.model_fields if key in self.scheduler}
        known["steps_offset"] = self.family.steps_offset
        try:
            return ScheduleConfig.model_validate({key: value for key, value in known.items() if value is not None})
        except ValueError as error:
            first = error.errors()[0]  # type: ignore[attr-defined]
            raise CheckpointError(
                f"the scheduler of {str(self.folder)!r} has {'.'.join(map(str, first['loc']))} "
                f"{first['input']!r}: {first['msg']}; correct scheduler/scheduler_config.json"
            ) from error

    def files(self) -> dict[str, FileRecord]:
        """Size and digest of every file that a build reads."""
        names = ["model_index.json"]
        for part in ("text_encoder", "unet", "vae", "scheduler", "tokenizer"):
            names += [
                f"{part}/{path.name}"
                for path in sorted((self.folder / part).iterdir())
                if path.suffix in (".json", ".safetensors", ".txt")
            ]
        return {
            name: FileRecord(size=(self.folder / name).stat().st_size, sha256=sha256_of_file(self.folder / name))
            for name in names
        }


def checkpoint_from_model(model: str) -> Checkpoint:
    """Finds and checks a model.

    Args:
        model: a diffusers folder, ``emoji`` for the embedded model, or a hub id ``owner/name[@revision]``.

    Raises:
        CheckpointError: missing, incomplete or of no known family; every fault found is named.
    """
    if Path(model).exists():
        return _from_folder(Path(model), name=Path(model).resolve().name, revision=None)
    if model == EMBEDDED:
        return _from_folder(EMOJI, name=EMBEDDED, revision=None)
    identifier, _, revision = model.partition("@")
    if _HUB_ID.fullmatch(identifier):
        return _from_folder(_from_hub(identifier, revision or None), name=identifier, revision=revision or None)
    raise CheckpointError(
        f"got model {model!r}, expected a diffusers folder, a hub id such as owner/name, or {EMBEDDED}; check the path"
    )


def _from_hub(identifier: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    patterns = ["model_index.json", "scheduler/*", "tokenizer/*", "*/config.json"]
    patterns += [f"{part}/{name}" for part, names in _WEIGHTS.items() for name in names]
    patterns += [f"{part}/{names[0].removesuffix('.safetensors')}-*.safetensors" for part, names in _WEIGHTS.items()]
    try:
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"the hub refuses {identifier!r} without its licence accepted; accept it and log in with hf auth login"
        ) from error
    except (RepositoryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"got model {identifier!r}, which is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}); check the name and the connection, or give a local folder"
        ) from error


def _from_folder(folder: Path, *, name: str, revision: str | None) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"got the file {str(folder)!r}, expected a diffusers folder; give the folder's path")
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{str(folder)!r} has no model_index.json, expected a diffusers folder; give the folder that holds it"
        )
    index = _json(folder / "model_index.json")
    faults: list[str] = []
    configs: dict[str, dict[str, Any]] = {}
    for part, file in (
        ("text_encoder", "config.json"),
        ("unet", "config.json"),
        ("vae", "config.json"),
        ("scheduler", "scheduler_config.json"),
    ):
        path = folder / part / file
        if not path.is_file():
            faults.append(f"{part}/{file} is missing")
            continue
        configs[part] = _json(path)
    for part, names in _WEIGHTS.items():
        if not any((folder / part / weights).is_file() for weights in names):
            faults.append(f"{part}/{names[0]} is missing")
        faults += _truncated(folder, part)
    tokenizer = folder / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file() and not (
        (tokenizer / "vocab.json").is_file() and (tokenizer / "merges.txt").is_file()
    ):
        faults.append("tokenizer/tokenizer.json (or vocab.json with merges.txt) is missing")
    for part, keys in _KEYS.items():
        if part in configs:
            faults += [f"{part}/config.json lacks {key}" for key in keys if configs[part].get(key) is None]
    unet = configs.get("unet")
    if not faults and unet is not None:
        family = family_of(index, unet, str(folder))
        checkpoint = Checkpoint(name=name, revision=revision, folder=folder, family=family, index=index, **configs)
        checkpoint.schedule()  # refuses now what would otherwise stop the build half way
        return checkpoint
    if unet is not None and index.get("_class_name"):
        try:
            family_of(index, unet, str(folder))
        except LatentrtError:
            raise  # the wrong kind of model explains missing parts better than their list
    raise CheckpointError(f"{str(folder)!r} is incomplete: {'; '.join(faults)}; download the model again")


def _truncated(folder: Path, part: str) -> list[str]:
    """Faults of a part's safetensors files, from their headers alone."""
    faults = []
    for path in _weight_files(folder, part):
        try:
            with safe_open(path, "numpy"):
                pass
        except (SafetensorError, OSError) as error:
            faults.append(f"{part}/{path.name} is damaged ({error})")
    return faults


def _weight_files(folder: Path, part: str) -> list[Path]:
    """The files that the libraries will read: the whole one, or the shards; not variants such as fp16."""
    whole = folder / part / _WEIGHTS[part][0]
    return [whole] if whole.is_file() else sorted((folder / part).glob(f"{whole.stem}-*.safetensors"))


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is not readable JSON ({error}); download the model again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} is not a JSON object; download the model again")
    return data
