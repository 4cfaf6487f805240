"""The photograph that every build is compared on.

probe.jpg is Stéfan van der Walt's cat Chelsea, released under CC0.
"""

from pathlib import Path

from PIL import Image

from latentrt.engines.shapes import Profile

_FILE = Path(__file__).resolve().parent / "probe.jpg"


def photograph(profile: Profile | None = None) -> Image.Image:
    """The photograph in RGB, at a profile's size where one is given."""
    with Image.open(_FILE) as image:
        rgb = image.convert("RGB")
    return rgb if profile is None else rgb.resize((profile.width, profile.height), Image.Resampling.LANCZOS)
