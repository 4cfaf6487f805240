"""Train a tiny Zero123 that turns an emoji around: a picture of 64×64 pixels, seen from another place.

    npm pack @iconify-json/fluent-emoji-flat
    python examples/94_train_views.py --minutes 60 --data iconify-json-fluent-emoji-flat-*.tgz

It starts from the embedded model, see emoji_zero123.py. The VAE stays as it is; the U-Net, a small CLIP vision tower
and the projection of the pose learn from emoji as thick cards, which are drawn from many places, see emoji_views.py.
Every eighth name of those that the embedded model draws and those in pictures of the documentation are left out.

Stopped halfway, the same command goes on from the last checkpoint in --work. It ends by writing --out, a diffusers
folder in fp16, and --work/turns.png: a row of views for every one of a few emoji that were left out; the first is the
picture that was given. `--steps 0` writes what --work holds now; `--steps 2 --limit-icons 8` tries the whole way.

`latentrt build` makes a bundle of the folder, and `latentrt view --turntable 12` turns what it is shown.

Needs torch, diffusers, transformers, opencv-python-headless and resvg-py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import emoji_data
import emoji_zero123
from emoji_training import Pace, Run, epsilon_loss, train
from emoji_views import View, card_from_view, random_view

MODEL = Path(__file__).resolve().parent.parent / "models" / "emoji"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, but for the time given."""

    size: int = 64  # pixels a side
    drawn: int = 128  # pixels a side at which cards are turned
    card_sizes: tuple[float, float] = (0.75, 0.85)  # of an emoji, as shares of the picture that is given
    views: int = 8  # of each emoji
    sizes: emoji_zero123.Sizes = field(default_factory=emoji_zero123.Sizes)
    pace: Pace = field(default_factory=lambda: Pace(batch=16, rate=8e-4, ema=0.997))
    unguided: float = 0.1  # share of views of which the U-Net is told nothing
    snr_gamma: float = 5.0  # see emoji_training.epsilon_loss
    snr_floor: float = 0.5
    held_out: int = 8  # every so-many-th name


Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Cards:
    """What is learnt from: each of N emoji from its front and its back, and from V places."""

    pictures: torch.Tensor  # (N, 2, S, S, 3) uint8: the front and the back, which is the same in a mirror
    seen: torch.Tensor  # (N, 2, 4, h, w): their latents, unscaled
    views: torch.Tensor  # (N, V, 4, h, w), scaled
    poses: torch.Tensor  # (N, V, 4): of the views, from the front


