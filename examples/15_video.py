"""Emoji that the still model draws from their names, and the video model lets hop.

python examples/15_video.py [OUTPUT_FOLDER]

`models/emoji-video` was trained by 93_train_video.py. None of the emoji below was among what it was trained on.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import latentrt

NAMES = ("red apple", "cherries", "ghost", "sunflower", "strawberry", "tiger face")
SIDE, TOP, FPS = 128, 28, 7  # pixels: of a picture, and what labels take
ROOM = 46  # pixels of 64 that an emoji fills, so that it stays in the picture

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")
latentrt.build("emoji-video", folder / "emoji-video.bundle")


def with_room(picture: Image.Image) -> Image.Image:
    """The picture, smaller, in the middle of white."""
    canvas = Image.new("RGB", picture.size, "white")
    left = (picture.width - ROOM) // 2
    canvas.paste(picture.resize((ROOM, ROOM), Image.Resampling.LANCZOS), (left, left))
    return canvas


clips = []
with latentrt.open(folder / "emoji.bundle") as still, latentrt.open(folder / "emoji-video.bundle") as video:
    for name in NAMES:
        picture = with_room(still(name, num_inference_steps=20, guidance_scale=3.0, seed=5).images[0])
        result = video.img2vid(
            picture,
            num_inference_steps=20,
            motion_bucket_id=150,  # a little higher than the usual 127
            min_guidance_scale=2.0,
            max_guidance_scale=2.0,
            fps=FPS,
            seed=1,
        )
        result.save(folder / f"{name.replace(' ', '-')}.webp")  # a clip that carries its settings
        clips.append(result.frames[0])

font, sheets = ImageFont.load_default(size=18), []
for frames in zip(*clips, strict=True):
    sheet = Image.new("RGB", (SIDE * len(NAMES), TOP + SIDE), "white")
    for column, (name, frame) in enumerate(zip(NAMES, frames, strict=True)):
        left = column * SIDE
        ImageDraw.Draw(sheet).text((left + SIDE // 2, TOP // 2), name, "black", font, anchor="mm")
        sheet.paste(frame.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, TOP))
    sheets.append(sheet)
first, *others = sheets
first.save(folder / "video.webp", save_all=True, append_images=others, duration=1000 // FPS, loop=0, quality=85)
print(f"{folder / 'video.webp'}: {len(sheets)} frames")
