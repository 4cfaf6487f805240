"""Samplers with options, custom timesteps, and guidance that changes on the way.

python examples/06_samplers_and_guidance.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import latentrt
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.trace import trace

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")

with latentrt.open(folder / "emoji.bundle") as pipe:
    common = {"seed": 7, "guidance_scale": 3.0}
    draws = {
        "heun": pipe("sunflower", sampler="heun_k", num_inference_steps=10, **common),
        # diffusers' own names for options; what a sampler has, its row tells
        "sde": pipe(
            "sunflower",
            sampler=latentrt.Sampler(name="dpmpp_2m", algorithm_type="sde-dpmsolver++", sigma_spacing="exponential"),
            num_inference_steps=20,
            **common,
        ),
        "ays": pipe("sunflower", sampler="dpmpp_2m", timesteps="ays", **common),
        # Guidance in the first half only: the second half costs half as much
        "interval": pipe(
            "sunflower", num_inference_steps=20, seed=7, guidance_scale=6.0, guidance_end=0.5, guidance_rescale=0.7
        ),
    }
    print("euler takes", ", ".join(SAMPLERS["euler"].options))

    # A solver is linear: a whole run can be written down before it begins, one row per model call
    sampler = latentrt.Sampler(name="dpmpp_2m_k")
    schedule = sampler.schedule(pipe.manifest.schedule, 4)
    table = trace(schedule, sampler.solver(pipe.manifest.schedule))
    for row in table.rows:
        print(f"t {row.level.timestep:4.0f}  x {row.x:6.3f}  x₀ {row.prediction:6.3f}  earlier {row.earlier}")

for name, result in draws.items():
    print(*result.save(folder / f"sunflower-{name}.png"), result.timings.unet_calls, "U-Net calls")
