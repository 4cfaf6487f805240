"""Train `examples/loras/ink`: a LoRA by which the embedded model draws its emoji in ink.

    npm pack @iconify-json/fluent-emoji-flat
    python examples/91_train_lora.py --data iconify-json-fluent-emoji-flat-*.tgz

What it is trained on are the embedded model's own emoji, redrawn by a filter, under the same names: no word calls for
ink, the LoRA's weight alone does. Every eighth name and those in the README's picture are left out. The model itself
stays as it is; trained are low-rank factors beside the layers of its U-Net.

Stopped halfway, the same command goes on from the last checkpoint in --work. The same --seed and --steps give the same
weights on the same machine. It ends by writing --out twice, in fp16: as kohya's scripts do (one file) and as PEFT does
(a folder). `--steps 2 --limit-icons 8` tries the whole way in seconds.

Needs torch, diffusers, transformers, peft and resvg-py.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image, ImageChops, ImageFilter, ImageOps
from safetensors.torch import save, save_file

sys.path.insert(0, str(Path(__file__).parent))
import emoji_data
from emoji_training import Pace, Run, epsilon_loss, train

MODEL = Path(__file__).resolve().parent.parent / "models" / "emoji"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, but for the number of steps."""

    size: int = 64  # pixels a side
    drawn: int = 256  # pixels a side at which the filter works
    rank: int = 4
    alpha: float = 8.0
    # At 4×4 latents a convolution moves whole parts of an emoji; how lines are drawn is decided above
    coarse: tuple[str, ...] = ("down_blocks.2.resnets", "mid_block.resnets", "up_blocks.0.resnets", "up_blocks.0.up")
    pace: Pace = field(default_factory=lambda: Pace(batch=16, rate=1.5e-3, ema=0.99))
    empty_prompts: float = 0.1  # share of prompts dropped, for classifier-free guidance
    snr_gamma: float = 5.0  # see emoji_training.epsilon_loss
    snr_floor: float = 0.5
    held_out: int = 8  # every so-many-th name


def ink(picture: Image.Image, line: int = 9) -> Image.Image:
    """A picture as black lines of a width in pixels, with black, grey or white between them."""
    highest, lowest = picture.filter(ImageFilter.MaxFilter(line)), picture.filter(ImageFilter.MinFilter(line))
    steps = reduce(ImageChops.lighter, ImageChops.difference(highest, lowest).split())
    drawn = ImageOps.grayscale(picture).point([0 if grey < 75 else 205 if grey < 140 else 255 for grey in range(256)])
    drawn.paste(0, mask=steps.point([255 if step > 60 else 0 for step in range(256)]))
    return drawn.convert("RGB")


def inked_pictures(collection: dict[str, Any], names: list[str], recipe: Recipe) -> npt.NDArray[np.uint8]:
    """The named icons in ink: (N, size, size, 3) uint8."""
    large = emoji_data.pictures_from_collection(collection, names, recipe.drawn)
    size = (recipe.size, recipe.size)
    return np.stack([np.asarray(ink(Image.fromarray(icon)).resize(size, Image.Resampling.LANCZOS)) for icon in large])


def with_factors(unet: torch.nn.Module, recipe: Recipe) -> PeftModel:
    """The U-Net with a LoRA beside its linear layers and convolutions, which alone is trained."""
    targets = [
        name
        for name, layer in unet.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and not name.startswith(recipe.coarse)
    ]
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets)
    return cast(PeftModel, get_peft_model(cast(Any, unet), config))


