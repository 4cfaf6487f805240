"""The embedded default model: a small, genuine Stable Diffusion checkpoint in diffusers layout."""

from pathlib import Path

EMOJI = Path(__file__).resolve().parent / "emoji"
EMBEDDED = "emoji"  # the name by which `latentrt build` takes it
