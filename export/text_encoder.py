"""The CLIP text encoder as a component."""

from typing import Any

import torch

from latentrt.export.checkpoint import Checkpoint
from latentrt.export.onnx_export import Graph, batch_record


class TextEncoderModule(torch.nn.Module):
    """input_ids (B, L) int64 → last_hidden_state (B, L, width) after the final layer norm."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        """The last hidden state."""
        return (self.encoder(input_ids=input_ids).last_hidden_state,)


def load_text_encoder(checkpoint: Checkpoint) -> TextEncoderModule:
    """Loads the checkpoint's text encoder in fp32."""
    from transformers import CLIPTextModel

    encoder: Any = CLIPTextModel.from_pretrained(checkpoint.folder / "text_encoder", dtype=torch.float32)
    return TextEncoderModule(encoder.eval())


def text_encoder_graph(checkpoint: Checkpoint) -> Graph:
    """Inputs and outputs, sized by the model's config."""
    config = checkpoint.text_encoder
    length = config["max_position_embeddings"]
    return Graph(
        inputs={"input_ids": batch_record("int64", length)},
        outputs={"last_hidden_state": batch_record("float32", length, config["hidden_size"])},
        multiples={},
    )
