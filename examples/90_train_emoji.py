"""Train the embedded `models/emoji`: a small Stable Diffusion checkpoint that draws an emoji from its name.

    npm pack @iconify-json/fluent-emoji-flat
    python examples/90_train_emoji.py --stage vae  --minutes 35 --data iconify-json-fluent-emoji-flat-*.tgz
    python examples/90_train_emoji.py --stage unet --minutes 60 --data iconify-json-fluent-emoji-flat-*.tgz

Stage "vae" trains the AutoencoderKL on 64×64 pictures; stage "unet" trains the U-Net and the text encoder
together on its cached latents; "all" does one after the other (--minutes is their sum). Stopped halfway, the
same command goes on from the last checkpoint in --work. Every stage ends by writing --out, a diffusers folder
in fp16. `--steps 2 --limit-icons 8` tries the whole way in seconds.

The weights are averages over the last steps. `--last-weights` writes those of the very last step beside them, as
diffusers' variant non_ema, which `latentrt build --no-ema` takes. `--start models/emoji` goes on from a checkpoint's
weights instead of random ones.

Needs torch, diffusers, transformers, tokenizers and resvg-py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import emoji_data
from emoji_training import Pace, Run, epsilon_loss, train


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, but for the time given."""

    size: int = 64  # pixels a side
    vocab_size: int = 2048
    # AutoencoderKL: factor 2 ** (len - 1)
    vae_channels: tuple[int, ...] = (32, 64, 128)
    vae_groups: int = 8
    vae_pace: Pace = field(default_factory=lambda: Pace(batch=8, rate=1e-3, ema=0.999))
    edge_weight: float = 1.0  # L1 of the horizontal and vertical differences: crisp edges
    kl_weight: float = 2e-4  # on the KL per latent value; 5e-3 starved two of the four channels
    # U-Net and text encoder
    unet_channels: tuple[int, ...] = (64, 96, 160)
    unet_attends: tuple[bool, ...] = (False, True, True)  # attention at 16×16 would cost half as much again
    unet_layers: int = 1
    unet_groups: int = 16
    head_dim: int = 32
    text_width: int = 128
    text_layers: int = 2
    unet_pace: Pace = field(default_factory=lambda: Pace(batch=32, rate=1e-3, ema=0.995))
    empty_prompts: float = 0.1  # share of prompts dropped, for classifier-free guidance
    snr_gamma: float = 5.0  # see emoji_training.epsilon_loss
    snr_floor: float = 0.5
    categories: tuple[str, ...] = emoji_data.CATEGORIES  # of the icons drawn; the VAE and the tokenizer see all


Pictures = npt.NDArray[np.uint8]


def tensor_from_pictures(pictures: Pictures) -> torch.Tensor:
    """(N, S, S, 3) uint8 → (N, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def build_vae(recipe: Recipe) -> AutoencoderKL:
    levels = len(recipe.vae_channels)
    return AutoencoderKL(
        sample_size=recipe.size,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=recipe.vae_groups,
        block_out_channels=recipe.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    attends = recipe.unet_attends
    return UNet2DConditionModel(
        sample_size=recipe.size // 2 ** (len(recipe.vae_channels) - 1),
        in_channels=4,
        out_channels=4,
        block_out_channels=recipe.unet_channels,
        layers_per_block=recipe.unet_layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        # diffusers reads attention_head_dim as the number of heads where num_attention_heads is not given
        attention_head_dim=tuple(c // recipe.head_dim for c in recipe.unet_channels),
        cross_attention_dim=recipe.text_width,
        norm_num_groups=recipe.unet_groups,
    )


def build_text_encoder(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=recipe.text_width // 32,
            max_position_embeddings=77,
            projection_dim=recipe.text_width,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> PNDMScheduler:
    """Stable Diffusion 1.5's own settings."""
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
        timestep_spacing="leading",
    )


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbours, along the width and along the height."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def train_vae(pictures: Pictures, recipe: Recipe, run: Run, start: Path | None) -> AutoencoderKL:
    """L1 + edge L1 + a small KL."""
    torch.manual_seed(run.seed)
    vae = build_vae(recipe) if start is None else AutoencoderKL.from_pretrained(start / "vae")
    vae = vae.to(memory_format=torch.channels_last)
    data = tensor_from_pictures(pictures).to(memory_format=torch.channels_last)

    def loss_of(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        x = data[indices]
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator)).sample.float()
        edge = sum((F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True)), torch.zeros(()))
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return F.l1_loss(y, x) + recipe.edge_weight * edge + recipe.kl_weight * kl

    train("vae", torch.nn.ModuleDict({"vae": vae}), loss_of, len(data), recipe.vae_pace, run)
    return vae


