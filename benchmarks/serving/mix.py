"""What the clients ask for: settings from a seeded generator, every one drawn several times in other company."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from latentrt.benchmarks.serving.asked import Asked

STYLE = "style"  # the LoRA's name
_SIZES = ((64, 64),) * 5 + ((32, 32),) * 3 + ((96, 96),) * 2
_SAMPLERS = ("dpmpp_2m_k", "euler", "euler_a", "ddim", "heun", "lms", "unipc", "dpmpp_2m_sde_k", "er_sde", "deis")
_STEPS = (4, 6, 8, 10, 12)
_GUIDANCE = (1.0, 3.0, 7.5, 7.5, 7.5)
_NEGATIVE = ("blurred", "black and white", "text, a frame")
# Of ten pictures, the ways of drawing
_WAYS = ("text",) * 5 + ("negative", "img2img", "inpaint", "hires", "lora")
_SMALL = (32, 32)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Which settings there are."""

    sizes: Sequence[tuple[int, int]] = _SIZES
    samplers: Sequence[str] = _SAMPLERS
    steps: Sequence[int] = _STEPS
    guidance: Sequence[float] = _GUIDANCE
    ways: Sequence[str] = _WAYS


EVERYTHING = Mix()
# What all contenders can draw: text alone, a sampler that all have, guidance in every step
COMMON = Mix(sizes=((64, 64), (32, 32), (96, 96)), samplers=("euler",), guidance=(7.5,), ways=("text",))


def asked_pictures(mix: Mix, prompts: Sequence[str], count: int, seed: int) -> list[Asked]:
    """So many different pictures."""
    random = Random(seed)
    return [_asked(mix, prompts, random) for _ in range(count)]


def shuffled(pictures: Sequence[Asked], count: int, seed: int) -> list[Asked]:
    """So many requests for these pictures, each about as often as the others, in an order of chance."""
    random, found = Random(seed), list[Asked]()
    while len(found) < count:
        found += random.sample(pictures, len(pictures))
    return found[:count]


def prompts_of_the_model() -> list[str]:
    """What the embedded model knows: names of emoji."""
    import latentrt.models

    folder = Path(next(iter(latentrt.models.__path__)))
    return (folder / "emoji" / "prompts.txt").read_text("utf-8").splitlines()


def _asked(mix: Mix, prompts: Sequence[str], random: Random) -> Asked:
    (width, height), way = random.choice(mix.sizes), random.choice(mix.ways)
    guidance, extra = random.choice(mix.guidance), dict[str, Any]()
    match way:
        case "negative":
            guidance, extra = 7.5, {"negative_prompt": random.choice(_NEGATIVE)}
        case "hires":
            (width, height), strength = _SMALL, random.choice((0.5, 0.75))
            extra = {"hires": {"scale": 2.0, "strength": strength, "upscaler": random.choice(("latent", "lanczos"))}}
        case "lora":
            extra = {"loras": {STYLE: random.choice((0.5, 1.0))}}
        case "img2img" | "inpaint":
            extra = {"source": random.randrange(1000), "strength": random.choice((0.5, 0.75, 1.0))}
            extra |= {"mask": random.randrange(1000)} if way == "inpaint" else {}
    picture = partial(Asked, prompt=random.choice(prompts), width=width, height=height, guidance_scale=guidance)
    return picture(
        num_inference_steps=random.choice(mix.steps),
        sampler=random.choice(mix.samplers),
        seed=random.randrange(1 << 31),
        **extra,
    )
