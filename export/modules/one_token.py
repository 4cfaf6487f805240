"""Cross-attentions that see one token: what is left of them, exactly.

The softmax over one key is 1, whatever the query: the result is the projected value, the same for every pixel. Queries,
keys and the norm before them change nothing.
"""

from typing import Any

import torch
from torch import nn


class OneTokenAttention(nn.Module):
    """encoder_hidden_states (B, 1, width) → (B, 1, C), under the names of the attention that it takes the place of."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.to_v, self.to_out = attention.to_v, attention.to_out[:1]

    def forward(
        self, hidden_states: torch.Tensor | None, encoder_hidden_states: torch.Tensor, **_: object
    ) -> torch.Tensor:
        """The value; the queries are not looked at."""
        return self.to_out[0](self.to_v(encoder_hidden_states))


def fold_cross_attentions(unet: nn.Module) -> None:
    """Puts ``OneTokenAttention`` in the place of every cross-attention, and nothing in that of its norm."""
    for block in list(unet.modules()):
        attention: Any = getattr(block, "attn2", None)
        if attention is not None and getattr(attention, "is_cross_attention", True):
            block.attn2, block.norm2 = OneTokenAttention(attention), nn.Identity()
