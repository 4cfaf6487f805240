"""A checked diffusers folder: what its configs say and which files a build reads."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.version import Version
from safetensors import safe_open

from latentrt.engines.bundle import record_files
from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import FileRecord, LatentRecord
from latentrt.engines.schedule_config import ScheduleConfig
from latentrt.export.families import Family, sampler_of_scheduler

# The file of each part's weights; large ones come in shards with an index beside them
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
# Before this version, converted U-Nets stated sample_size 32 where 64 was meant; diffusers mends it likewise.
_SIZES_RIGHT = Version("0.9.0.dev0")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked diffusers folder and what its configs say."""

    name: str
    revision: str | None
    folder: Path
    family: Family
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
            pixels=self._pixels_per_latent,
            tile_pixels=self._tile_pixels,
        )

    @property
    def _pixels_per_latent(self) -> int:
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    @property
    def _tile_pixels(self) -> int:
        """The size that the VAE was trained on, rounded down to four latents: tiles overlap by a quarter."""
        size = self.vae.get("sample_size")
        size = size[0] if isinstance(size, list) and size else size
        unit = 4 * self._pixels_per_latent
        return max((size if isinstance(size, int) else self.default_size[0]) // unit * unit, unit)

    @property
    def pixel_multiple(self) -> int:
        """What a picture's sides must be multiples of: the VAE's factor times the U-Net's."""
        return int(self.latents.pixels * 2 ** (len(self.unet["block_out_channels"]) - 1))

    @property
    def default_size(self) -> tuple[int, int]:
        """The picture size (width, height) that the U-Net was trained on."""
        size = self.unet.get("sample_size") or 64
        if isinstance(size, int) and size < 64 and Version(self.unet.get("_diffusers_version", "1")) < _SIZES_RIGHT:
            size = 64
        height, width = size if isinstance(size, list) else (size, size)
        return width * self._pixels_per_latent, height * self._pixels_per_latent

    @property
    def sampler(self) -> str:
        """The sampler that stands for the checkpoint's own scheduler."""
        return sampler_of_scheduler(self.scheduler, self.family)

    @property
    def parameters(self) -> int:
        """How many weights the components have, from the headers of their files."""
        total = 0
        for part in WEIGHTS:
            for path in weight_files(self.folder, part):
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

    @cached_property
    def files(self) -> dict[str, FileRecord]:
        """Size and digest of every file that a build reads."""
        paths = [self.folder / "model_index.json"]
        for part in ("text_encoder", "unet", "vae", "scheduler", "tokenizer"):
            paths += [path for path in (self.folder / part).iterdir() if path.suffix in (".json", ".txt")]
            paths += weight_files(self.folder, part) if part in WEIGHTS else []
        return record_files(self.folder, (path.relative_to(self.folder).as_posix() for path in paths))


def weight_files(folder: Path, part: str) -> list[Path]:
    """The files that the libraries will read: the whole one, or the shards; not variants such as fp16."""
    whole = folder / part / WEIGHTS[part]
    return [whole] if whole.is_file() else sorted((folder / part).glob(f"{whole.stem}-*-of-*.safetensors"))
