"""A control net as two components: its picture, embedded once, and what it adds to the U-Net in every step."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from latentrt.engines.bundle.records.component import TensorRecord
from latentrt.engines.bundle.records.manifests.latents_manifest import level_dimensions
from latentrt.engines.bundle.unet.added_inputs import MID_RESIDUAL, down_residual
from latentrt.engines.bundle.unet.net_inputs import CONDITION_SCALE, CONTROL_INDEX, CONTROL_TYPE, HINT, PICTURE, SCALES
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.modules.pictures import as_trained
from latentrt.export.tracing.onnx_export import Graph, batch_record


class HintModule(ComponentModule):
    """picture (B, 3, H, W) in [0, 1] → hint (B, C, h, w).

    It knows no timestep, so that it runs once per picture.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self._channels = net.config.conditioning_channels
        self._order = net.config.controlnet_conditioning_channel_order
        self.controlnet_cond_embedding = net.controlnet_cond_embedding

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor]:
        """The embedded picture."""
        return (self.controlnet_cond_embedding(as_trained(picture, self._channels, self._order)),)


class UnionHintModule(HintModule):
    """The same with control_index (B,) and condition_scale (B,): one of several pictures of a union net.

    diffusers' ``ControlNetUnionModel`` fuses pictures in every step, by transformer layers over their averages and the
    sample's. But these layers attend along the batch (their ``MultiheadAttention`` is not batch_first), so that within
    one picture's batch, whose rows are equal, every token sees itself alone: each average becomes out(value(x)), no
    picture knows of the others or of the sample, and what is fused is a sum that is made once.
    """

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.task_embedding = net.task_embedding
        self.transformer_layes = net.transformer_layes
        self.spatial_ch_projs = net.spatial_ch_projs

    def forward(  # type: ignore[override]
        self, picture: torch.Tensor, control_index: torch.Tensor, condition_scale: torch.Tensor
    ) -> tuple[torch.Tensor]:
        """The embedded picture with what its kind adds to each channel."""
        (condition,) = super().forward(picture)
        scale = condition_scale[:, None]
        x = (condition.mean((2, 3)) + torch.nn.functional.embedding(control_index, self.task_embedding)) * scale
        for layer in self.transformer_layes:
            x = x + _attended_alone(layer.attn, layer.ln_1(x))
            x = x + layer.mlp(layer.ln_2(x))
        added = self.spatial_ch_projs(x) * scale
        return (condition * scale[:, :, None, None] + added[:, :, None, None],)


