"""Train `examples/control/canny`: a ControlNet by which the embedded model draws its emoji along an outline.

    npm pack @iconify-json/fluent-emoji-flat
    python examples/92_train_control.py --minutes 55 --data iconify-json-fluent-emoji-flat-*.tgz

It learns from emoji that were bent out of their own shape, beside outlines of them as an edge filter or an unsteady
hand draws them, on black; see emoji_outlines.py. A quarter of the prompts is left out, so that the outline alone has
to do. Every eighth name of those that the model draws and those in pictures of the documentation are left out. The
model itself stays as it is; trained is a copy of its U-Net's first half.

Stopped halfway, the same command goes on from the last checkpoint in --work. It ends by writing --out, a diffusers
folder in fp16, and by drawing the names that were left out along outlines of theirs, with the net and without it.
`--steps 2 --limit-icons 8` tries the whole way in seconds.

Needs torch, diffusers, transformers, opencv-python-headless and resvg-py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import emoji_data
import emoji_outlines
from emoji_training import Pace, Run, epsilon_loss, train

MODEL = Path(__file__).resolve().parent.parent / "models" / "emoji"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, but for the time given."""

    size: int = 64  # pixels a side
    drawn: int = 256  # pixels a side at which emoji are bent and outlined
    # of the layers that bring an outline to the latents' size: one step down fewer than channels
    hint_channels: tuple[int, ...] = (16, 32, 64)
    shapes: int = 20  # of each emoji that the model draws
    other_shapes: int = 5  # of each other emoji: more outlines to follow
    outlines: int = 2  # of each shape
    pace: Pace = field(default_factory=lambda: Pace(batch=16, rate=8e-4, ema=0.998))
    empty_prompts: float = 0.25
    snr_gamma: float = 5.0  # see emoji_training.epsilon_loss
    snr_floor: float = 0.5
    held_out: int = 8  # every so-many-th name


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What is learnt from: bent pictures, outlines of each and its prompt."""

    latents: torch.Tensor  # (N, 4, h, w), scaled
    outlines: torch.Tensor  # (N, outlines, S, S) uint8
    prompts: list[str]


def bent_and_outlined(
    collection: dict[str, Any], name: str, shapes: int, recipe: Recipe, seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """An emoji in several shapes (shapes, S, S, 3), and outlines of each (shapes, outlines, S, S)."""
    rng = np.random.default_rng([seed, *name.encode()])
    large = emoji_data.picture_from_icon(collection["icons"][name], collection, recipe.drawn)
    size = (recipe.size, recipe.size)
    pictures, outlines = [], []
    for _ in range(shapes):
        shape = emoji_outlines.bent(large, rng)
        pictures.append(cv2.resize(shape, size, interpolation=cv2.INTER_AREA))
        outlines.append([emoji_outlines.outline(shape, recipe.size, rng) for _ in range(recipe.outlines)])
    return np.stack(pictures), np.array(outlines)


def examples_from_icons(
    pipeline: StableDiffusionPipeline, collection: dict[str, Any], shapes: dict[str, int], recipe: Recipe, seed: int
) -> Examples:
    """So many shapes of each named icon, as latents."""
    latents, outlines, prompts = [], [], []
    for name, count in shapes.items():
        pictures, drawn = bent_and_outlined(collection, name, count, recipe, seed)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with torch.no_grad():
            latents.append(pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor)
        outlines.append(torch.from_numpy(drawn))
        prompts += [emoji_data.prompt_from_name(name)] * count
    return Examples(latents=torch.cat(latents), outlines=torch.cat(outlines), prompts=prompts)


def hint_from_outlines(outlines: torch.Tensor) -> torch.Tensor:
    """(B, S, S) uint8 → (B, 3, S, S) float32 in [0, 1]."""
    return outlines.float().div(255)[:, None].expand(-1, 3, -1, -1)


def train_control(pipeline: StableDiffusionPipeline, examples: Examples, recipe: Recipe, run: Run) -> ControlNetModel:
    """Trains a net that starts as the U-Net's first half; the averaged weights stay in it."""
    torch.manual_seed(run.seed)
    net = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=recipe.hint_channels)
    unet = pipeline.unet.requires_grad_(False).eval()
    for model in (net, unet):
        model.to(memory_format=torch.channels_last)
    names = sorted({*examples.prompts, ""})
    with torch.no_grad():
        ids = pipeline.tokenizer(names, padding="max_length", truncation=True, return_tensors="pt").input_ids
        embeds = pipeline.text_encoder(ids).last_hidden_state
    rows = {name: row for row, name in enumerate(names)}
    prompts, empty = torch.tensor([rows[prompt] for prompt in examples.prompts]), rows[""]
    alphas = pipeline.scheduler.alphas_cumprod

    def loss_of(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        z, prompt = examples.latents[indices], prompts[indices].clone()
        prompt[torch.rand(len(z), generator=generator) < recipe.empty_prompts] = empty
        text = embeds[prompt]
        which = torch.randint(recipe.outlines, (len(z),), generator=generator)
        hint = hint_from_outlines(examples.outlines[indices, which])

        def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            down, mid = net(noisy, t, text, hint, return_dict=False)
            predicted = unet(
                noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
            return cast(torch.Tensor, predicted)

        return epsilon_loss(predict, z, alphas, generator, snr_floor=recipe.snr_floor, snr_gamma=recipe.snr_gamma)

    train("control", torch.nn.ModuleDict({"net": net}), loss_of, len(examples.latents), recipe.pace, run)
    return net


def save_control(net: ControlNetModel, folder: Path) -> None:
    """A diffusers folder in fp16: config.json and diffusion_pytorch_model.safetensors."""
    net.half().save_pretrained(folder)
    net.float()


def held_out_agreement(
    pipeline: StableDiffusionPipeline,
    net: ControlNetModel,
    collection: dict[str, Any],
    names: list[str],
    recipe: Recipe,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Draws names along Canny's edges of one bent picture each: emoji_outlines.agreement's means, by scale."""
    rng = np.random.default_rng(seed)
    hints = []
    for name in names:
        large = emoji_data.picture_from_icon(collection["icons"][name], collection, recipe.drawn)
        small = cv2.resize(emoji_outlines.bent(large, rng), (recipe.size, recipe.size), interpolation=cv2.INTER_AREA)
        hints.append(np.asarray(cv2.Canny(small, 100, 200)))
    controlled = StableDiffusionControlNetPipeline(**pipeline.components, controlnet=net, requires_safety_checker=False)
    controlled.set_progress_bar_config(disable=True)
    agreements = {}
    for label, scale in (("without the net", 0.0), ("with it", 1.0)):
        drawn = controlled(
            [emoji_data.prompt_from_name(name) for name in names],
            image=[Image.fromarray(hint).convert("RGB") for hint in hints],
            num_inference_steps=20,
            guidance_scale=3.0,
            controlnet_conditioning_scale=scale,
            generator=[torch.Generator().manual_seed(seed + index) for index in range(len(names))],
        ).images
        shares = [emoji_outlines.agreement(np.asarray(p), hint) for p, hint in zip(drawn, hints, strict=True)]
        agreements[label] = cast(tuple[float, float], tuple(np.mean(shares, axis=0)))
    return agreements


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a ControlNet for models/emoji that follows an outline.")
    parser.add_argument("--minutes", type=float, default=55.0, help="of training, over all resumptions")
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-icons", type=int, help="train on the first N icons only")
    parser.add_argument("--data", type=Path, help="the npm package's .tgz, or its icons.json")
    parser.add_argument("--work", type=Path, default=Path("control-train"), help="checkpoints of the training")
    parser.add_argument("--out", type=Path, default=Path("control-train/canny"), help="the diffusers folder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    if given.minutes <= 0 or (given.steps is not None and given.steps < 0):
        parser.error(f"got --minutes {given.minutes} --steps {given.steps}, expected more than 0 and at least 0")
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()

    recipe = Recipe()
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        collection = emoji_data.icons_from_package(given.data, given.work)
    except emoji_data.DataMissingError as missing:
        print(missing, file=sys.stderr)
        return 2
    drawn, held_out = emoji_data.names_and_held_out(collection, recipe.held_out)
    every = [name for name in emoji_data.chosen_names(collection["icons"]) if name not in held_out]
    shapes = {n: recipe.shapes if n in drawn else recipe.other_shapes for n in every[: given.limit_icons]}
    pipeline = StableDiffusionPipeline.from_pretrained(str(MODEL), torch_dtype=torch.float32)
    examples = examples_from_icons(pipeline, collection, shapes, recipe, given.seed)
    print(f"{len(shapes)} icons in {len(examples.prompts)} shapes; {len(held_out)} are held out", flush=True)

    run = Run(seed=given.seed, minutes=given.minutes, steps=given.steps, work=given.work, out=given.out)
    net = train_control(pipeline, examples, recipe, run)
    save_control(net, given.out)
    size = sum(file.stat().st_size for file in given.out.iterdir())
    print(f"wrote {given.out}: {size / 1e6:.2f} MB", flush=True)
    tried = held_out[: given.limit_icons]
    agreements = held_out_agreement(pipeline, net, collection, tried, recipe, given.seed)
    for label, (followed, meant) in agreements.items():
        print(f"{label}: {followed:.1%} of the outline has an edge, {meant:.1%} of the edges are of the outline")
    return 0


if __name__ == "__main__":
    sys.exit(main())
