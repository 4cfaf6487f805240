"""Pictures that wrap around: copies side by side show no seam.

python examples/09_seamless.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

from PIL import Image

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "seamless.bundle", seamless="xy")

with latentrt.open(folder / "seamless.bundle") as pipe:
    (tile,) = pipe("sunflower", num_inference_steps=20, guidance_scale=3.0, seed=1).images

wall = Image.new("RGB", (3 * tile.width, 3 * tile.height))
for left in range(0, wall.width, tile.width):
    for top in range(0, wall.height, tile.height):
        wall.paste(tile, (left, top))
wall.save(folder / "wall.png")
print(folder / "wall.png", wall.size)