def _attended_alone(attention: torch.nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention of rows (B, C) to nothing but themselves: of the joint projection the last third, the values."""
    width = attention.embed_dim
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    values = torch.nn.functional.linear(x, weight[2 * width :], None if bias is None else bias[2 * width :])
    return torch.nn.functional.linear(values, attention.out_proj.weight, attention.out_proj.bias)


class ControlModule(ComponentModule):
    """What a control net adds to a U-Net, from what the U-Net is given and a hint.

    sample (B, C, h, w), timestep (B,), encoder_hidden_states (B, L, width), hint (B, C₀, h, w), scales (B, n + 1) →
    down_residual_0, …, mid_residual, each multiplied by its scale. A net whose residuals are averaged over their planes
    gives them in full planes all the same.
    """

    checkpoint_names: ClassVar[Mapping[str, str]] = {"net.": ""}

    def __init__(self, net: Any) -> None:
        super().__init__()
        # What is left is what a step computes; the hint's module holds the rest
        for name in ("controlnet_cond_embedding", "task_embedding", "transformer_layes", "spatial_ch_projs"):
            if hasattr(net, name):
                delattr(net, name)
        self.net = net
        self._averages = net.config.global_pool_conditions

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        hint: torch.Tensor,
        scales: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The residuals."""
        return self.residuals(
            sample, self.net.time_embedding(self.net.time_proj(timestep)), encoder_hidden_states, hint, scales
        )

    def residuals(
        self,
        sample: torch.Tensor,
        embedding: torch.Tensor,
        context: torch.Tensor,
        hint: torch.Tensor,
        scales: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """As diffusers' ``ControlNetModel`` computes them, from the embedding of all but the prompt."""
        net = self.net
        x = net.conv_in(sample) + hint
        skips = [x]
        for block in net.down_blocks:
            x, made = block(x, embedding, **_attending(block, context))
            skips += made
        x = net.mid_block(x, embedding, **_attending(net.mid_block, context))
        raw = [zero(skip) for zero, skip in zip(net.controlnet_down_blocks, skips, strict=True)]
        raw.append(net.controlnet_mid_block(x))
        return tuple(self._scaled(one, scales[:, index, None, None, None]) for index, one in enumerate(raw))

    def _scaled(self, residual: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if not self._averages:
            return residual * scale
        return (residual.mean((2, 3), keepdim=True) * scale).expand_as(residual)

    def sizes_embedding(self, text_embeds: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
        """What SDXL's pooled prompt and sizes add to a timestep's embedding."""
        sizes = self.net.add_time_proj(time_ids.flatten()).reshape(text_embeds.shape[0], -1)
        added: torch.Tensor = self.net.add_embedding(torch.cat([text_embeds, sizes], -1))
        return added


class TextTimeControlModule(ControlModule):
    """The same with text_embeds (B, pooled) and time_ids (B, 5 or 6) behind encoder_hidden_states."""

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
        hint: torch.Tensor,
        scales: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The residuals."""
        embedding = self.net.time_embedding(self.net.time_proj(timestep))
        embedding = embedding + self.sizes_embedding(text_embeds, time_ids)
        return self.residuals(sample, embedding, encoder_hidden_states, hint, scales)


class UnionControlModule(ControlModule):
    """The same with control_type (B, kinds) behind it: which kinds of pictures the hint holds."""

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
        control_type: torch.Tensor,
        hint: torch.Tensor,
        scales: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The residuals."""
        net = self.net
        types = net.control_type_proj(control_type.flatten()).reshape(sample.shape[0], -1)
        embedding = net.time_embedding(net.time_proj(timestep)) + net.control_add_embedding(types)
        embedding = embedding + self.sizes_embedding(text_embeds, time_ids)
        return self.residuals(sample, embedding, encoder_hidden_states, hint, scales)


def _attending(block: Any, context: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a block takes beside the embedding: the prompt, if it attends to it."""
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}


def hint_graph(channels: int, factors: tuple[int, int], *, union: bool) -> Graph:
    """Inputs and outputs of a hint's graph.

    Args:
        channels: of the hint.
        factors: by which the latents are smaller than pictures, in height and width.
        union: whether it is a union net's.
    """
    inputs = {PICTURE: batch_record("float32", 3, "height", "width")}
    if union:
        inputs |= {CONTROL_INDEX: batch_record("int64"), CONDITION_SCALE: batch_record("float32")}
    return Graph(
        inputs=inputs,
        outputs={HINT: batch_record("float32", channels, *level_dimensions(0))},
        multiples={"height": factors[0], "width": factors[1]},
    )


def control_graph(structure: UnetStructure, latents: int, text: Mapping[str, TensorRecord], *, types: int) -> Graph:
    """Inputs and outputs of a control net's graph.

    Args:
        structure: the U-Net's that it is for.
        latents: their channels.
        text: what the U-Net is told of the prompt and the picture.
        types: of a union net, how many kinds of pictures it tells apart; 0 of another.
    """
    planes = (*structure.skips, structure.middle)
    kinds = {CONTROL_TYPE: batch_record("float32", types)} if types else {}
    return Graph(
        inputs={
            "sample": batch_record("float32", latents, *level_dimensions(0)),
            "timestep": batch_record("float32"),
            **text,
            **kinds,
            HINT: batch_record("float32", structure.entry, *level_dimensions(0)),
            SCALES: batch_record("float32", len(planes)),
        },
        outputs={
            name: batch_record("float32", plane.channels, *level_dimensions(plane.level))
            for name, plane in zip(residual_names(len(structure.skips)), planes, strict=True)
        },
        multiples=dict.fromkeys(level_dimensions(0), 2 ** (structure.levels - 1)),
    )


def residual_names(skips: int) -> Sequence[str]:
    """The names of a net's residuals, in the order of its scales."""
    return (*map(down_residual, range(skips)), MID_RESIDUAL)
