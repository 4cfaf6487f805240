"""Train a tiny Stable Video Diffusion that sets an emoji moving: eight frames of 64×64 from a picture of it.

    npm pack @iconify-json/fluent-emoji-flat
    python examples/93_train_video.py --minutes 90 --data iconify-json-fluent-emoji-flat-*.tgz

It starts from the embedded model, see emoji_video.py and emoji_fit.py: the VAE is fitted and not trained, the U-Net and
a small CLIP vision tower learn from clips, which are drawn as they are needed, see emoji_motion.py. Every eighth name
and those in pictures of the documentation are left out.

Stopped halfway, the same command goes on from the last checkpoint in --work. It ends by writing --out, a diffusers
folder in fp16, and --work/clips.png: a row of frames for every one of a few emoji that were left out; the first is the
picture that was given. `--steps 0` writes what --work holds now; `--steps 2 --limit-icons 8` tries the whole way.

Needs torch, diffusers, transformers, opencv-python-headless and resvg-py.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor

sys.path.insert(0, str(Path(__file__).parent))
import emoji_data
import emoji_motion
import emoji_video
from emoji_training import Pace, Run, train

MODEL = Path(__file__).resolve().parent.parent / "models" / "emoji"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, but for the time given."""

    size: int = 64  # pixels a side
    drawn: int = 128  # pixels a side at which emoji are moved
    sizes: emoji_video.Sizes = field(default_factory=emoji_video.Sizes)
    fitted_on: int = 32  # emoji, two frames of each
    pace: Pace = field(default_factory=lambda: Pace(batch=4, rate=1e-3, ema=0.99))
    log_sigma: tuple[float, float] = (0.7, 1.6)  # mean and deviation of the noise levels, Stable Video Diffusion's
    unguided: float = 0.1  # share of clips of which the U-Net is not shown the picture
    noise_aug: float = 0.02  # the noise on that picture: half the clips have this, the others up to 0.1
    held_out: int = 8  # every so-many-th name


Pictures = npt.NDArray[np.uint8]


