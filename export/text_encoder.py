"""The CLIP text encoder as a component, and its token embeddings as a table beside it."""

from pathlib import Path
from typing import Any

import torch

from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import TokenEmbeddingsRecord
from latentrt.export.checkpoint import Checkpoint
from latentrt.export.onnx_export import Graph, batch_record

_TENSOR = "weight"


class TextEncoderModule(torch.nn.Module):
    """inputs_embeds (B, L, width), attention_mask (B, L) int64 → hidden_states (B, layers, L, width).

    Token embeddings come from outside, so that a prompt may hold vectors of a textual inversion; positions are
    added here. A token sees itself and those before it whose mask is 1. State i is that after layer i + 1 with
    the final layer norm applied: the last is transformers' ``last_hidden_state``. (States without the norm,
    which SDXL takes, would be an output of their own.)
    """

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        whole: Any = getattr(encoder, "text_model", encoder)  # where earlier releases of transformers 5 have it
        self.positions = whole.embeddings.position_embedding
        self.layers = whole.encoder.layers
        self.final_layer_norm = whole.final_layer_norm

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        """The states after all layers."""
        length = self.positions.num_embeddings
        hidden = inputs_embeds + self.positions.weight
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        seen = causal & (attention_mask != 0)[:, None, None, :]
        # The lowest finite number, as in transformers: with −inf, a row without any seen token would be NaN
        bias = torch.where(seen, 0.0, torch.finfo(hidden.dtype).min)
        states = []
        for layer in self.layers:
            hidden = layer(hidden, bias)
            states.append(self.final_layer_norm(hidden))
        return (torch.stack(states, dim=1),)


def load_text_encoder(checkpoint: Checkpoint) -> tuple[TextEncoderModule, torch.Tensor]:
    """Loads the checkpoint's text encoder in fp32; its token embeddings (rows, width) come apart."""
    encoder = checkpoint.parts["text_encoder"].module()
    return TextEncoderModule(encoder), encoder.get_input_embeddings().weight.detach()


def write_token_embeddings(root: Path, name: str, table: torch.Tensor, tokens: int) -> TokenEmbeddingsRecord:
    """Writes ``embeddings/<component>.safetensors`` below the bundle's root.

    Args:
        root: the bundle.
        name: the component that takes the embeddings.
        table: (rows, width) float32.
        tokens: how many ids the tokenizer can give.

    Raises:
        CheckpointError: the table has fewer rows than the tokenizer has ids, or values that are not finite.
    """
    from safetensors.torch import save_file

    rows, width = table.shape
    if rows < tokens:
        raise CheckpointError(
            f"{name} embeds {rows} tokens and the tokenizer has {tokens}, expected at least as many embeddings; "
            "download the model again"
        )
    if not torch.isfinite(table).all():
        raise CheckpointError(
            f"{name} has NaN or infinite token embeddings; download the model again or choose another"
        )
    file = f"embeddings/{name}.safetensors"
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    save_file({_TENSOR: table.contiguous()}, root / file)
    return TokenEmbeddingsRecord(file=file, tensor=_TENSOR, rows=rows, width=width)


def text_encoder_graph(checkpoint: Checkpoint) -> Graph:
    """Inputs and outputs, sized by the model's config."""
    config = checkpoint.parts["text_encoder"].config
    length, width = config["max_position_embeddings"], config["hidden_size"]
    return Graph(
        inputs={
            "inputs_embeds": batch_record("float32", length, width),
            "attention_mask": batch_record("int64", length),
        },
        outputs={"hidden_states": batch_record("float32", config["num_hidden_layers"], length, width)},
        multiples={},
    )
