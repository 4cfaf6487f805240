"""Start from a picture: the same strawberry, changed more and more.

python examples/02_img2img.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")

with latentrt.open(folder / "emoji.bundle") as pipe:
    start = pipe("strawberry", num_inference_steps=20, guidance_scale=4.0, seed=7).images[0]
    for strength in (0.0, 0.3, 0.6, 1.0):
        result = pipe.img2img(
            "red apple", image=start, strength=strength, num_inference_steps=20, guidance_scale=4.0, seed=7
        )
        (path,) = result.save(folder / f"apple-{strength:.1f}.png")
        print(f"{path}: {result.timings.unet_calls} U-Net calls")
