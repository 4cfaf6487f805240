"""What OpenAI's clients send and are answered, as pictures."""

from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def picture_of(b64_json: str | None) -> Image.Image:
    """What a client decodes."""
    assert b64_json is not None
    return Image.open(BytesIO(b64decode(b64_json)))


def same(ours: Image.Image, theirs: Any) -> bool:
    """Pixel for pixel."""
    return np.array_equal(np.asarray(ours), np.asarray(theirs))


def png_bytes(image: Image.Image | None = None) -> bytes:
    """A file as clients send it; of one colour where no picture is given."""
    file = BytesIO()
    (image or Image.new("RGB", (32, 32), "teal")).save(file, format="PNG")
    return file.getvalue()
