"""See the picture while it is drawn, and stop when it is good enough.

python examples/07_preview_and_interrupt.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")
previews = []


def watch(pipe, step, timestep, tensors):
    """Keeps a preview of each step's prediction (no model runs for it), and stops once little changes."""
    previews.append(pipe.preview(tensors["denoised"])[0].resize((64, 64)))
    print(f"step {step:2d}  timestep {timestep:4.0f}")
    if timestep < 200:
        raise latentrt.Interrupt


with latentrt.open(folder / "emoji.bundle") as pipe:
    result = pipe(
        "strawberry",
        num_inference_steps=20,
        guidance_scale=3.0,
        seed=2,
        callback_on_step_end=watch,
        progress=lambda done, total: print(f"{done} of {total}", end="\r"),
    )

strip = previews[0].copy().resize((64 * len(previews), 64))
for index, preview in enumerate(previews):
    strip.paste(preview, (64 * index, 0))
strip.save(folder / "previews.png")
print(*result.save(folder / "interrupted.png"), "interrupted" if result.interrupted else "finished")
