"""Redraw a part of a picture, and draw what lies around one.

python examples/05_inpaint.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
# Outpainting needs a profile of the size that the picture grows to
latentrt.build("emoji", folder / "wide.bundle", profiles=["64x64", "96x64"])
common = {"guidance_scale": 3.0, "num_inference_steps": 20, "sampler": "euler_a"}

with latentrt.open(folder / "wide.bundle") as pipe:
    face = pipe("cat face", seed=4, **common).images[0]

    # White is redrawn, black is kept, and what is kept comes back bit for bit
    mask = Image.new("L", face.size)
    ImageDraw.Draw(mask).rectangle((0, 34, 63, 63), fill=255)
    changed = pipe.inpaint("dog face", image=face, mask_image=mask, seed=1, **common)
    kept = np.asarray(mask) == 0
    assert (np.asarray(changed.images[0])[kept] == np.asarray(face)[kept]).all()

    # A detail of a large picture: its surroundings are drawn at 64×64 and pasted back
    poster = face.resize((256, 256))
    spot = Image.new("L", poster.size)
    ImageDraw.Draw(spot).ellipse((150, 90, 190, 130), fill=255)
    detail = pipe.inpaint(
        "red apple", image=poster, mask_image=spot, padding_mask_crop=16, width=64, height=64, seed=2, **common
    )

    wider = pipe.outpaint("cat face", image=face, left=16, right=16, overlap=4, strength=0.9, seed=3, **common)

face.save(folder / "face.png")
mask.save(folder / "mask.png")
for name, result in {"inpainted": changed, "detail": detail, "outpainted": wider}.items():
    print(*result.save(folder / f"{name}.png"), result.images[0].size)
