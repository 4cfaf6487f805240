"""The U-Net as a component."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.bundle.records.manifests.latents_manifest import CONTEXT_LENGTH
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.modules.one_token import fold_cross_attentions
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.tracing.onnx_export import Graph, batch_record

# Original size, crop's top left, and target size or one aesthetic score
_TIME_IDS = {TimeIds.SIZE: 6, TimeIds.AESTHETIC: 5}


class UnetModule(ComponentModule):
    """sample (B, C, h, w), timestep (B,), encoder_hidden_states (B, L, width) → out_sample (B, C, h, w).

    A U-Net for inpainting takes 2C + 1 channels: latents, mask (1 is redrawn), latents of the masked picture. One that
    was distilled from guidance takes its scale's embedding, timestep_cond (B, size), behind the rest.
    """

    checkpoint_names: ClassVar[Mapping[str, str]] = {"unet.": ""}

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """The model's prediction."""
        return self.predicted(sample, timestep, encoder_hidden_states, timestep_cond, None)

    def predicted(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None,
        added: dict[str, torch.Tensor] | None,
    ) -> tuple[torch.Tensor]:
        """The wrapped model's answer."""
        more: dict[str, Any] = {} if added is None else {"added_cond_kwargs": added}
        return (
            self.unet(sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond, return_dict=False, **more)[
                0
            ],
        )


class TextTimeUnetModule(UnetModule):
    """The same with text_embeds (B, pooled) and time_ids (B, 5 or 6) behind encoder_hidden_states."""

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """The model's prediction."""
        # The embedding of the time ids is float32 whatever the model is, and both are concatenated: of one type
        added = {"text_embeds": text_embeds.float(), "time_ids": time_ids.float()}
        return self.predicted(sample, timestep, encoder_hidden_states, timestep_cond, added)


def load_unet(checkpoint: Checkpoint) -> UnetModule:
    """Loads the checkpoint's U-Net in fp32."""
    kind = UnetModule if checkpoint.family.time_ids is TimeIds.NONE else TextTimeUnetModule
    module = checkpoint.parts["unet"].module()
    if checkpoint.family.one_token:
        fold_cross_attentions(module)
    return kind(module)


def unet_graph(checkpoint: Checkpoint) -> Graph:
    """Inputs and outputs, sized by the configs; prompts may be of any number of chunks."""
    config, family = checkpoint.unet, checkpoint.family
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    latent = ("latent_height", "latent_width")
    inputs = {
        "sample": batch_record("float32", config["in_channels"], *latent),
        "timestep": batch_record("float32"),
        "encoder_hidden_states": batch_record(
            "float32", 1 if family.one_token else CONTEXT_LENGTH, config["cross_attention_dim"]
        ),
    }
    if family.time_ids is not TimeIds.NONE:
        pooled = next(row.part for row in family.text_encoders if row.pooled)
        inputs["text_embeds"] = batch_record("float32", checkpoint.parts[pooled].config["projection_dim"])
        inputs["time_ids"] = batch_record("float32", _TIME_IDS[family.time_ids])
    if config.get("time_cond_proj_dim"):
        inputs["timestep_cond"] = batch_record("float32", config["time_cond_proj_dim"])
    return Graph(
        inputs=inputs,
        outputs={"out_sample": batch_record("float32", config["out_channels"], *latent)},
        multiples=dict.fromkeys(latent, factor),
    )
