"""The pictures of an order: files beside the file of orders, or base64 within it."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from latentrt.engines.errors import RequestError, shown
from latentrt.engines.files import sha256_of_file
from latentrt.runtime.serving.http.pictures import picture_from_bytes, picture_from_text
from latentrt.runtime.serving.http.settings import PictureLimits

if TYPE_CHECKING:
    from PIL.Image import Image

_LIMITS = PictureLimits(bytes=1 << 30, pixels=1 << 28)
_KEPT = 16  # decoded pictures and digests, as many orders often start from the same
_DATA_URL = "data:"
_Read = TypeVar("_Read")


def is_file(text: str) -> bool:
    """Whether a picture's text names a file: base64 has no dot, and a file's name has a suffix."""
    return "." in text and not text.startswith(_DATA_URL)


def with_pictures(request: Mapping[str, Any], convert: Callable[[str], str]) -> dict[str, Any]:
    """An order as JSON with the text of every picture converted."""
    return {name: _PLACES[name](value, convert) if name in _PLACES else value for name, value in request.items()}


def absolute(text: str, folder: Path) -> str:
    """A picture's text with the path of a file made absolute."""
    return str((folder / text).absolute()) if is_file(text) else text


class Pictures:
    """Reads pictures; the last ones are kept, as many orders start from the same.

    Attributes:
        read: gives the picture that a text names or holds; a RequestError where there is none, or none of a format
            that is read.
        digest: gives the SHA-256 of its file, or of the text that holds it; a RequestError where there is no file.
    """

    def __init__(self) -> None:
        """Has read none."""
        self.read: Callable[[str], Image] = lru_cache(_KEPT)(_picture)
        self.digest: Callable[[str], str] = lru_cache(_KEPT)(_digest)


def _picture(text: str) -> "Image":
    if not is_file(text):
        return picture_from_text(text, _LIMITS)
    return picture_from_bytes(_told(text, Path.read_bytes), _LIMITS, text)


def _digest(text: str) -> str:
    return _told(text, sha256_of_file) if is_file(text) else sha256(text.encode()).hexdigest()


def _told(path: str, read: Callable[[Path], _Read]) -> _Read:
    """What a file gives; a sentence where it cannot be read."""
    try:
        return read(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot read the picture {shown(path)} ({reason}); check the path") from error


def _text(value: str, convert: Callable[[str], str]) -> str:
    return convert(value)


def _objects(value: Any, convert: Callable[[str], str]) -> Any:
    """Regions, controls and image prompts: one or lists of them."""
    if isinstance(value, list):
        return [_objects(one, convert) for one in value]
    return {name: _texts(text, convert) if name in _WITHIN and text else text for name, text in value.items()}


def _texts(value: Any, convert: Callable[[str], str]) -> Any:
    return [convert(text) for text in value] if isinstance(value, list) else convert(value)


_WITHIN = ("image", "images", "mask")
_PLACES: Mapping[str, Callable[[Any, Callable[[str], str]], Any]] = {
    **dict.fromkeys(("image", "mask_image"), _text),
    **dict.fromkeys(("regions", "control", "image_prompt"), _objects),
}