def pixels_from_pictures(pictures: torch.Tensor) -> torch.Tensor:
    """(N, S, S, 3) uint8 → (N, 3, S, S) float32 in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def cards_from_icons(
    vae: AutoencoderKL, collection: dict[str, Any], names: list[str], recipe: Recipe, seed: int
) -> Cards:
    """The named icons as cards, drawn and encoded."""
    vae = vae.to(memory_format=torch.channels_last)
    every: dict[str, list[torch.Tensor]] = {"pictures": [], "seen": [], "views": [], "poses": []}
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        cutout = emoji_data.cutout_from_icon(collection["icons"][name], collection, recipe.drawn)
        size = float(rng.uniform(*recipe.card_sizes))
        places = [View(), View(azimuth=180), *(random_view(rng) for _ in range(recipe.views))]
        drawn = torch.from_numpy(np.stack([card_from_view(cutout, size, place, recipe.size) for place in places]))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            latents = vae.encode(pixels_from_pictures(drawn)).latent_dist.mean.float()
        every["pictures"].append(drawn[:2])
        every["seen"].append(latents[:2])
        every["views"].append(latents[2:] * vae.config.scaling_factor)
        every["poses"].append(torch.tensor([place.numbers for place in places[2:]]))
    return Cards(**{name: torch.stack(tensors) for name, tensors in every.items()})


def kept_cards(vae: AutoencoderKL, collection: dict[str, Any], names: list[str], recipe: Recipe, run: Run) -> Cards:
    """The cards, kept in a file: drawing them takes minutes."""
    file = run.work / f"cards_{len(names)}.pt"
    if file.exists():
        return Cards(**torch.load(file, weights_only=True))
    cards = cards_from_icons(vae, collection, names, recipe, run.seed)
    torch.save(vars(cards), file)
    return cards


def train_parts(parts: nn.ModuleDict, cards: Cards, alphas: torch.Tensor, recipe: Recipe, run: Run) -> None:
    """Noise prediction, as the embedded model learnt it; the averaged weights stay in the parts."""
    unet = parts["unet"]
    unet.set_attn_processor(AttnProcessor())  # faster in training than the fused kernel, for so few tokens
    back = torch.tensor([1.0, -1.0, -1.0, 1.0])  # a pose, told from half a turn away

    def loss_of(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count = len(indices)
        side = torch.randint(2, (count,), generator=generator)
        view = torch.randint(cards.views.shape[1], (count,), generator=generator)
        shown = (torch.rand(count, generator=generator) >= recipe.unguided).float()
        pose = torch.where(side[:, None] == 1, cards.poses[indices, view] * back, cards.poses[indices, view])
        pixels = pixels_from_pictures(cards.pictures[indices, side])
        embeds = parts["image_encoder"](emoji_zero123.clip_pixels(pixels, recipe.sizes)).image_embeds
        context = parts["cc_projection"](embeds, pose) * shown.view(-1, 1, 1)
        picture = cards.seen[indices, side] * shown.view(-1, 1, 1, 1)

        def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            noise: torch.Tensor = unet(torch.cat([noisy, picture], dim=1), t, context).sample
            return noise

        return epsilon_loss(
            predict,
            cards.views[indices, view],
            alphas,
            generator,
            snr_floor=recipe.snr_floor,
            snr_gamma=recipe.snr_gamma,
        )

    train("views", parts, loss_of, len(cards.pictures), recipe.pace, run)


def draw_sheet(folder: Path, cutouts: Pictures, recipe: Recipe, file: Path, seed: int) -> None:
    """A row for every cutout (N, S, S, 4): how it is given, eight views around it, one from above, one from afar."""
    parts, vae = emoji_zero123.load_checkpoint(folder)
    places = [*(View(azimuth=degrees) for degrees in range(0, 360, 45)), View(elevation=30), View(distance=0.4)]
    rows = []
    for cutout in cutouts:
        given = card_from_view(cutout, 0.8, View(), recipe.size)
        drawn = emoji_zero123.draw_views(
            parts,
            vae,
            pixels_from_pictures(torch.from_numpy(given)[None])[0],
            [place.numbers for place in places],
            sizes=recipe.sizes,
            steps=20,
            guidance=2.0,
            seed=seed,
        )
        views = drawn.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
        rows.append(np.concatenate([given, *views], axis=1))
    Image.fromarray(np.concatenate(rows)).save(file)
    print(f"wrote {file}: the picture given and its views", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a tiny Zero123 that turns emoji around.")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, over all resumptions")
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-icons", type=int, help="train on the first N icons only")
    parser.add_argument("--data", type=Path, help="the npm package's .tgz, or its icons.json")
    parser.add_argument("--work", type=Path, default=Path("views-train"), help="checkpoints of the training")
    parser.add_argument("--out", type=Path, default=Path("views-train/emoji-views"), help="the diffusers folder")
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
    _, held_out = emoji_data.names_and_held_out(collection, recipe.held_out)
    names = [name for name in emoji_data.chosen_names(collection["icons"]) if name not in held_out]
    names = names[: given.limit_icons]
    still = StableDiffusionPipeline.from_pretrained(str(MODEL), torch_dtype=torch.float32)
    torch.manual_seed(given.seed)
    parts = emoji_zero123.parts_from_still(still.unet, recipe.sizes)
    print(", ".join(f"{name} {sum(p.numel() for p in m.parameters()) / 1e6:.2f} M" for name, m in parts.items()))
    print(f"{len(names)} icons; {len(held_out)} are held out", flush=True)
    run = Run(seed=given.seed, minutes=given.minutes, steps=given.steps, work=given.work, out=given.out)
    cards = kept_cards(still.vae, collection, names, recipe, run)
    train_parts(parts, cards, still.scheduler.alphas_cumprod, recipe, run)
    emoji_zero123.save_checkpoint(parts, still.vae, recipe.sizes, given.out)
    shown = [name for name in emoji_data.SHOWN if name in held_out][: given.limit_icons]
    cutouts = [
        emoji_data.cutout_from_icon(collection["icons"][name], collection, recipe.drawn)
        for name in shown or held_out[:1] or names[:1]
    ]
    draw_sheet(given.out, np.stack(cutouts), recipe, given.work / "turns.png", given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
