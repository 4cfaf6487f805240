"""The hires fix: emoji at 64x64, enlarged to 96x96 as latents and as pictures, and drawn on.

python examples/14_hires.py [OUTPUT_FOLDER]

The embedded model has seen pictures of 64x64 alone: the more a second pass may redraw, the more it repeats itself.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import latentrt

DRAWN = [("cat face", 5), ("strawberry", 2), ("red apple", 3), ("pizza", 7), ("tiger face", 4), ("cookie", 2)]
SECOND = {
    "64x64": None,
    "latent, 0.5": latentrt.Hires(scale=1.5, strength=0.5, steps=12, upscaler="latent"),
    "lanczos, 0.3": latentrt.Hires(scale=1.5, strength=0.3, steps=12, upscaler="lanczos"),
}
SIDE, LEFT, TOP = 112, 128, 32  # pixels: of a picture, and what labels take

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "hires.bundle", profiles=["64x64", "96x96"])

sheet = Image.new("RGB", (LEFT + SIDE * len(DRAWN), TOP + SIDE * len(SECOND)), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
for row, label in enumerate(SECOND):
    draw.text((LEFT - 8, TOP + row * SIDE + SIDE // 2), label, "black", font, anchor="rm")

with latentrt.open(folder / "hires.bundle") as pipe:
    for column, (prompt, seed) in enumerate(DRAWN):
        left = LEFT + column * SIDE
        draw.text((left + SIDE // 2, TOP // 2), prompt, "black", font, anchor="mm")
        for row, hires in enumerate(SECOND.values()):
            result = pipe(prompt, hires=hires, num_inference_steps=20, guidance_scale=3.0, seed=seed)
            picture = result.images[0].resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left, TOP + row * SIDE))

sheet.save(folder / "hires.png", optimize=True)
print(f"{folder / 'hires.png'}: {', '.join(SECOND)}")
