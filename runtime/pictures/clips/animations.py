"""Clips as WebP and GIF, which Pillow writes."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from PIL import Image

from latentrt.runtime.pictures.clips.timing import frame_durations
from latentrt.runtime.pictures.picture_file import exif_from_parameters

_WEBP_CLOCK, _GIF_CLOCK = 1000, 100  # units in a second
_EFFORT = 2  # of 6, of WebP's search for the smallest lossless form: more costs seconds and gains a hundredth


def save_webp(path: Path, frames: Sequence[Image.Image], rate: Fraction, parameters: str | None) -> None:
    """A lossless WebP that begins anew when it ends; the settings are its EXIF data's user comment."""
    first, *others = frames
    first.save(
        path,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=frame_durations(len(frames), rate, _WEBP_CLOCK),
        loop=0,
        lossless=True,
        method=_EFFORT,
        exif=exif_from_parameters(parameters),
    )


def save_gif(path: Path, frames: Sequence[Image.Image], rate: Fraction, parameters: str | None) -> None:
    """A GIF that begins anew when it ends, 256 colours a frame; the settings are its comment, in UTF-8."""
    first, *others = (frame.quantize(256, dither=Image.Dither.NONE) for frame in frames)
    durations = [10 * ticks for ticks in frame_durations(len(frames), rate, _GIF_CLOCK)]  # Pillow takes milliseconds
    comment = {} if parameters is None else {"comment": parameters.encode("utf-8", "replace")}
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        optimize=False,
        **comment,
    )
