"""A ControlNet as an argument of a call: emoji without it, and along outlines that were drawn by hand.

python examples/13_control.py [OUTPUT_FOLDER]

`control/canny` was trained by 92_train_control.py. None of the emoji below was among what it was trained on.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import latentrt

DRAWN = [
    ("red apple", "apple"),
    ("lemon", "apple"),
    ("ghost", "ghost"),
    ("crying face", "ghost"),
    ("tiger face", "cat"),
    ("strawberry", "strawberry"),
    ("frog", "frog"),
    ("nerd face", "frog"),
]
SCALES = {"without": 0.0, "along it": 1.0}
SIDE, LEFT, TOP = 128, 112, 32  # pixels: of a picture, and what labels take
CONTROL = Path(__file__).parent / "control"

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")
latentrt.build(CONTROL / "canny", folder / "canny.bundle", for_bundle=folder / "emoji.bundle")

sheet = Image.new("RGB", (LEFT + SIDE * len(DRAWN), TOP + SIDE * (1 + len(SCALES))), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
for row, label in enumerate(["outline", *SCALES]):
    draw.text((LEFT - 8, TOP + row * SIDE + SIDE // 2), label, "black", font, anchor="rm")

with latentrt.open(folder / "emoji.bundle") as pipe:
    for column, (prompt, name) in enumerate(DRAWN):
        drawing = Image.open(CONTROL / "outlines" / f"{name}.png").convert("RGB")
        outline = latentrt.prepare.invert(drawing)  # as Canny's filter draws: white on black
        pictures = [drawing]
        for scale in SCALES.values():
            control = latentrt.Control(folder / "canny.bundle", outline, scale=scale)
            pictures += pipe(prompt, control=[control], num_inference_steps=20, guidance_scale=3.0, seed=5).images
        left = LEFT + column * SIDE
        draw.text((left + SIDE // 2, TOP // 2), prompt, "black", font, anchor="mm")
        for row, picture in enumerate(pictures):
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, TOP + row * SIDE))

sheet.save(folder / "control.png", optimize=True)
print(f"{folder / 'control.png'}: {', '.join(SCALES)}")
