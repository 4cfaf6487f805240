"""Several prompts, a seed per picture, and one seed for a whole batch.

python examples/01_batches_and_seeds.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import numpy as np

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")

with latentrt.open(folder / "emoji.bundle") as pipe:
    # A seed per picture: each can be drawn again alone.
    several = pipe(["cat", "dog face", "frog"], seed=[1, 2, 3], num_inference_steps=8, guidance_scale=4.0)
    alone = pipe("dog face", seed=2, num_inference_steps=8, guidance_scale=4.0)
    distance = float(np.abs(several.latents[1] - alone.latents[0]).max())
    print(f"the dog in the batch and the dog alone differ by {distance:.1e}")

    # One seed for the batch, as one torch.Generator in diffusers.
    batch = pipe("pizza", num_images_per_prompt=3, seed=7, num_inference_steps=8, guidance_scale=4.0)

for path in [*several.save(folder / "several.png"), *batch.save(folder / "pizza.png")]:
    print(path)