def train_lora(
    pipeline: StableDiffusionPipeline, pictures: npt.NDArray[np.uint8], prompts: list[str], recipe: Recipe, run: Run
) -> PeftModel:
    """Trains the U-Net's factors on pictures (N, S, S, 3) uint8 and their prompts; the averaged ones stay in place."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.no_grad():
        latents = torch.cat([pipeline.vae.encode(part).latent_dist.mean for part in pixels.split(64)])
        latents *= pipeline.vae.config.scaling_factor
        ids = pipeline.tokenizer([*prompts, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
        *embeds, empty = pipeline.text_encoder(ids).last_hidden_state
    texts, alphas = torch.stack(embeds), pipeline.scheduler.alphas_cumprod

    torch.manual_seed(run.seed)
    model = with_factors(pipeline.unet, recipe)
    pipeline.unet.to(memory_format=torch.channels_last)

    def loss_of(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        z, text = latents[indices], texts[indices].clone()
        text[torch.rand(len(z), generator=generator) < recipe.empty_prompts] = empty
        return epsilon_loss(
            lambda noisy, t: cast(torch.Tensor, pipeline.unet(noisy, t, text).sample),
            z,
            alphas,
            generator,
            snr_floor=recipe.snr_floor,
            snr_gamma=recipe.snr_gamma,
        )

    # names of a ParameterDict have no dots
    factors = {name.replace(".", "/"): p for name, p in model.named_parameters() if p.requires_grad}
    modules = torch.nn.ModuleDict({"lora": torch.nn.ParameterDict(factors)})
    train("lora", modules, loss_of, len(latents), recipe.pace, run)
    return model.eval().half()


def save_as_kohya(model: PeftModel, file: Path, recipe: Recipe, run: Run) -> None:
    """One safetensors file: modules are flattened paths, every one has its alpha, metadata tell of the training."""
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            stem = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{stem}.lora_down.weight"] = layer.lora_A["default"].weight.detach().contiguous()
            tensors[f"{stem}.lora_up.weight"] = layer.lora_B["default"].weight.detach().contiguous()
            tensors[f"{stem}.alpha"] = torch.tensor(recipe.alpha, dtype=torch.float16)
    content = save(tensors)
    behind_header = content[8 + int.from_bytes(content[:8], "little") :]
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(recipe.alpha),
        "ss_output_name": file.stem,
        "ss_seed": str(run.seed),
        "ss_steps": str(run.steps),
        "sshs_model_hash": hashlib.sha256(behind_header).hexdigest(),
    }
    save_file(tensors, file, metadata)


def save_as_peft(model: PeftModel, folder: Path) -> None:
    """PEFT's folder: adapter_config.json and adapter_model.safetensors."""
    (config,) = model.peft_config.values()
    config.base_model_name_or_path = "models/emoji"  # not where it lay on this machine
    config.target_modules = sorted(cast(set[str], config.target_modules))  # a set's order changes from run to run
    model.create_or_update_model_card = lambda folder: None  # type: ignore[method-assign]  # a form to fill in
    model.save_pretrained(str(folder), save_embedding_layers=False)  # else it asks the hub for that name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a LoRA for models/emoji that draws in ink.")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-icons", type=int, help="train on the first N icons only")
    parser.add_argument("--data", type=Path, help="the npm package's .tgz, or its icons.json")
    parser.add_argument("--work", type=Path, default=Path("lora-train"), help="checkpoints of the training")
    parser.add_argument("--out", type=Path, default=Path("lora-train/ink"), help="without the ending of either form")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    if given.steps < 1:
        parser.error(f"got --steps {given.steps}, expected at least 1")
    torch.set_num_threads(given.threads)
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
    names = drawn[: given.limit_icons]
    print(f"{len(names)} icons in ink, {len(held_out)} are held out", flush=True)

    run = Run(seed=given.seed, minutes=0, steps=given.steps, work=given.work, out=given.out, save_every=60)
    pipeline = StableDiffusionPipeline.from_pretrained(str(MODEL), torch_dtype=torch.float32)
    pictures = inked_pictures(collection, names, recipe)
    prompts = [emoji_data.prompt_from_name(name) for name in names]
    model = train_lora(pipeline, pictures, prompts, recipe, run)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_as_kohya(model, given.out.with_suffix(".safetensors"), recipe, run)
    save_as_peft(model, given.out)
    count = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    print(f"wrote {given.out}.safetensors and {given.out}/: {count / 1e3:.0f} thousand numbers", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
