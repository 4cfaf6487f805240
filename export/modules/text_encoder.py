"""A CLIP text encoder as a component, and its token embeddings as a table beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from latentrt.engines.bundle.records.manifests.manifest import TokenEmbeddingsRecord
from latentrt.engines.bundle.records.named_weights import NOT_COMPUTED, WeightRecord
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.family import TextEncoderRow
from latentrt.export.tracing.named_weights import table_record
from latentrt.export.tracing.onnx_export import Graph, batch_record

_TENSOR = "weight"


class TextEncoderModule(ComponentModule):
    """inputs_embeds (B, L, width), attention_mask (B, L) int64 → hidden_states (B, states, L, width).

    Token embeddings come from outside, so that a prompt may hold vectors of a textual inversion; positions are
    added here. A token sees itself and those before it whose mask is 1.

    State i is that after layer i + 1. The last is what the U-Net attends to where no layer is left out: transformers'
    ``last_hidden_state``, all states having passed the final norm, or for a ``penultimate`` row ``hidden_states[-2]``
    without it. What a row does not take is not computed: the last layer matters there to the pooled vector alone.
    """

    checkpoint_names: ClassVar[Mapping[str, str]] = {
        "layers.": "text_model.encoder.layers.",
        "positions.": "text_model.embeddings.position_embedding.",
        "final_layer_norm.": "text_model.final_layer_norm.",
    }

    def __init__(self, encoder: torch.nn.Module, row: TextEncoderRow) -> None:
        super().__init__()
        whole: Any = getattr(encoder, "text_model", encoder)  # where earlier releases of transformers 5 have it
        self.penultimate = row.penultimate
        self.positions = whole.embeddings.position_embedding
        used = len(whole.encoder.layers) - (row.penultimate and not row.pooled)
        self.layers = torch.nn.ModuleList(whole.encoder.layers[:used])
        self.states = len(whole.encoder.layers) - row.penultimate
        if row.pooled or not row.penultimate:
            self.final_layer_norm = whole.final_layer_norm

    def encoded(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The stacked states, and the one after the last layer without the norm."""
        length = self.positions.num_embeddings
        hidden = inputs_embeds + self.positions.weight
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        seen = causal & (attention_mask != 0)[:, None, None, :]
        # The lowest finite number, as in transformers: with −inf, a row without any seen token would be NaN
        bias = torch.where(seen, 0.0, torch.finfo(hidden.dtype).min)
        states: list[torch.Tensor] = []
        for layer in self.layers:
            hidden = layer(hidden, bias)
            if len(states) < self.states:
                states.append(hidden if self.penultimate else self.final_layer_norm(hidden))
        return torch.stack(states, dim=1), hidden

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The states."""
        return (self.encoded(inputs_embeds, attention_mask)[0],)


class PooledTextEncoderModule(TextEncoderModule):
    """The same with end_position (B,) int64, and text_embeds (B, projection) behind hidden_states.

    The pooled vector is the projected state at the end-of-text token, after the last layer and the final norm, as in
    transformers' ``CLIPTextModelWithProjection``. Where that token stands cannot be seen in embeddings: the first
    ``<|endoftext|>`` counts. (transformers takes the highest id where the config calls the token 2, which old ones do;
    with tokens added behind the vocabulary that is another one.)
    """

    def __init__(self, encoder: Any, row: TextEncoderRow) -> None:
        super().__init__(encoder, row)
        self.text_projection = encoder.text_projection

    def forward(  # type: ignore[override]
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, end_position: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The states, and the pooled vector."""
        states, hidden = self.encoded(inputs_embeds, attention_mask)
        index = end_position[:, None, None].expand(-1, 1, hidden.shape[-1])
        return states, self.text_projection(self.final_layer_norm(hidden.gather(1, index)[:, 0]))


class LoadedTextEncoder(NamedTuple):
    """A text encoder's module, its token embeddings (rows, width), and records of the weights that no graph needs."""

    module: TextEncoderModule
    table: torch.Tensor
    unused: dict[str, WeightRecord]


def load_text_encoder(checkpoint: Checkpoint, row: TextEncoderRow) -> LoadedTextEncoder:
    """Loads one of the checkpoint's text encoders in fp32."""
    encoder = checkpoint.parts[row.part].module()
    module = (PooledTextEncoderModule if row.pooled else TextEncoderModule)(encoder, row)
    table = encoder.get_input_embeddings().weight
    held = {id(parameter) for parameter in (*module.parameters(), table)}
    unused = {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": WeightRecord(
            shape=tuple(parameter.shape), reason=NOT_COMPUTED
        )
        for name, parameter in encoder.named_parameters()
        if id(parameter) not in held
    }
    return LoadedTextEncoder(module, table.detach(), unused)


def write_token_embeddings(root: Path, name: str, table: torch.Tensor) -> TokenEmbeddingsRecord:
    """Writes ``embeddings/<component>.safetensors`` below the bundle's root.

    Args:
        root: the bundle.
        name: the component that takes the embeddings.
        table: (rows, width) float32.
    """
    from safetensors.torch import save

    rows, width = table.shape
    file = f"embeddings/{name}.safetensors"
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(save({_TENSOR: table.contiguous()}))  # save_file raises no OSError
    return TokenEmbeddingsRecord(file=file, tensor=_TENSOR, rows=rows, width=width)


def token_embedding_weight(root: Path, record: TokenEmbeddingsRecord) -> dict[str, WeightRecord]:
    """The table that was written as a weight of the text encoder."""
    size = record.rows * record.width * np.dtype(np.float32).itemsize
    return {
        "text_model.embeddings.token_embedding.weight": table_record(
            (record.rows, record.width), record.file, (root / record.file).stat().st_size - size
        )
    }


def text_encoder_graph(checkpoint: Checkpoint, row: TextEncoderRow) -> Graph:
    """Inputs and outputs, sized by the model's config."""
    config = checkpoint.parts[row.part].config
    length, width = config["max_position_embeddings"], config["hidden_size"]
    states = config["num_hidden_layers"] - row.penultimate
    inputs = {
        "inputs_embeds": batch_record("float32", length, width),
        "attention_mask": batch_record("int64", length),
    }
    outputs = {"hidden_states": batch_record("float32", states, length, width)}
    if row.pooled:
        inputs["end_position"] = batch_record("int64")
        outputs["text_embeds"] = batch_record("float32", config["projection_dim"])
    return Graph(inputs=inputs, outputs=outputs, multiples={})
