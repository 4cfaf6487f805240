"""Stop part of the way, keep the latents, and go on elsewhere: with another prompt, sampler, or machine.

python examples/08_hand_over.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import numpy as np

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")
common = {"num_inference_steps": 20, "guidance_scale": 3.0, "sampler": "euler"}

with latentrt.open(folder / "emoji.bundle") as pipe:
    half = pipe("cat face", seed=4, denoising_end=0.4, output_type="latent", **common)
    (path,) = half.save_latents(folder / "half.npy")

    latents = np.load(path)
    same = pipe.img2img("cat face", image=latents, denoising_start=0.4, **common)
    other = pipe.img2img("tiger face", image=latents, denoising_start=0.4, **common)

for name, result in {"same": same, "other": other}.items():
    print(*result.save(folder / f"{name}.png"), result.timings.unet_calls, "U-Net calls")
