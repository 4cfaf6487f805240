"""Watch the denoising, and reach into it: a callback after every step may replace the latents.

python examples/03_callback.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")


def mirror_early(pipe, step, timestep, tensors):
    """Reports each step; makes the picture symmetric while its layout is still forming."""
    latents = tensors["latents"]
    print(f"step {step:2d}  timestep {timestep:5.0f}  deviation {latents.std():.2f}")
    if step < 6:
        return {"latents": (latents + latents[..., ::-1]) / 2**0.5}
    return None


with latentrt.open(folder / "emoji.bundle") as pipe:
    result = pipe(
        "frog", num_inference_steps=20, guidance_scale=4.0, seed=3, sampler="ddim", callback_on_step_end=mirror_early
    )
(path,) = result.save(folder / "frog.png")
print(path)
