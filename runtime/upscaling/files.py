"""Enlarged pictures in files, with what the file of the source tells of it."""

import json
import warnings
from contextlib import suppress
from pathlib import Path

from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.files import output_error
from latentrt.runtime.pictures.image import write_png
from latentrt.runtime.pictures.picture_file import read_parameters, write_picture

_LONGEST = 2**20  # characters of a text chunk that is kept
_SEPARATORS = frozenset(',:\n"')


def write_enlarged(path: Path, image: Image.Image, source: Path, *, upscaler: str, scale: float) -> None:
    """Writes an enlarged picture; the folder is made.

    A PNG keeps the texts and the colour profile of its source, and has A1111's chunk ``postprocessing`` beside them;
    other formats keep the settings that drew the source.

    Args:
        path: the file.
        image: the enlarged picture.
        source: the file of the picture that was enlarged.
        upscaler: what enlarged it.
        scale: how many times.

    Raises:
        RequestError: a name that ends in another format's suffix.
        OutputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    parameters = _settings(source)
    if path.suffix.lower() != ".png":
        write_picture(path, image, parameters)
        return
    texts, profile = _texts_and_profile(source)
    if profile is not None:
        image.info["icc_profile"] = profile
    made = f"Postprocess upscale by: {scale:g}, Postprocess upscaler: {_quoted(upscaler)}"  # A1111's names
    write_png(path, image, parameters, {**texts, "postprocessing": made})


def _settings(source: Path) -> str | None:
    try:
        return read_parameters(source)
    except RequestError:  # gone since it was read
        return None


def _texts_and_profile(source: Path) -> tuple[dict[str, str], bytes | None]:
    """A PNG's texts but its settings, and a picture's colour profile if it is in RGB."""
    with suppress(Exception), warnings.catch_warnings(action="ignore"), Image.open(source) as image:
        image.load()  # text may stand behind the pixels
        found = getattr(image, "text", {}) if image.format == "PNG" else {}
        texts = {
            name: str(text)
            for name, text in found.items()
            if name not in ("parameters", "postprocessing") and len(text) <= _LONGEST
        }
        profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
        return texts, profile if isinstance(profile, bytes) else None
    return {}, None


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & _SEPARATORS else value
