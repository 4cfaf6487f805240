"""Clip files with the settings that drew them, in the format that a name ends in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.files import write_file
from latentrt.runtime.checks import number
from latentrt.runtime.pictures.clips.animations import save_gif, save_webp
from latentrt.runtime.pictures.clips.apng import save_apng
from latentrt.runtime.pictures.clips.mp4 import check_mp4, save_mp4
from latentrt.runtime.pictures.clips.timing import rate_from_fps
from latentrt.runtime.pictures.image import rgb_from_image

_SLOWEST = 0.1  # frames per second


@dataclass(frozen=True, kw_only=True)
class _Format:
    """How a format is written, and what it has no room for.

    Attributes:
        save: writes RGB frames of one size.
        check: finds out whether it can be written here.
        fastest: frames per second. A GIF's clock has hundredths of a second, and browsers slow down what shows a frame
            for less than two.
        longest: pixels of a side.
        multiple: of which both sides must be.
    """

    save: Callable[[Path, Sequence[Image.Image], Fraction, str | None], None]
    check: Callable[[], None] | None = None
    fastest: int = 1000
    longest: int = 65535
    multiple: int = 1


_APNG = _Format(save=save_apng)
_FORMATS = {
    ".webp": _Format(save=save_webp, longest=16383),
    ".apng": _APNG,
    ".png": _APNG,
    ".gif": _Format(save=save_gif, fastest=50),
    ".mp4": _Format(save=save_mp4, check=check_mp4, multiple=2, longest=16384),
}
CLIP_SUFFIXES = tuple(_FORMATS)
"""What a clip's name may end in, in lower case."""


def check_clip(path: Path, *, width: int, height: int, fps: float) -> None:
    """Finds out whether a clip could be written, before the work that would be lost otherwise.

    Args:
        path: the file, whose name tells the format.
        width: of every frame in pixels.
        height: of every frame in pixels.
        fps: frames per second.

    Raises:
        RequestError: a name that ends in something else, PyAV missing, a size or a rate that the format has not.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise RequestError(
            f"got output {str(path)!r}, expected a name that ends in {', '.join(CLIP_SUFFIXES[:-1])} or "
            f"{CLIP_SUFFIXES[-1]}; add .webp"
        )
    chosen = _FORMATS[suffix]
    if chosen.check is not None:
        chosen.check()
    if width % chosen.multiple or height % chosen.multiple:
        raise RequestError(
            f"got frames of {width}x{height} for {suffix}, expected even sides, as its colours have half the size; "
            "write .webp or .apng, or crop them"
        )
    if max(width, height) > chosen.longest:
        raise RequestError(
            f"got frames of {width}x{height} for {suffix}, expected at most {chosen.longest} pixels a side; write "
            ".apng, or make them smaller"
        )
    if not _SLOWEST <= number(fps, "fps") <= chosen.fastest:
        other = "; write .webp, .apng or .mp4, or set fps in this range" if suffix == ".gif" else "; set it so"
        raise RequestError(
            f"got fps {fps:g} for {suffix}, expected {_SLOWEST:g} to {chosen.fastest} frames per second{other}"
        )


def write_clip(path: Path, frames: Sequence[Image.Image], *, fps: float, settings_text: str | None = None) -> None:
    """Writes a clip whole or not at all, in the format that its name ends in, with its settings if there are any.

    WebP and APNG (``.apng`` or ``.png``) keep every bit. A GIF has 256 colours a frame. An mp4 is H.264, for which PyAV
    must be there. All but the mp4 begin anew when they end.

    Args:
        path: the file.
        frames: of one size, one or more; transparency becomes white.
        fps: frames per second.
        settings_text: the settings, as A1111's ``parameters``.

    Raises:
        RequestError: no frames, frames of several sizes, or what ``check_clip`` refuses.
        OutputError: the file cannot be written.
    """
    sizes = list(dict.fromkeys(frame.size for frame in frames))
    if len(sizes) != 1:
        got = "no frames" if not sizes else f"frames of {' and '.join(f'{w}x{h}' for w, h in sizes[:2])}"
        raise RequestError(f"got {got} for {str(path)!r}, expected frames of one size; resize them, or give some")
    ((width, height),) = sizes
    check_clip(path, width=width, height=height, fps=fps)
    save, rgb = _FORMATS[path.suffix.lower()].save, [rgb_from_image(frame) for frame in frames]
    write_file(path, lambda temporary: save(temporary, rgb, rate_from_fps(fps), settings_text))
