"""What an adapter drew, on disk."""

import os
from pathlib import Path
from typing import Any


def save(output: Path | None, pixels: Any, latents: Any) -> None:
    """Writes pixels (N, H, W, 3) in [0, 1] and latents as .npz, or the first picture as .png; None writes nothing.

    The file appears whole: it is written under another name and renamed.
    """
    if output is None:
        return
    import numpy as np

    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        if output.suffix == ".png":
            from PIL import Image

            Image.fromarray(np.rint(np.asarray(pixels[0]) * 255).astype(np.uint8)).save(temporary)
        else:
            shown = np.asarray(pixels, np.float32)
            with temporary.open("wb") as file:
                if latents is None:
                    np.savez(file, pixels=shown)
                else:
                    np.savez(file, pixels=shown, latents=np.asarray(latents, np.float32))
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
