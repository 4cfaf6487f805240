"""Names that published files of models have which are told a picture, and what diffusers and transformers call them."""

import pytest
import torch

from latentrt.export.sources.single_file.clip_vision import clip_vision_tensors
from latentrt.export.sources.single_file.temporal_unet import temporal_unet_tensors
from latentrt.export.sources.single_file.temporal_vae import temporal_vae_tensors

# Of svd.safetensors, below model.diffusion_model.
UNET = {
    "input_blocks.0.0.weight": "conv_in.weight",
    "time_embed.2.bias": "time_embedding.linear_2.bias",
    "label_emb.0.0.weight": "add_embedding.linear_1.weight",
    "label_emb.0.2.weight": "add_embedding.linear_2.weight",
    "out.0.weight": "conv_norm_out.weight",
    "out.2.weight": "conv_out.weight",
    "input_blocks.1.0.in_layers.0.weight": "down_blocks.0.resnets.0.spatial_res_block.norm1.weight",
    "input_blocks.1.0.time_stack.in_layers.2.weight": "down_blocks.0.resnets.0.temporal_res_block.conv1.weight",
    "input_blocks.1.0.time_stack.emb_layers.1.bias": "down_blocks.0.resnets.0.temporal_res_block.time_emb_proj.bias",
    "input_blocks.1.0.time_mixer.mix_factor": "down_blocks.0.resnets.0.time_mixer.mix_factor",
    "input_blocks.1.1.norm.weight": "down_blocks.0.attentions.0.norm.weight",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight":
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight",
    "input_blocks.1.1.time_stack.0.ff_in.net.0.proj.weight":
        "down_blocks.0.attentions.0.temporal_transformer_blocks.0.ff_in.net.0.proj.weight",
    "input_blocks.1.1.time_pos_embed.0.weight": "down_blocks.0.attentions.0.time_pos_embed.linear_1.weight",
    "input_blocks.1.1.time_pos_embed.2.bias": "down_blocks.0.attentions.0.time_pos_embed.linear_2.bias",
    "input_blocks.1.1.time_mixer.mix_factor": "down_blocks.0.attentions.0.time_mixer.mix_factor",
    "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.spatial_res_block.conv_shortcut.weight",
    "input_blocks.11.0.time_stack.out_layers.3.weight": "down_blocks.3.resnets.1.temporal_res_block.conv2.weight",
    "middle_block.0.time_stack.out_layers.0.weight": "mid_block.resnets.0.temporal_res_block.norm2.weight",
    "middle_block.1.time_stack.0.norm_in.weight": "mid_block.attentions.0.temporal_transformer_blocks.0.norm_in.weight",
    "middle_block.2.time_mixer.mix_factor": "mid_block.resnets.1.time_mixer.mix_factor",
    "middle_block.2.out_layers.3.weight": "mid_block.resnets.1.spatial_res_block.conv2.weight",
    "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
    "output_blocks.5.2.conv.bias": "up_blocks.1.upsamplers.0.conv.bias",
    "output_blocks.5.1.proj_out.bias": "up_blocks.1.attentions.2.proj_out.bias",
    "output_blocks.11.0.time_stack.emb_layers.1.weight":
        "up_blocks.3.resnets.2.temporal_res_block.time_emb_proj.weight",
}  # fmt: skip
# Below first_stage_model.
VAE = {
    "decoder.conv_in.weight": "decoder.conv_in.weight",
    "decoder.conv_out.weight": "decoder.conv_out.weight",
    "decoder.conv_out.time_mix_conv.weight": "decoder.time_conv_out.weight",
    "decoder.norm_out.weight": "decoder.conv_norm_out.weight",
    "decoder.mid.attn_1.proj_out.bias": "decoder.mid_block.attentions.0.to_out.0.bias",
    "decoder.mid.block_1.norm1.weight": "decoder.mid_block.resnets.0.spatial_res_block.norm1.weight",
    "decoder.mid.block_2.mix_factor": "decoder.mid_block.resnets.1.time_mixer.mix_factor",
    "decoder.mid.block_2.time_stack.in_layers.0.bias": "decoder.mid_block.resnets.1.temporal_res_block.norm1.bias",
    "decoder.up.3.block.0.conv1.weight": "decoder.up_blocks.0.resnets.0.spatial_res_block.conv1.weight",
    "decoder.up.0.block.2.time_stack.out_layers.3.weight":
        "decoder.up_blocks.3.resnets.2.temporal_res_block.conv2.weight",
    "decoder.up.1.block.0.nin_shortcut.weight": "decoder.up_blocks.2.resnets.0.spatial_res_block.conv_shortcut.weight",
    "decoder.up.1.block.0.mix_factor": "decoder.up_blocks.2.resnets.0.time_mixer.mix_factor",
    "decoder.up.3.upsample.conv.weight": "decoder.up_blocks.0.upsamplers.0.conv.weight",
    "decoder.up.3.upsample.conv.bias": "decoder.up_blocks.0.upsamplers.0.conv.bias",
    "encoder.down.1.block.0.nin_shortcut.bias": "encoder.down_blocks.1.resnets.0.conv_shortcut.bias",
    "encoder.mid.block_1.conv2.weight": "encoder.mid_block.resnets.0.conv2.weight",
    "quant_conv.weight": "quant_conv.weight",
}  # fmt: skip
# Below conditioner.embedders.0.open_clip.model.visual., and of Zero123 below cond_stage_model.model.visual.
VISION = {
    "class_embedding": ["vision_model.embeddings.class_embedding"],
    "conv1.weight": ["vision_model.embeddings.patch_embedding.weight"],
    "positional_embedding": ["vision_model.embeddings.position_embedding.weight"],
    "ln_pre.weight": ["vision_model.pre_layrnorm.weight"],
    "ln_post.bias": ["vision_model.post_layernorm.bias"],
    "proj": ["visual_projection.weight"],
    "transformer.resblocks.31.attn.in_proj_bias":
        [f"vision_model.encoder.layers.31.self_attn.{name}_proj.bias" for name in "qkv"],
    "transformer.resblocks.0.attn.out_proj.weight": ["vision_model.encoder.layers.0.self_attn.out_proj.weight"],
    "transformer.resblocks.0.ln_1.weight": ["vision_model.encoder.layers.0.layer_norm1.weight"],
    "transformer.resblocks.0.mlp.c_proj.bias": ["vision_model.encoder.layers.0.mlp.fc2.bias"],
}  # fmt: skip


