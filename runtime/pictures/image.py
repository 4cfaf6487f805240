"""Pictures in and out: pixel arrays, PIL, and PNG files with the settings that made them."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageOps import exif_transpose
from PIL.PngImagePlugin import PngInfo

from latentrt.engines.errors import RequestError
from latentrt.engines.files import write_file
from latentrt.engines.pixels import normalized
from latentrt.engines.spec import Array
from latentrt.runtime.checks import warn_caller

Picture = Image.Image | Array


def read_image(path: Path) -> Image.Image:
    """Opens a picture file upright (EXIF orientation applied); of an animation the first frame, with a warning.

    Raises:
        RequestError: missing, unreadable or no picture.
    """
    try:
        with Image.open(path) as image:
            # both formats have 16 bits where Pillow says 32, whose range would be unknown
            sixteen_bits = image.mode == "I" and image.format in ("PNG", "PPM")
            upright = exif_transpose(image.convert("I;16") if sixteen_bits else image).copy()
            frames = _has_frames(image)
    except UnidentifiedImageError as error:
        raise RequestError(f"got {str(path)!r}, expected a picture file; give a PNG, JPEG or WebP") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"cannot read the picture {str(path)!r} ({reason}); check the file") from error
    if frames:
        warn_caller(f"{str(path)!r} is animated or has several pages; the first is taken")
    return upright


def _has_frames(image: Image.Image) -> bool:
    """Whether it is animated or has pages; a camera's further pictures (MPO) are other sizes of the same."""
    with suppress(Exception):  # damaged later frames can raise anything, and the first is whole
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


def write_png(
    path: Path, image: Image.Image, parameters: str | None = None, others: Mapping[str, str] | None = None
) -> None:
    """Writes a PNG whole or not at all, with its settings as A1111's ``parameters`` text chunk.

    Args:
        path: the file.
        image: the picture; a colour profile among its ``info`` is written, too.
        parameters: the settings.
        others: further texts, by the names of their chunks.

    Raises:
        OutputError: the file cannot be written.
    """
    text = png_info(parameters, others)
    write_file(path, lambda temporary: image.save(temporary, format="PNG", pnginfo=text))


def png_info(parameters: str | None, others: Mapping[str, str] | None = None) -> PngInfo:
    """The text chunks of a PNG: its settings as ``parameters``, and others by their names."""
    text = PngInfo()
    if parameters is not None:
        text.add_text("parameters", parameters)
    for name, content in (others or {}).items():
        text.add_text(name, content)
    return text


def pixels_from_image(image: Image.Image | Array, width: int, height: int) -> Array:
    """A picture as the VAE encoder wants it: (3, H, W) float32 in [−1, 1].

    PIL pictures become RGB, transparency on white, and are resized with Lanczos. Arrays, of any layout and range that
    ``rgb_array`` reads, must have the size already.

    Raises:
        RequestError: a mode of unknown range; an array of another shape or type, or with values out of range.
    """
    return normalized(array_from_image(image, width, height))


def array_from_image(image: Image.Image | Array, width: int, height: int) -> Array:
    """A picture as (H, W, 3) float32 in [0, 1]; the rules and errors are ``pixels_from_image``'s."""
    if not isinstance(image, Image.Image):
        return _array_of_size(image, width, height)
    image = rgb_from_image(image)
    if image.size != (width, height):
        image = image.resize((width, height), resample=Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / np.float32(255.0)


def rgb_from_image(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: 16-bit grey scaled to 8 bits, transparency laid on white.

    Raises:
        RequestError: a mode of unknown range, F or I.
    """
    if image.mode in ("F", "I"):
        raise RequestError(
            f"got a picture of mode {image.mode!r}, whose range is unknown, expected 'RGB' or 'L'; convert it to 0 to "
            "255"
        )
    if image.mode == "La":  # grey with premultiplied alpha, which Pillow brings to nothing but LA
        image = image.convert("LA")
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.float64) / 257.0  # 65535 / 255
        return Image.fromarray(np.clip(grey, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _array_of_size(image: Any, width: int, height: int) -> Array:
    from latentrt.runtime.pictures.arrays import rgb_array  # loaded by those who draw from arrays

    array = rgb_array(image)
    if array.shape != (height, width, 3):
        raise RequestError(
            f"got an image array of shape {array.shape}, expected ({height}, {width}, 3); resize it first"
        )
    return array


def images_from_pixels(pixels: Array) -> list[Image.Image]:
    """Pictures (N, H, W, 3) float in [0, 1] as PIL images of 8 bits."""
    return [Image.fromarray(picture) for picture in (pixels * 255.0).round().astype(np.uint8)]


def read_picture_or_array(path: Path, what: str, remedy: str) -> Any:
    """A picture, or of a ``.npy`` its array.

    Args:
        path: the file.
        what: an array holds, for messages.
        remedy: how to make one, for messages.

    Raises:
        RequestError: it cannot be read.
    """
    if path.suffix.lower() != ".npy":
        return read_image(path)
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:  # MemoryError: a header that lies
        reason = getattr(error, "strerror", None) or "it is damaged or no array"
        raise RequestError(f"cannot read {what} from {str(path)!r} ({reason}); {remedy}") from error