def latents_and_psnr(vae: AutoencoderKL, pictures: Pictures) -> tuple[torch.Tensor, float]:
    """Latent means (N, 4, H/f, W/f), unscaled, and the mean PSNR (dB) of their 8-bit reconstructions."""
    latents, psnr = [], []
    for part in np.array_split(pictures, max(1, len(pictures) // 64)):
        with torch.no_grad():
            mean = vae.encode(tensor_from_pictures(part)).latent_dist.mean
            drawn = vae.decode(mean).sample.add(1).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
        error = np.square(drawn - part).mean(axis=(1, 2, 3))
        psnr.extend(10 * np.log10(255.0**2 / np.maximum(error, 1e-2)))
        latents.append(mean)
    return torch.cat(latents), float(np.mean(psnr))


def train_unet(
    prompts: list[str], latents: torch.Tensor, tokenizer: CLIPTokenizer, recipe: Recipe, run: Run, start: Path | None
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Epsilon prediction on scaled latents (N, 4, h, w), the text encoder trained along."""
    torch.manual_seed(run.seed)
    if start is None:
        unet, text_encoder = build_unet(recipe), build_text_encoder(recipe, tokenizer)
    else:
        unet = UNet2DConditionModel.from_pretrained(start / "unet")
        text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder")
    unet = unet.to(memory_format=torch.channels_last)
    forward = torch.compile(unet, backend="inductor", dynamic=False) if run.backend == "inductor" else unet
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    empty = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids[0]
    alphas = build_scheduler().alphas_cumprod

    def loss_of(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        z, tokens = latents[indices], ids[indices].clone()
        tokens[torch.rand(len(z), generator=generator) < recipe.empty_prompts] = empty

        def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            predicted = forward(noisy, t, text_encoder(tokens).last_hidden_state).sample
            return cast(torch.Tensor, predicted)

        return epsilon_loss(predict, z, alphas, generator, snr_floor=recipe.snr_floor, snr_gamma=recipe.snr_gamma)

    modules = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    train("unet", modules, loss_of, len(latents), recipe.unet_pace, run)
    return unet, text_encoder


def save_checkpoint(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer_folder: Path,
    run: Run,
) -> None:
    """Write the diffusers folder in fp16 beside run.out, then move it in file by file."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer_folder),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    beside = run.work / "checkpoint"
    pipeline.to(dtype=torch.float16).save_pretrained(beside, safe_serialization=True)
    for file in sorted(tokenizer_folder.iterdir()):
        (beside / "tokenizer" / file.name).write_bytes(file.read_bytes())
    for name, change in (
        # not PNDM's own setting, but a reader that swaps in DDIM takes it from here, as with SD 1.5
        ("scheduler/scheduler_config.json", {"clip_sample": False}),
        # transformers loads in the dtype named here, diffusers in float32: named alike, a plain load runs
        ("text_encoder/config.json", {"dtype": "float32"}),
    ):
        settings = {**json.loads((beside / name).read_text(encoding="utf-8")), **change}
        (beside / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, module in (("vae", vae), ("unet", unet), ("text_encoder", text_encoder)):
        broken = [k for k, v in module.state_dict().items() if not torch.isfinite(v).all()]
        if broken:
            raise RuntimeError(f"{name}: got non-finite fp16 weights in {broken}, expected none; lower the rate")
    for file in sorted(f for f in beside.rglob("*") if f.is_file()):
        target = run.out / file.relative_to(beside)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(target.name + ".new")
        new.write_bytes(file.read_bytes())
        new.replace(target)
    size = sum(f.stat().st_size for f in run.out.rglob("*") if f.is_file())
    print(f"wrote {run.out}: {size / 1e6:.1f} MB", flush=True)


def save_last_weights(run: Run) -> None:
    """Write the U-Net's and the text encoder's weights of the last step, in fp16, beside the averaged ones."""
    weights = torch.load(run.work / "unet.pt", weights_only=True)["modules"]
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        own = {k.removeprefix(f"{part}."): v.half().contiguous() for k, v in weights.items() if k.startswith(part)}
        save_file(own, run.out / part / f"{stem}.non_ema.safetensors", metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train models/emoji: an emoji from its name.")
    parser.add_argument(
        "--stage",
        choices=("vae", "unet", "all", "save"),
        default="all",
        help="save: write --out from what --work holds now",
    )
    parser.add_argument("--minutes", type=float, default=95.0, help="of the stage (of both, for all)")
    parser.add_argument("--steps", type=int, help="end each stage after so many steps instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-icons", type=int, help="train on the first N icons only")
    parser.add_argument("--data", type=Path, help="the npm package's .tgz, or its icons.json")
    parser.add_argument("--work", type=Path, default=Path("emoji-train"), help="checkpoints of the training")
    parser.add_argument("--out", type=Path, default=Path("emoji-train/emoji"), help="the diffusers folder")
    parser.add_argument("--start", type=Path, help="a diffusers folder of this kind to go on from")
    parser.add_argument("--last-weights", action="store_true", help="write those of the last step, too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--backend", choices=("eager", "inductor"), default="eager", help="inductor compiles first")
    given = parser.parse_args(arguments)
    if given.minutes <= 0 or (given.steps is not None and given.steps < 0):
        parser.error(f"got --minutes {given.minutes} --steps {given.steps}, expected more than 0 and at least 0")
    torch.set_num_threads(given.threads)
    diffusers_logging.set_verbosity_error()  # it warns that fp16 may be inexact, which is the point
    diffusers_logging.disable_progress_bar()

    recipe = Recipe()
    try:
        collection = emoji_data.icons_from_package(given.data, given.work)
    except emoji_data.DataMissingError as missing:
        print(missing, file=sys.stderr)
        return 2
    names = emoji_data.chosen_names(collection["icons"])[: given.limit_icons]
    drawn = set(emoji_data.names_in_categories(collection, recipe.categories))
    kept = [i for i, name in enumerate(names) if name in drawn] or list(range(len(names)))
    pictures = emoji_data.pictures_from_collection(collection, names, recipe.size)
    prompts = [emoji_data.prompt_from_name(name) for name in names]
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "tokenizer").exists():
        if given.start is None:
            emoji_data.save_tokenizer(prompts, given.work / "tokenizer", recipe.vocab_size)
        else:
            shutil.copytree(given.start / "tokenizer", given.work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(given.work / "tokenizer")
    print(f"{len(names)} icons, {recipe.size}×{recipe.size} pixels, {len(tokenizer)} tokens", flush=True)

    whole = Run(
        seed=given.seed,
        minutes=given.minutes,
        steps=given.steps,
        work=given.work,
        out=given.out,
        backend=given.backend,
    )
    stop = replace(whole, steps=0)  # loads what is there and trains no further
    plans = {  # stage → (run of the VAE, run of the U-Net)
        "vae": (whole, stop),
        "unet": (stop, whole),
        "all": (replace(whole, minutes=0.36 * whole.minutes), replace(whole, minutes=0.64 * whole.minutes)),
        "save": (stop, stop),
    }
    vae_run, unet_run = plans[given.stage]
    vae = train_vae(pictures, recipe, vae_run, given.start)
    latents, psnr = latents_and_psnr(vae, pictures)
    scaling = float(1 / latents.std())
    vae.register_to_config(scaling_factor=scaling)
    print(f"vae: {psnr:.2f} dB PSNR (mean over the pictures), latent std {1 / scaling:.3f}", flush=True)
    print(f"unet: {len(kept)} icons", flush=True)
    kept_prompts = [prompts[i] for i in kept]
    unet, text_encoder = train_unet(kept_prompts, latents[kept] * scaling, tokenizer, recipe, unet_run, given.start)
    save_checkpoint(vae, unet, text_encoder, given.work / "tokenizer", whole)
    if given.last_weights:
        save_last_weights(whole)
    counts: dict[str, Any] = {"vae": vae, "unet": unet, "text encoder": text_encoder}
    print(", ".join(f"{k} {sum(p.numel() for p in m.parameters()) / 1e6:.2f} M" for k, m in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