@pytest.mark.parametrize("name", UNET)
def test_of_a_u_net(name: str) -> None:
    """SGM counts its blocks through, and keeps what works along time beside what works on each frame."""
    assert list(temporal_unet_tensors({name: None}, {"layers_per_block": 2})) == [UNET[name]]


def test_of_an_autoencoder() -> None:
    """SGM counts the decoder's levels from the outermost, diffusers from the innermost."""
    config = {"block_out_channels": [1, 2, 3, 4], "down_block_types": ["DownEncoderBlock2D"] * 4}
    tensors = {name: torch.full((1, 1, 1, 1), float(index)) for index, name in enumerate(VAE)}
    found = temporal_vae_tensors(tensors, config)
    assert {name: found[VAE[name]].item() for name in VAE} == {name: tensors[name].item() for name in VAE}
    assert len(found) == len(VAE)


def test_without_a_convolution_behind_the_encoder() -> None:
    """Means and variances are what the encoder gives."""
    config = {"block_out_channels": [1], "down_block_types": ["DownEncoderBlock2D"]}
    found = temporal_vae_tensors({"encoder.conv_out.weight": torch.zeros(8, 4, 3, 3)}, config)
    moments = torch.randn(2, 8, 3, 3)
    assert torch.equal(
        torch.nn.functional.conv2d(moments, found["quant_conv.weight"], found["quant_conv.bias"]), moments
    )


def test_of_an_image_encoder() -> None:
    """Queries, keys and values are one matrix, and the projection is turned."""
    tensors = {name: torch.arange(6.0).reshape(3, 2) for name in VISION}
    found = clip_vision_tensors(tensors, {})
    assert set(found) == {name for names in VISION.values() for name in names}
    assert found["visual_projection.weight"].shape == (2, 3)
    third = found["vision_model.encoder.layers.31.self_attn.k_proj.bias"]
    assert torch.equal(third, torch.tensor([[2.0, 3.0]]))
