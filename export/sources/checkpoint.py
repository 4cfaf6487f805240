"""A checked model: what its configs say and which files a build reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.version import Version

from latentrt.engines.bundle.checked_files import record_file
from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.records.conditioning import ImageEncoderRecord
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.manifests.manifest import DefaultsRecord
from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.bundle.tokenizer import tokenizer_from_folder
from latentrt.engines.changes import Changes
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checks.scheduler_settings import SchedulerReading, scheduler_reading
from latentrt.export.sources.family import Family
from latentrt.export.sources.parts import Part
from latentrt.export.sources.vision import picture_statistics

CLIP_VOCABULARY = 49408  # which CLIPTextConfig takes where a config is silent
# Before this version, converted U-Nets stated sample_size 32 where 64 was meant; diffusers mends it likewise.
_SIZES_RIGHT = Version("0.9.0.dev0")
_WIDE = (4 / 3, 3 / 4)  # of a square's side


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked model and what its configs say.

    ``parts`` holds the family's encoders, ``unet`` and ``vae``; ``tokenizers`` the folder of each tokenizer by its
    name; ``pictures`` are the settings of an image encoder's pictures; ``settings`` further files that a build reads,
    such as model_index.json; ``source`` is how messages call the model; ``decisions`` says what was worked out about it
    and how, for the user to read; ``zero_empty_negative`` whether an unconditional half without a prompt sees zeros;
    ``outside`` lists the tensors of a file that are no part's.
    """

    name: str
    revision: str | None
    source: str
    family: Family
    parts: Mapping[str, Part]
    tokenizers: Mapping[str, Path]
    scheduler: Mapping[str, Any]
    settings: Mapping[str, Path]
    decisions: Mapping[str, DecisionRecord]
    zero_empty_negative: bool
    pictures: Mapping[str, Any] = field(default_factory=dict)
    outside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def unet(self) -> Mapping[str, Any]:
        """The U-Net's config."""
        return self.parts["unet"].config

    @property
    def vae(self) -> Mapping[str, Any]:
        """The autoencoder's config."""
        return self.parts["vae"].config

    @property
    def guided(self) -> bool:
        """Whether pictures have an unconditional half, unless a call says otherwise."""
        return self.family.defaults.guidance_scale > 1.0 and self.unet.get("time_cond_proj_dim") is None

    @property
    def latents(self) -> LatentSpace:
        """Channels and scale of the latents, from the VAE's config."""
        return LatentSpace(
            channels=self.vae["latent_channels"],
            scaling_factor=self.vae.get("scaling_factor") or 0.18215,  # AutoencoderKL's default
            shift_factor=0.0,  # diffusers' pipelines of Stable Diffusion know none, and another is refused
            latents_mean=self.vae.get("latents_mean"),
            latents_std=self.vae.get("latents_std"),
            height_factor=self._pixels_per_latent,
            width_factor=self._pixels_per_latent,
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
        return int(self.latents.height_factor * 2 ** (len(self.unet["block_out_channels"]) - 1))

    @property
    def default_size(self) -> tuple[int, int]:
        """The picture size (width, height) that the U-Net was trained on."""
        size = self.unet.get("sample_size") or 64
        if isinstance(size, int) and size < 64 and Version(self.unet.get("_diffusers_version", "1")) < _SIZES_RIGHT:
            size = 64
        if self.family.draws_videos and isinstance(size, int):  # as many pixels as the square that it states, 16 : 9
            unit = self.pixel_multiple // self._pixels_per_latent
            width, height = (max(round(size * side / unit), 1) * unit for side in _WIDE)
        else:
            height, width = size if isinstance(size, list) else (size, size)
        return width * self._pixels_per_latent, height * self._pixels_per_latent

    @property
    def default_frames(self) -> int:
        """How many frames the model was trained on; 1 where it draws no videos."""
        return int(self.unet["num_frames"]) if self.family.draws_videos else 1

    @property
    def image_encoder(self) -> ImageEncoderRecord | None:
        """How pictures become what the model's own image encoder takes.

        Raises:
            CheckpointError: settings of pictures that are none.
        """
        row = self.family.image_encoder
        if row is None:
            return None
        mean, std = picture_statistics(self.pictures, self.source)
        size = int(self.parts[row.part].config["image_size"])
        return ImageEncoderRecord(component=row.part, size=size, resizing=row.resizing, mean=mean, std=std)

    @cached_property
    def scheduler_reading(self) -> SchedulerReading:
        """What the checkpoint's own scheduler decides."""
        return scheduler_reading(self.scheduler, self.family)

    @property
    def sampler(self) -> str:
        """The sampler that stands for the checkpoint's own scheduler."""
        return self.scheduler_reading.sampler

    @property
    def defaults(self) -> DefaultsRecord:
        """The family's, with that sampler."""
        reading = self.scheduler_reading
        return self.family.defaults.model_copy(
            update={"sampler": reading.sampler, "sampler_options": dict(reading.options)}
        )

    @property
    def parameters(self) -> int:
        """How many weights the components have, from the headers of their files."""
        return sum(part.parameters for part in self.parts.values())

    def with_changes(self, changes: Mapping[str, Changes]) -> "Checkpoint":
        """The same with changed weights, by part."""
        parts = {name: replace(part, changes=changes.get(name)) for name, part in self.parts.items()}
        return replace(self, parts=parts)

    def check(self) -> None:
        """Compares names, shapes and types of all tensors with the parts' modules. Reads no weight.

        Raises:
            CheckpointError: some do not fit; the first of each part are named.
        """
        faults = []
        for part in self.parts.values():
            try:
                part.read  # noqa: B018  # found once, and kept
            except CheckpointError as error:
                faults.append(str(error))
        if faults:
            raise tensor_refusal(self.source, faults)

    def check_tokenizers(self) -> None:
        """Compares the number of tokens with that of embeddings.

        Raises:
            CheckpointError: a text encoder embeds fewer tokens than its tokenizer has.
            BundleError: a tokenizer that cannot be read.
        """
        for row in self.family.text_encoders:
            tokens = tokenizer_from_folder(self.tokenizers[row.tokenizer]).vocabulary_size
            rows = self.parts[row.part].config.get("vocab_size", CLIP_VOCABULARY)
            if rows < tokens:
                raise CheckpointError(
                    f"{self.source!r} cannot be built: {row.part} embeds {rows} tokens and the tokenizer has {tokens}, "
                    "expected at least as many embeddings; take the tokenizer that was saved with the text encoder"
                )

    def check_values(self) -> None:
        """Reads every weight once.

        Raises:
            CheckpointError: some are NaN or infinite; the first of each part are named.
        """
        faults = [fault for part in self.parts.values() if (fault := part.value_fault()) is not None]
        if faults:
            raise CheckpointError(
                f"{self.source!r} cannot be built: {'; '.join(faults)}; choose another copy of the model"
            )

    @property
    def unread(self) -> dict[str, tuple[str, ...]]:
        """What the files hold and nothing reads, by part or by file, but for what is known to be idle."""
        found = {name: part.unread for name, part in self.parts.items()} | dict(self.outside)
        return {name: names for name, names in found.items() if names}

    def schedule(self) -> ScheduleConfig:
        """The training schedule; keys that concern only one sampler's habits are left to the samplers.

        Raises:
            CheckpointError: a value that no sampler knows.
        """
        known = dict(self.scheduler_reading.schedule)
        if self.family.steps_offset is not None:
            known["steps_offset"] = self.family.steps_offset
        try:
            return ScheduleConfig.model_validate(known)
        except ValueError as error:
            first = error.errors()[0]  # type: ignore[attr-defined]
            raise CheckpointError(
                f"the scheduler of {self.source!r} has {'.'.join(map(str, first['loc']))} "
                f"{first['input']!r}: {first['msg']}; correct scheduler/scheduler_config.json"
            ) from error

    @cached_property
    def files(self) -> dict[str, FileRecord]:
        """Size and digest of every file that a build reads."""
        paths = dict(self.settings)
        for name, folder in self.tokenizers.items():
            paths |= {f"{name}/{path.name}": path for path in folder.iterdir() if path.suffix in (".json", ".txt")}
        for part in self.parts.values():
            paths |= part.files
        return {name: record_file(path) for name, path in sorted(paths.items())}


def tensor_refusal(source: str, faults: Sequence[str]) -> CheckpointError:
    """The error for parts whose tensors do not fit."""
    return CheckpointError(
        f"{source!r} cannot be built: {'; '.join(faults)}; take the model as its author saved it, or save it again "
        "with save_pretrained"
    )
