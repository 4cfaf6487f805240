"""The autoencoder's two halves as components."""

from typing import Any

import torch

from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.modules.temporal_decoder import TemporalDecoderModule
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.tracing.onnx_export import Graph, batch_record


class VaeEncoderModule(ComponentModule):
    """sample (B, 3, H, W) in [−1, 1] → latent_parameters (B, 2C, h, w): mean, then log variance."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv or torch.nn.Identity()

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        """The posterior's parameters."""
        return (self.quant_conv(self.encoder(sample)),)


class VaeDecoderModule(ComponentModule):
    """latent_sample (B, C, h, w), unscaled → sample (B, 3, H, W), about [−1, 1]."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv or torch.nn.Identity()
        self.decoder = vae.decoder

    def forward(self, latent_sample: torch.Tensor) -> tuple[torch.Tensor]:
        """The decoded picture."""
        return (self.decoder(self.post_quant_conv(latent_sample)),)


def load_vae(checkpoint: Checkpoint) -> tuple[ComponentModule, ComponentModule]:
    """Loads the checkpoint's autoencoder in fp32: the encoder and the decoder."""
    vae = checkpoint.parts["vae"].module()
    decoder = TemporalDecoderModule if checkpoint.family.draws_videos else VaeDecoderModule
    return VaeEncoderModule(vae), decoder(vae)


_PIXELS = batch_record("float32", 3, "height", "width")


def vae_encoder_graph(checkpoint: Checkpoint) -> Graph:
    """Inputs and outputs of the encoder."""
    latents = checkpoint.latents
    return Graph(
        inputs={"sample": _PIXELS},
        outputs={"latent_parameters": batch_record("float32", 2 * latents.channels, "latent_height", "latent_width")},
        multiples={"height": latents.height_factor, "width": latents.width_factor},
    )


def vae_decoder_graph(checkpoint: Checkpoint) -> Graph:
    """Inputs and outputs of the decoder."""
    channels = checkpoint.latents.channels
    return Graph(
        inputs={"latent_sample": batch_record("float32", channels, "latent_height", "latent_width")},
        outputs={"sample": _PIXELS},
        multiples={},
    )
