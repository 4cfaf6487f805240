"""The U-Net of videos as a component: Stable Video Diffusion's (arXiv 2311.15127), with any number of frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from latentrt.engines.bundle.records.manifests.latents_manifest import FRAMES
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.modules.one_token import fold_cross_attentions
from latentrt.export.modules.temporal import mixed, residual, upsampled
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.tracing.onnx_export import Graph, batch_record

_LATENT = ("latent_height", "latent_width")
_TIME_IDS = 3


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What all layers are told: videos, frames of each, the embedded time (B, E) and the token (B, 1, width)."""

    count: int
    frames: int
    time: torch.Tensor
    context: torch.Tensor


class VideoUnetModule(ComponentModule):
    """sample (B, F, C, h, w), timestep (B,), encoder_hidden_states (B, 1, width), time_ids (B, 3) → (B, F, C', h, w).

    The layers are diffusers' UNetSpatioTemporalConditionModel's. Its forward pass is written anew, so that the number
    of frames has a name in the graph: no frame stands alone, the context is one token, and positions come from it.
    """

    checkpoint_names: ClassVar[Mapping[str, str]] = {"unet.": ""}

    def __init__(self, unet: Any) -> None:
        super().__init__()
        fold_cross_attentions(unet)
        self.unet = unet

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> tuple[torch.Tensor]:
        """The model's prediction."""
        unet: Any = self.unet
        count, frames = sample.shape[:2]
        ids = unet.add_time_proj(time_ids.flatten()).unflatten(0, (count, _TIME_IDS)).flatten(1)
        time = unet.time_embedding(unet.time_proj(timestep)) + unet.add_embedding(ids)
        told = _Told(count=count, frames=frames, time=time, context=encoder_hidden_states)
        x = unet.conv_in(sample.flatten(0, 1))
        skips = [x]
        for block in unet.down_blocks:
            skips += _layers(block, x, told)
            skips += [layer(skips[-1]) for layer in block.downsamplers or ()]
            x = skips[-1]
        middle = unet.mid_block
        x = residual(middle.resnets[0], x, count, frames, time)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            x = residual(resnet, _transformer(attention, x, told), count, frames, time)
        for block in unet.up_blocks:
            *_, x = _layers(block, x, told, skips)
            x = upsampled(block.upsamplers, x)
        x = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return (x.unflatten(0, (count, frames)),)


def _layers(block: Any, x: torch.Tensor, told: _Told, skips: list[torch.Tensor] | None = None) -> list[torch.Tensor]:
    """What each layer of a block gives; up blocks take a skip for each, the last first."""
    attentions, found = getattr(block, "attentions", None), []
    for index, resnet in enumerate(block.resnets):
        x = x if skips is None else torch.cat([x, skips.pop()], 1)
        x = residual(resnet, x, told.count, told.frames, told.time)
        x = x if attentions is None else _transformer(attentions[index], x, told)
        found.append(x)
    return found


def _transformer(layer: Any, x: torch.Tensor, told: _Told) -> torch.Tensor:
    """Attention among the pixels of each frame, and among the frames at each pixel: (B · F, C, h, w) of the same."""
    height, width = x.shape[2:]
    positions = torch.arange(told.frames, device=x.device)  # whole numbers: fp16 would halve others
    positions = layer.time_pos_embed(layer.time_proj(positions))[None, :, None]  # (1, F, 1, C)
    rows = layer.proj_in(layer.norm(x).flatten(2).transpose(1, 2))  # (B · F, h · w, C)
    for spatial, temporal in zip(layer.transformer_blocks, layer.temporal_transformer_blocks, strict=True):
        rows = rows + spatial.attn1(spatial.norm1(rows))
        rows = _with_token(rows, spatial.attn2(None, told.context), told.count)
        rows = rows + spatial.ff(spatial.norm3(rows))
        moved = rows.unflatten(0, (told.count, told.frames)) + positions
        moved = _over_frames(temporal, moved.transpose(1, 2).flatten(0, 1), told)  # (B · h · w, F, C)
        moved = moved.unflatten(0, (told.count, height * width)).transpose(1, 2).flatten(0, 1)
        rows = mixed(layer.time_mixer, rows, moved)
    return x + layer.proj_out(rows).transpose(1, 2).unflatten(2, (height, width))


def _over_frames(block: Any, rows: torch.Tensor, told: _Told) -> torch.Tensor:
    """A transformer block over (B · h · w, F, C)."""
    inner = block.ff_in(block.norm_in(rows))
    inner = inner + rows if block.is_res else inner
    inner = inner + block.attn1(block.norm1(inner))
    inner = _with_token(inner, block.attn2(None, told.context), told.count)
    result: torch.Tensor = block.ff(block.norm3(inner))
    return result + inner if block.is_res else result


def _with_token(rows: torch.Tensor, token: torch.Tensor, count: int) -> torch.Tensor:
    """What the one token adds (B, 1, C) to all rows (B · n, m, C) of its video."""
    return (rows.unflatten(0, (count, -1)) + token[:, None]).flatten(0, 1)


def load_video_unet(checkpoint: Checkpoint) -> VideoUnetModule:
    """Loads the checkpoint's U-Net in fp32."""
    return VideoUnetModule(checkpoint.parts["unet"].module())


def video_unet_graph(checkpoint: Checkpoint) -> Graph:
    """Inputs and outputs, sized by the configs; videos may have any number of frames."""
    config = checkpoint.unet
    return Graph(
        inputs={
            "sample": batch_record("float32", FRAMES, config["in_channels"], *_LATENT),
            "timestep": batch_record("float32"),
            "encoder_hidden_states": batch_record("float32", 1, config["cross_attention_dim"]),
            "time_ids": batch_record("float32", _TIME_IDS),
        },
        outputs={"out_sample": batch_record("float32", FRAMES, config["out_channels"], *_LATENT)},
        multiples=dict.fromkeys(_LATENT, 2 ** (len(config["block_out_channels"]) - 1)),
    )
