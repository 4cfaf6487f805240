"""IP-Adapters as components: the image encoder, and what turns its output into keys and values."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from latentrt.engines.bundle.unet.net_inputs import PIXELS, PROMPT_KEYS, PROMPT_VALUES
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.sources.addons.image_prompt_layout import AdapterLayout, ProjectionKind
from latentrt.export.tracing.onnx_export import Graph, batch_record


class ImageEncoderModule(ComponentModule):
    """pixels (B, 3, s, s), normalised, → image_embeds (B, projection): a picture as one vector (CLIP's)."""

    checkpoint_names: ClassVar[Mapping[str, str]] = {
        "embeddings.": "vision_model.embeddings.",
        "before.": "vision_model.pre_layrnorm.",
        "layers.": "vision_model.encoder.layers.",
        "after.": "vision_model.post_layernorm.",
        "projection.": "visual_projection.",
    }

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        vision = encoder.vision_model
        vision = getattr(vision, "vision_model", vision)  # as earlier releases of transformers 5 nest it
        self.embeddings, self.before = vision.embeddings, vision.pre_layrnorm
        self.layers = nn.ModuleList(self._used(list(vision.encoder.layers)))
        self._take_rest(vision, encoder)

    def _used(self, layers: list[nn.Module]) -> list[nn.Module]:
        return layers

    def _take_rest(self, vision: Any, encoder: Any) -> None:
        self.after, self.projection = vision.post_layernorm, encoder.visual_projection

    def states(self, pixels: torch.Tensor) -> torch.Tensor:
        """After the last layer that is used: (B, 1 + patches, width)."""
        hidden: torch.Tensor = self.before(self.embeddings(pixels))
        for layer in self.layers:
            hidden = layer(hidden, None)
        return hidden

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The vector."""
        return (self.projection(self.after(self.states(pixels)[:, 0])),)


class PatchEncoderModule(ImageEncoderModule):
    """The same → hidden_states (B, 1 + patches, width) before the last layer, which is not computed."""

    def _used(self, layers: list[nn.Module]) -> list[nn.Module]:
        return layers[:-1]

    def _take_rest(self, vision: Any, encoder: Any) -> None:
        """Nothing: neither the last norm nor the projection is needed."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The states."""
        return (self.states(pixels),)


class _Base(nn.Module):
    """One vector into a few tokens (Ye et al. 2023, section 3.2.1)."""

    def __init__(self, layout: AdapterLayout) -> None:
        super().__init__()
        assert layout.tokens is not None
        self.tokens = layout.tokens
        self.proj = nn.Linear(layout.embedded, layout.tokens * layout.context)
        self.norm = nn.LayerNorm(layout.context)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.norm(self.proj(embedded).unflatten(1, (self.tokens, -1)))
        return tokens


class _Full(nn.Module):
    """Every patch into a token."""

    def __init__(self, layout: AdapterLayout) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(layout.embedded, layout.embedded),
            nn.GELU(),
            nn.Linear(layout.embedded, layout.context),
            nn.LayerNorm(layout.context),
        )

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.proj(embedded)
        return tokens


class _ResamplerAttention(nn.Module):
    """Queries that attend to the patches and to themselves."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, patches: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        patches, queries = self.norm1(patches), self.norm2(queries)
        key, value = self.to_kv(torch.cat([patches, queries], 1)).chunk(2, -1)
        split = [tensor.unflatten(2, (self.heads, -1)).transpose(1, 2) for tensor in (self.to_q(queries), key, value)]
        attended = nn.functional.scaled_dot_product_attention(*split)
        out: torch.Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out


class _Plus(nn.Module):
    """The Resampler, a Perceiver's (Alayrac et al. 2022): learned queries attend to the patches, layer by layer."""

    def __init__(self, layout: AdapterLayout, width: int, wide: int) -> None:
        super().__init__()
        inner = layout.heads * 64
        self.latents = nn.Parameter(torch.empty(1, layout.tokens or 0, width))
        self.proj_in, self.proj_out = nn.Linear(layout.embedded, width), nn.Linear(width, layout.context)
        self.norm_out = nn.LayerNorm(layout.context)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _ResamplerAttention(width, inner, layout.heads),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, wide, bias=False),
                        nn.GELU(),
                        nn.Linear(wide, width, bias=False),
                    ),
                ]
            )
            for _ in range(layout.depth)
        )

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        patches, queries = self.proj_in(embedded), self.latents.expand(embedded.shape[0], -1, -1)
        for layer in self.layers:
            attention, mlp = layer
            queries = queries + attention(patches, queries)
            queries = queries + mlp(queries)
        tokens: torch.Tensor = self.norm_out(self.proj_out(queries))
        return tokens


class ProjectionModule(ComponentModule):
    """The image encoder's output → keys, values (B, tokens, ΣC): of all cross-attentions side by side."""

    def __init__(self, layout: AdapterLayout, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes a file's tensors by the file's names, in fp32."""
        super().__init__()
        own = {name: tensors[key] for name, key in layout.projection.items()}
        with torch.device("meta"):
            self.projection: nn.Module = self._empty(layout, own)
        self.projection.load_state_dict(own, assign=True)
        self.keys, self.values = (
            _linear(torch.cat([tensors[key] for key in keys])) for keys in (layout.keys, layout.values)
        )

    @staticmethod
    def _empty(layout: AdapterLayout, own: Mapping[str, torch.Tensor]) -> nn.Module:
        if layout.kind is ProjectionKind.PLUS:
            return _Plus(layout, own["latents"].shape[2], own["layers.0.1.1.weight"].shape[0])
        return (_Base if layout.kind is ProjectionKind.BASE else _Full)(layout)

    def forward(self, embedded: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Both."""
        tokens = self.projection(embedded)
        return self.keys(tokens), self.values(tokens)


def _linear(weight: torch.Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def image_encoder_graph(output: str, size: int, result: tuple[int, ...]) -> Graph:
    """Inputs and outputs; ``result`` is the output's shape for one picture of ``size`` pixels a side."""
    return Graph(
        inputs={PIXELS: batch_record("float32", 3, size, size)},
        outputs={output: batch_record("float32", *result)},
        multiples={},
    )


def projection_graph(given: str, taken: tuple[int, ...], tokens: int, width: int) -> Graph:
    """Inputs and outputs.

    Args:
        given: the image encoder's output.
        taken: its shape for one picture.
        tokens: of a picture.
        width: of all cross-attentions together.
    """
    packed = batch_record("float32", tokens, width)
    return Graph(
        inputs={given: batch_record("float32", *taken)},
        outputs={PROMPT_KEYS: packed, PROMPT_VALUES: packed},
        multiples={},
    )
