"""The decoder of videos as a component: its batch is the frames of a chunk of one video."""

from typing import Any

import torch

from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.modules.temporal import residual, upsampled


class TemporalDecoderModule(ComponentModule):
    """latent_sample (F, C, h, w), unscaled → sample (F, 3, H, W), about [−1, 1]: frames in order, of one video.

    The layers are diffusers' TemporalDecoder's. Frames see each other in its residual blocks and its last convolution.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, latent_sample: torch.Tensor) -> tuple[torch.Tensor]:
        """The decoded frames."""
        decoder: Any = self.decoder
        frames = latent_sample.shape[0]
        x, middle = decoder.conv_in(latent_sample), decoder.mid_block
        x = residual(middle.resnets[0], x, 1, frames)
        for resnet, attention in zip(middle.resnets[1:], middle.attentions, strict=False):
            x = residual(resnet, attention(x), 1, frames)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = residual(resnet, x, 1, frames)
            x = upsampled(block.upsamplers, x)
        x = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))
        return (decoder.time_conv_out(x[None].transpose(1, 2)).transpose(1, 2)[0],)
