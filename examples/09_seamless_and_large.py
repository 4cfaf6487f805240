"""Pictures that wrap around, and pictures larger than memory would like.

python examples/09_seamless_and_large.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

from PIL import Image

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "seamless.bundle", seamless="xy")
latentrt.build("emoji", folder / "large.bundle", profiles=["192x192"])

with latentrt.open(folder / "seamless.bundle") as pipe:
    tile = pipe("sunflower", num_inference_steps=20, guidance_scale=3.0, seed=1).images[0]
wall = Image.new("RGB", (3 * tile.width, 3 * tile.height))
for left in range(0, wall.width, tile.width):
    for top in range(0, wall.height, tile.height):
        wall.paste(tile, (left, top))
wall.save(folder / "wall.png")

# The autoencoder goes tile by tile: the memory of one tile, whatever the picture's size
with latentrt.open(folder / "large.bundle") as pipe:
    large = pipe("sunflower", num_inference_steps=20, guidance_scale=3.0, seed=1, vae="tiled")
print(*large.save(folder / "large.png"), f"decoded in {large.timings.decode:.2f} s")