def pixels_from_frames(frames: Pictures) -> torch.Tensor:
    """(N, S, S, 3) uint8 → (N, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def clip_pixels(first: torch.Tensor) -> torch.Tensor:
    """First frames in [-1, 1] as the pipeline shows them to CLIP: a blur that does nothing to a small one, bicubic."""
    large = F.interpolate(first, (224, 224), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
    return ((large + 1) / 2 - mean) / std


@dataclass(frozen=True, kw_only=True)
class Clips:
    """A batch as it is learnt from."""

    frames: torch.Tensor  # (B, F, 3, S, S) in [-1, 1]
    motion_buckets: torch.Tensor  # (B,)
    fps: torch.Tensor  # (B,)


def draw_clips(icons: Pictures, indices: torch.Tensor, generator: torch.Generator, recipe: Recipe) -> Clips:
    """A random take of each of the icons (N, drawn, drawn, 3) that are named."""
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    takes = [emoji_motion.random_take(rng) for _ in indices]
    frames = [
        emoji_motion.clip_from_picture(icons[index], take, recipe.sizes.frames, recipe.size)
        for index, take in zip(indices.tolist(), takes, strict=True)
    ]
    return Clips(
        frames=pixels_from_frames(np.concatenate(frames)).unflatten(0, (len(takes), recipe.sizes.frames)),
        motion_buckets=torch.tensor([take.motion_bucket for take in takes]),
        fps=torch.tensor([take.fps for take in takes]),
    )


def frames_to_fit(icons: Pictures, recipe: Recipe, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the last frame of clips of some icons (N, 3, S, S), and which icons."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(icons), generator=generator)[: recipe.fitted_on]
    clips = draw_clips(icons, chosen, generator, recipe)
    return clips.frames[:, :: recipe.sizes.frames - 1].flatten(0, 1), chosen


def psnr(vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor) -> float:
    """Of reconstructions: mean over the frames, dB."""
    with torch.no_grad():
        drawn = torch.cat([vae(part, num_frames=2).sample for part in frames.split(8)])
    error = drawn.clamp(-1, 1).sub(frames).div(2).square().mean(dim=(1, 2, 3))
    return float(-10 * error.clamp(min=1e-7).log10().mean())


def velocity_loss(predict: Any, z: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """The mean square error of the velocity at noise levels from a log-normal (Karras et al. 2022, table 1).

    Args:
        predict: (noisy clips over √(σ²+1) (B, F, 4, h, w), σ (B,)) → the velocity.
        z: scaled latents (B, F, 4, h, w).
    """
    # one level from each of B equal slices of the distribution: unbiased, and calmer than B free draws
    share = (torch.randperm(len(z), generator=generator) + torch.rand(len(z), generator=generator)) / len(z)
    mean, deviation = recipe.log_sigma
    sigmas = (mean + deviation * torch.special.ndtri(share.clamp(1e-4, 1 - 1e-4))).exp()
    sigma = sigmas.view(-1, 1, 1, 1, 1)
    norm = (sigma.square() + 1).sqrt()
    noise = torch.randn(z.shape, generator=generator)
    predicted = predict((z + sigma * noise) / norm, sigmas).float()
    return (predicted - (noise - sigma * z) / norm).square().mean()


def fitted_models(
    still: StableDiffusionPipeline, icons: Pictures, names: list[str], recipe: Recipe, seed: int, file: Path
) -> tuple[AutoencoderKLTemporalDecoder, nn.ModuleDict]:
    """The VAE, and the U-Net and image encoder as they begin; kept in a file, for fitting takes a minute."""
    torch.manual_seed(seed)
    vae = emoji_video.temporal_vae(still.vae, recipe.sizes).requires_grad_(False).eval()
    unet = emoji_video.spatio_temporal_unet(still.unet, recipe.sizes)
    image_encoder = emoji_video.vision_encoder(recipe.sizes, still.unet.config.cross_attention_dim)
    modules = nn.ModuleDict({"unet": unet, "image_encoder": image_encoder})
    fitted = nn.ModuleDict({"vae": vae, **modules})
    if file.exists():
        fitted.load_state_dict(torch.load(file, weights_only=True))
    else:
        frames, chosen = frames_to_fit(icons, recipe, seed)
        emoji_video.fit_vae(still.vae, vae, frames)
        prompts = [emoji_data.prompt_from_name(names[index]) for index in chosen.tolist() for _ in range(2)]
        emoji_video.fit_unet(still, unet, frames, prompts)
        torch.save(fitted.state_dict(), file)
        print(f"vae: {psnr(vae, frames):.2f} dB PSNR on the frames it was fitted on", flush=True)
    unet.set_attn_processor(AttnProcessor())  # faster in training than the fused kernel, for eight frames
    return vae, modules


def train_unet(
    modules: nn.ModuleDict,
    still: AutoencoderKL,
    vae: AutoencoderKLTemporalDecoder,
    icons: Pictures,
    recipe: Recipe,
    run: Run,
) -> None:
    """Velocity prediction; the averaged weights stay in the modules. The still VAE encodes frames: it is cheaper."""
    unet, image_encoder = modules["unet"], modules["image_encoder"]
    scaling = vae.config.scaling_factor

    def loss_of(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        clips = draw_clips(icons, indices, generator, recipe)
        first, count = clips.frames[:, 0], len(indices)
        strengths = torch.full((count,), recipe.noise_aug)
        strengths = torch.where(
            torch.rand(count, generator=generator) < 0.5, strengths, 0.1 * torch.rand(count, generator=generator)
        )
        noised = first + strengths.view(-1, 1, 1, 1) * torch.randn(first.shape, generator=generator)
        with torch.no_grad():
            encoded = still.encode(clips.frames.flatten(0, 1)).latent_dist.mean.float()
            seen = vae.encode(noised).latent_dist.mean.float()
        z = encoded.unflatten(0, (count, recipe.sizes.frames)) * scaling
        shown = (torch.rand(count, generator=generator) >= recipe.unguided).float()
        picture = (seen * shown.view(-1, 1, 1, 1))[:, None].expand_as(z)
        embeds = image_encoder(clip_pixels(first)).image_embeds[:, None] * shown.view(-1, 1, 1)
        told = torch.stack([clips.fps - 1, clips.motion_buckets, strengths], dim=1)

        def predict(noisy: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
            given = torch.cat([noisy, picture], dim=2)
            velocity: torch.Tensor = unet(given, 0.25 * sigmas.log(), embeds, told).sample
            return velocity

        return velocity_loss(predict, z, recipe, generator)

    train("unet", modules, loss_of, len(icons), recipe.pace, run)


def save_checkpoint(vae: AutoencoderKLTemporalDecoder, modules: nn.ModuleDict, folder: Path) -> None:
    """The diffusers folder in fp16."""
    pipeline = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=modules["image_encoder"],
        unet=modules["unet"],
        scheduler=emoji_video.scheduler(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 224}, crop_size=224, image_mean=CLIP_MEAN, image_std=CLIP_STD
        ),
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    config = folder / "image_encoder" / "config.json"
    settings = {**json.loads(config.read_text(encoding="utf-8")), "dtype": "float32"}  # as diffusers' own are loaded
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"wrote {folder}: {size / 1e6:.1f} MB", flush=True)


def draw_sheet(folder: Path, pictures: Pictures, file: Path, seed: int) -> None:
    """A row of frames for every picture (N, S, S, 3), each smaller on white so that it has room to move."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for number, picture in enumerate(pictures):
        side = len(picture)
        room = cv2.copyMakeBorder(picture, *(side // 12,) * 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        first = Image.fromarray(cv2.resize(room, (side, side), interpolation=cv2.INTER_AREA))
        frames = pipeline(
            first,
            height=side,
            width=side,
            num_inference_steps=20,
            min_guidance_scale=2.0,  # the same for every frame: the first ones need it as much
            max_guidance_scale=2.0,
            generator=torch.Generator().manual_seed(seed + number),
            output_type="np",
        ).frames[0]
        drawn = [np.asarray(first), *(frames * 255).round().astype(np.uint8)]
        rows.append(np.concatenate(drawn, axis=1))
    Image.fromarray(np.concatenate(rows)).save(file)
    print(f"wrote {file}: the picture given and its frames", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a tiny Stable Video Diffusion that sets emoji moving.")
    parser.add_argument("--minutes", type=float, default=90.0, help="of training, over all resumptions")
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-icons", type=int, help="train on the first N icons only")
    parser.add_argument("--data", type=Path, help="the npm package's .tgz, or its icons.json")
    parser.add_argument("--work", type=Path, default=Path("video-train"), help="checkpoints of the training")
    parser.add_argument("--out", type=Path, default=Path("video-train/emoji-video"), help="the diffusers folder")
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
    names, held_out = emoji_data.names_and_held_out(collection, recipe.held_out)
    icons = emoji_data.pictures_from_collection(collection, names[: given.limit_icons], recipe.drawn)
    others = emoji_data.pictures_from_collection(collection, held_out[: given.limit_icons], recipe.drawn)
    still = StableDiffusionPipeline.from_pretrained(str(MODEL), torch_dtype=torch.float32)
    vae, modules = fitted_models(still, icons, names, recipe, given.seed, given.work / "fitted.pt")
    counts = {"vae": vae, **dict(modules.items())}
    print(", ".join(f"{name} {sum(p.numel() for p in m.parameters()) / 1e6:.2f} M" for name, m in counts.items()))
    print(f"{len(icons)} icons; {len(held_out)} are held out", flush=True)
    run = Run(seed=given.seed, minutes=given.minutes, steps=given.steps, work=given.work, out=given.out)
    train_unet(modules, still.vae, vae, icons, recipe, run)
    save_checkpoint(vae, modules, given.out)
    shown = [held_out.index(name) for name in emoji_data.SHOWN if name in held_out[: given.limit_icons]]
    pictures = [cv2.resize(others[i], (recipe.size,) * 2, interpolation=cv2.INTER_AREA) for i in shown or [0]]
    draw_sheet(given.out, np.stack(pictures), given.work / "clips.png", given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
