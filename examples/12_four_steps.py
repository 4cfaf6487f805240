"""LoRAs: one that lets the model draw in four steps, and styles beside it.

Give your own bundle and files, all made for the same base model:

    latentrt build stable-diffusion-v1-5/stable-diffusion-v1-5 -o out/sd15.bundle

python examples/12_four_steps.py OUTPUT_FOLDER BUNDLE ACCELERATOR [STYLE...]

ACCELERATOR is an LCM-LoRA, Lightning, Hyper-SD, DMD2, TCD or Turbo LoRA, such as lcm-lora-sdv1-5.safetensors.
"""

import sys
from pathlib import Path

import latentrt

folder, bundle, accelerator, *styles = map(Path, sys.argv[1:])
folder.mkdir(parents=True, exist_ok=True)

with latentrt.open(bundle) as pipe:
    fast = pipe.load_lora(accelerator)
    loras = {fast: 1.0} | {pipe.load_lora(style): 0.8 for style in styles}
    for lora in pipe.loras:
        print(lora.name, lora.accelerator or "", *lora.trigger_words)

    # Sampler, steps and guidance that the accelerator needs; with others, a warning names them
    settings = pipe.loras[0].settings
    words = [word for lora in pipe.loras for word in lora.trigger_words]
    prompt = ", ".join(["a lighthouse on a cliff at dusk", *words])
    slow = pipe(prompt, seed=4)  # loaded and not named: not used
    quick = pipe(prompt, loras=loras, seed=4, **settings)

    print(*slow.save(folder / "slow.png"), f"{slow.timings.total:.1f} s")
    print(*quick.save(folder / "quick.png"), f"{quick.timings.total:.1f} s")
    print(f"{pipe.lora_cache.bytes / 2**20:.0f} MB keep the set of LoRAs ready")
