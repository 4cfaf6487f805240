"""Tiny random checkpoints in diffusers layout, for tests."""

import shutil
from pathlib import Path

import torch

from latentrt.models import EMOJI


def save_tiny_checkpoint(folder: Path, *, pipeline: str = "StableDiffusionPipeline", unet_in_channels: int = 4) -> Path:
    """Saves a seeded random Stable Diffusion 1.x-type pipeline of 32×32 pixels and returns its folder.

    Its VAE halves the picture (16×16×4 latents); the U-Net has one level with and one without attention; the
    tokenizer is the embedded model's.
    """
    import diffusers
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # As initialised, the final norm leaves a mean of 0, which A1111's weights would divide by
    generator = torch.Generator().manual_seed(0)
    for parameter in text_encoder.final_layer_norm.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=unet_in_channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    getattr(diffusers, pipeline)(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(EMOJI / "tokenizer" / name, folder / "tokenizer" / name)
    return folder
