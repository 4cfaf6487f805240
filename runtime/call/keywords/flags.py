"""How the command line spells the keywords that it takes as they are; drawing itself loads none of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    """How a value is written on the command line."""

    TEXT = "text"
    NUMBER = "number"
    WHOLE_NUMBER = "whole-number"
    NUMBERS = "numbers"
    """Numbers with commas between them; one alone is a number."""
    NUMBERS_OR_AYS = "numbers-or-ays"
    SIZE = "size"
    """WIDTHxHEIGHT; the keyword takes (height, width)."""
    PAIR = "pair"
    """Two whole numbers with a comma."""
    SETTINGS = "settings"
    """NAME=VALUE pairs with commas between them, "on" for the defaults of all, or "off"."""
    WHOLE_NUMBER_OR_SETTINGS = "whole-number-or-settings"


@dataclass(frozen=True)
class Flag:
    """An option of the drawing commands: its name, its help, and how its value is written."""

    name: str
    help: str
    form: Form = Form.TEXT
    metavar: str | None = None
    short: str | None = None


FLAGS: Mapping[str, Flag] = {
    "prompt_2": Flag("--prompt-2", "SDXL: the prompt for the second text encoder."),
    "negative_prompt": Flag("--negative", "What to steer away from.", short="-n"),
    "negative_prompt_2": Flag("--negative-2", "SDXL: the negative prompt for the second text encoder."),
    "prompt_syntax": Flag("--prompt-syntax", "How weights are written: plain (default), compel or a1111."),
    "long_prompt": Flag("--long-prompt", "truncate or chunk prompts beyond 77 tokens; default: truncate plain ones."),
    "clip_skip": Flag("--clip-skip", "How many last layers of the text encoder to skip.", Form.WHOLE_NUMBER),
    "wildcards": Flag(
        "--wildcards",
        "The folder with the files that __name__ in prompts stands for; '' for {red|blue} alone; each picture's seed "
        "chooses.",
        metavar="FOLDER",
    ),
    "original_size": Flag(
        "--original-size", "SDXL: original size to condition on; default: the output size.", Form.SIZE, "WxH"
    ),
    "crops_coords_top_left": Flag(
        "--crop-top-left", "SDXL: crop offset (top,left) to condition on.", Form.PAIR, "TOP,LEFT"
    ),
    "target_size": Flag(
        "--target-size", "SDXL: target size to condition on; default: the output size.", Form.SIZE, "WxH"
    ),
    "aesthetic_score": Flag(
        "--aesthetic-score", "SDXL's refiner: aesthetic score to condition on; default: 6.", Form.NUMBER
    ),
    "vae": Flag("--vae", "whole (default), sliced, or tiled for large pictures."),
    "num_inference_steps": Flag("--steps", "Sampler steps; default: the bundle's.", Form.WHOLE_NUMBER),
    "timesteps": Flag(
        "--timesteps", "Timesteps to visit, separated by commas; or ays (Align Your Steps).", Form.NUMBERS_OR_AYS
    ),
    "sigmas": Flag("--sigmas", "Noise levels to visit, separated by commas, down to 0; or ays.", Form.NUMBERS_OR_AYS),
    "denoising_end": Flag("--denoising-end", "Part of the schedule, 0 to 1, after which to stop.", Form.NUMBER),
    "guidance_scale": Flag(
        "--guidance", "Guidance scale, or one per step separated by commas; at most 1: none.", Form.NUMBERS
    ),
    "guidance_rescale": Flag(
        "--guidance-rescale", "0 to 1: against overexposure by strong guidance; default: 0.", Form.NUMBER
    ),
    "guidance_start": Flag(
        "--guidance-start", "Part of the steps, 0 to 1, before guidance begins; default: 0.", Form.NUMBER
    ),
    "guidance_end": Flag("--guidance-end", "Part of the steps, 0 to 1, after which it ends; default: 1.", Form.NUMBER),
    "cfg_plus_plus": Flag(
        "--cfg-plus-plus",
        "CFG++ in place of --guidance: its weight, 0 to 1, or one per step separated by commas; 0.6 is common.",
        Form.NUMBERS,
    ),
    "apg": Flag(
        "--apg",
        "Adaptive projected guidance, against oversaturation: eta=0,norm_threshold=15,momentum=-0.5, of which each may "
        "be left out; or on; or off.",
        Form.SETTINGS,
        "NAME=VALUE,…",
    ),
    "dynamic_thresholding": Flag(
        "--dynamic-thresholding",
        "Keep the range of a weaker guidance: mimic_scale=7 and others of docs/guidance.md; or on; or off.",
        Form.SETTINGS,
        "NAME=VALUE,…",
    ),
    "pag_scale": Flag(
        "--pag-scale",
        "Perturbed-attention guidance; 3 is common; default: 0, none. Half as much work again.",
        Form.NUMBER,
    ),
    "pag_adaptive_scale": Flag(
        "--pag-adaptive-scale", "What --pag-scale falls by with each timestep below 1000; default: 0.", Form.NUMBER
    ),
    "pag_applied_layers": Flag(
        "--pag-layers", "The self-attentions to perturb, such as up_blocks.0; default: mid.", Form.TEXT, "LAYERS"
    ),
    "freeu": Flag(
        "--freeu",
        "FreeU: on, with what its authors recommend for the model, or some of b1=1.5,b2=1.6,s1=0.9,s2=0.2; or off.",
        Form.SETTINGS,
        "NAME=VALUE,…",
    ),
    "deep_cache": Flag(
        "--deep-cache",
        "DeepCache: every so many model calls the whole U-Net is computed, such as 3; or interval=3,branch=0, of which "
        "each may be left out; or on; or off.",
        Form.WHOLE_NUMBER_OR_SETTINGS,
        "N",
    ),
}
"""The keywords that the command line takes as they are; others, such as size and seed, it makes of its own options."""
