"""The U-Net as a component."""

import torch

from latentrt.engines.manifest import CONTEXT_LENGTH, TensorRecord
from latentrt.export.checkpoint import Checkpoint
from latentrt.export.onnx_export import Graph, batch_record


class UnetModule(torch.nn.Module):
    """sample (B, C, h, w), timestep (1,), encoder_hidden_states (B, L, width) → out_sample (B, C, h, w).

    A U-Net for inpainting takes 2C + 1 channels: latents, mask (1 is redrawn), latents of the masked picture.
    """

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor]:
        """The model's prediction."""
        return (self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0],)


def load_unet(checkpoint: Checkpoint) -> UnetModule:
    """Loads the checkpoint's U-Net in fp32."""
    return UnetModule(checkpoint.parts["unet"].module())


def unet_graph(checkpoint: Checkpoint) -> Graph:
    """Inputs and outputs, sized by the U-Net's config; prompts may be of any number of chunks."""
    config = checkpoint.unet
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    latent = ("latent_height", "latent_width")
    return Graph(
        inputs={
            "sample": batch_record("float32", config["in_channels"], *latent),
            "timestep": TensorRecord(shape=(1,), dtype="float32"),
            "encoder_hidden_states": batch_record("float32", CONTEXT_LENGTH, config["cross_attention_dim"]),
        },
        outputs={"out_sample": batch_record("float32", config["out_channels"], *latent)},
        multiples=dict.fromkeys(latent, factor),
    )
