"""SDXL: its base model begins, its refiner finishes, and both are told of sizes.

Needs bundles of the two models in the output folder:

    latentrt build stabilityai/stable-diffusion-xl-base-1.0 -o out/sdxl.bundle --profile 1024x1024
    latentrt build stabilityai/stable-diffusion-xl-refiner-1.0 -o out/refiner.bundle --profile 1024x1024

python examples/10_sdxl.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
prompt = "a lighthouse on a cliff at dusk, long exposure"
common = {"num_inference_steps": 25, "guidance_scale": 5.0, "sampler": "euler"}

# One after the other: neither needs the memory of both
with latentrt.open(folder / "sdxl.bundle") as base:
    begun = base(
        prompt,
        prompt_2="oil painting",  # for the second text encoder alone
        negative_prompt="blurry",  # left out, the base steers away from zeros; "" is the empty prompt
        negative_original_size=(512, 512),  # away from what small pictures look like, enlarged
        negative_target_size=(1024, 1024),
        seed=4,
        denoising_end=0.8,
        output_type="latent",
        **common,
    )

with latentrt.open(folder / "refiner.bundle") as refiner:
    finished = refiner.img2img(prompt, image=begun.latents, denoising_start=0.8, aesthetic_score=6.5, **common)

print(*finished.save(folder / "lighthouse.png"))
print(begun.timings.unet_calls, "U-Net calls of the base,", finished.timings.unet_calls, "of the refiner")
