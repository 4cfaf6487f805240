"""The photograph that every build is compared on.

probe.jpg is Stéfan van der Walt's cat Chelsea, released under CC0.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array

_FILE = Path(__file__).resolve().parent / "probe.jpg"


def photograph(profile: Profile | None = None) -> Image.Image:
    """The photograph in RGB, at a profile's size where one is given."""
    with Image.open(_FILE) as image:
        rgb = image.convert("RGB")
    return rgb if profile is None else rgb.resize((profile.width, profile.height), Image.Resampling.LANCZOS)


def picture_pixels(profile: Profile) -> Array:
    """The photograph as upscalers take it: (1, 3, H, W) float32 in [0, 1]."""
    pixels = np.asarray(photograph(profile), np.float32) / np.float32(255.0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
