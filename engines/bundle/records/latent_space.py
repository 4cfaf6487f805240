"""Between pixels and latents: factors, shapes, scale and tiles in one place."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array

_Positive = Annotated[int, Field(gt=0)]
_PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LatentSpace(Record):
    """The latents of an autoencoder.

    Attributes:
        channels: C.
        scaling_factor: what the autoencoder's own latents are multiplied by for the U-Net.
        shift_factor: what is taken from them before.
        latents_mean: the mean of each channel of the autoencoder's own latents, which is taken from them, too.
        latents_std: the deviation of each channel, by which they are divided.
        height_factor: how many rows of pixels one latent stands for.
        width_factor: how many columns.
        time_factor: how many frames; 1 for pictures.
        tile_pixels: the side of a tile, a multiple of four latents: a larger picture can be encoded and decoded in
            tiles of this size.
    """

    channels: _Positive
    scaling_factor: _PositiveFloat
    shift_factor: FiniteFloat
    latents_mean: tuple[FiniteFloat, ...] | None = None
    latents_std: tuple[_PositiveFloat, ...] | None = None
    height_factor: _Positive
    width_factor: _Positive
    time_factor: _Positive = 1
    tile_pixels: _Positive

    @model_validator(mode="after")
    def _tiles_overlap_by_a_quarter(self) -> "LatentSpace":
        for factor in (self.height_factor, self.width_factor):
            if self.tile_pixels % (4 * factor):
                raise ValueError(f"tile_pixels {self.tile_pixels} is no multiple of {4 * factor}")
        return self

    @model_validator(mode="after")
    def _has_a_statistic_per_channel(self) -> "LatentSpace":
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        return self

    def size(self, profile: Profile) -> tuple[int, int]:
        """Height and width in latents of a profile's pictures."""
        return profile.height // self.height_factor, profile.width // self.width_factor

    def shape(self, profile: Profile, count: int = 1) -> tuple[int, ...]:
        """(N, C, h, w) of so many pictures; (N, F, C, h, w) of so many videos."""
        frames = () if profile.frames == 1 else (profile.frames,)
        return (count, *frames, self.channels, *self.size(profile))

    def pixel_size(self, latents: Array) -> tuple[int, int]:
        """Width and height in pixels of the pictures that latents (…, h, w) stand for."""
        height, width = np.shape(latents)[-2:]
        return int(width) * self.width_factor, int(height) * self.height_factor

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of a tile in latents."""
        return self.tile_pixels // self.height_factor, self.tile_pixels // self.width_factor

    def scaled(self, raw: Any) -> Any:
        """The autoencoder's latents (…, C, h, w) as the U-Net takes them: NumPy's arrays or torch's tensors."""
        if self.latents_mean is not None:
            raw = raw - _per_channel(self.latents_mean, raw)
        scaled = (raw - self.shift_factor) * self.scaling_factor
        return scaled if self.latents_std is None else scaled / _per_channel(self.latents_std, raw)

    def unscaled(self, latents: Any) -> Any:
        """The U-Net's latents as the autoencoder takes them."""
        if self.latents_std is not None:
            latents = latents * _per_channel(self.latents_std, latents)
        raw = latents / self.scaling_factor + self.shift_factor
        return raw if self.latents_mean is None else raw + _per_channel(self.latents_mean, raw)

    def mask(self, mask: Array) -> Array:
        """A mask (M, 1, H, W) at the latents' size: (M, 1, h, w), each value that of its top left pixel.

        That is torch's ``interpolate(mode="nearest")``, floor(i · scale), for a whole scale.
        """
        return np.ascontiguousarray(mask[:, :, :: self.height_factor, :: self.width_factor])


def _per_channel(values: tuple[float, ...], like: Any) -> Any:
    """One number a channel (C, 1, 1), of the kind of ``like``."""
    column = np.array(values, np.float32)[:, None, None]
    return column if isinstance(like, np.ndarray) else like.new_tensor(column)
