"""The embedded models: small, genuine checkpoints in diffusers layout, one of Stable Diffusion and one of videos."""

from pathlib import Path

EMOJI = Path(__file__).resolve().parent / "emoji"
EMBEDDED = "emoji"  # the name by which `latentrt build` takes it
EMBEDDED_VIDEO = "emoji-video"  # sets a picture of an emoji moving
EMBEDDED_MODELS = {EMBEDDED: EMOJI, EMBEDDED_VIDEO: EMOJI.with_name(EMBEDDED_VIDEO)}
