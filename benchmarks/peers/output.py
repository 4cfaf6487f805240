"""What an adapter drew, on disk."""

from pathlib import Path
from typing import Any


def save(output: Path | None, pixels: Any, latents: Any) -> None:
    """Writes pixels (N, H, W, 3) in [0, 1] and latents as .npz, or the first picture as .png; None writes nothing."""
    if output is None:
        return
    import numpy as np

    if output.suffix == ".png":
        from PIL import Image

        Image.fromarray(np.rint(np.asarray(pixels[0]) * 255).astype(np.uint8)).save(output)
        return
    shown = np.asarray(pixels, np.float32)
    if latents is None:
        np.savez(output, pixels=shown)
    else:
        np.savez(output, pixels=shown, latents=np.asarray(latents, np.float32))
