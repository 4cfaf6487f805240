"""What a pipeline call gives back."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.files import write_file
from latentrt.engines.spec import Array
from latentrt.runtime.metadata.picture_metadata import PictureMetadata


class OutputType(StrEnum):
    """What ``Result.images`` holds: PIL images, arrays (H, W, 3) float32 in [0, 1], or nothing but latents."""

    PIL = "pil"
    NUMPY = "np"
    LATENT = "latent"


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds spent in each stage of one call.

    ``calls`` are those of each model call in ``denoise``, with all of its passes; ``unet_calls`` is how often the
    U-Net's engine ran for them. Of a call with hires both passes count; ``enlarge`` is what lies between them.
    """

    encode_prompt: float
    encode_image: float
    denoise: float
    calls: tuple[float, ...]
    unet_calls: int
    decode: float
    total: float
    enlarge: float = 0.0

    @property
    def unet(self) -> float:
        """Seconds of all model calls."""
        return sum(self.calls)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Pictures, their latents (N, C, H/f, W/f) float32, their seeds, and how they came to be.

    ``images`` is empty for ``output_type="latent"``. ``seeds`` has one entry per picture; where one seed
    served the whole batch it is repeated and the picture's place in the batch counts, as in diffusers.
    ``interrupted`` says that a callback ended the run before its time. ``first_pass`` are the latents before hires
    enlarged them, None without.
    """

    images: list[Image.Image] | list[Array]
    latents: Array
    seeds: tuple[int, ...]
    timings: Timings
    metadata: tuple[PictureMetadata, ...]
    interrupted: bool = False
    first_pass: Array | None = None

    def save(self, path: str | Path) -> list[Path]:
        """Writes the pictures with their settings, as PNG, JPEG or WebP by the name's suffix.

        Several get ``-0``, ``-1``, … before the suffix. Files that are there are replaced.

        Raises:
            RequestError: there are no PIL images, or the name ends in something else.
            OutputError: a file cannot be written.
        """
        from latentrt.runtime.pictures.picture_file import check_picture_name, numbered_paths, write_picture

        path = Path(path)
        check_picture_name(path)
        pictures = [image for image in self.images if isinstance(image, Image.Image)]
        if not pictures:
            raise RequestError("got a result without PIL images, expected output_type='pil'; draw again with it")
        paths = numbered_paths(path, len(pictures))
        for target, image, metadata in zip(paths, pictures, self.metadata, strict=True):
            write_picture(target, image, metadata.parameters())
        return paths

    def save_latents(self, path: str | Path) -> list[Path]:
        """Writes the latents (N, C, H/f, W/f) as one ``.npy`` file, for ``img2img`` to go on from.

        Raises:
            OutputError: the file cannot be written.
        """
        save_latents(Path(path), self.latents)
        return [Path(path)]


def save_latents(path: Path, latents: Array) -> None:
    """Writes latents (N, C, H/f, W/f) as a ``.npy`` file, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, latents)

    write_file(path, write)
