"""A LoRA as an argument of a call: at weight 0, at half its weight and at its full weight.

python examples/11_lora.py [OUTPUT_FOLDER]

`loras/ink` was trained by 91_train_lora.py. None of the emoji below was among what it was trained on.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import latentrt

PROMPTS = ["cat", "crying face", "ghost", "red apple", "pizza", "pear", "cupcake", "frog"]
WEIGHTS = {"without": 0.0, "weight 0.5": 0.5, "weight 1": 1.0}
SIDE, LEFT, TOP = 128, 112, 32  # pixels: of a picture, and what labels take

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")

sheet = Image.new("RGB", (LEFT + SIDE * len(PROMPTS), TOP + SIDE * len(WEIGHTS)), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
for column, prompt in enumerate(PROMPTS):
    draw.text((LEFT + column * SIDE + SIDE // 2, TOP // 2), prompt, "black", font, anchor="mm")

with latentrt.open(folder / "emoji.bundle") as pipe:
    pipe.load_lora(Path(__file__).parent / "loras" / "ink.safetensors", name="ink")
    settings = {"num_inference_steps": 20, "guidance_scale": 3.0, "seed": [7] * len(PROMPTS)}
    for row, (label, weight) in enumerate(WEIGHTS.items()):
        top = TOP + row * SIDE
        draw.text((LEFT - 8, top + SIDE // 2), label, "black", font, anchor="rm")
        for column, picture in enumerate(pipe(PROMPTS, loras={"ink": weight}, **settings).images):
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (LEFT + column * SIDE, top))

sheet.save(folder / "lora.png")
print(f"{folder / 'lora.png'}: {', '.join(WEIGHTS)}")
