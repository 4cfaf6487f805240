"""Build the embedded model once, then draw a picture from it.

python examples/00_draw.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)

# Needs torch and takes half a minute; a bundle that is up to date is kept as it is.
latentrt.build("emoji", folder / "emoji.bundle")

# Needs no torch from here on.
with latentrt.open(folder / "emoji.bundle") as pipe:
    result = pipe("strawberry", num_inference_steps=20, guidance_scale=4.0, sampler="dpmpp_2m_k", seed=7)

(path,) = result.save(folder / "strawberry.png")
print(f"{path}: {result.timings.total:.2f} s, of which U-Net {result.timings.unet:.2f} s")
print(result.metadata[0].parameters())
