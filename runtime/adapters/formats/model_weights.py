"""What adapters need to know about a bundle: the shapes of the weights that they may change, and what the model is."""

from typing import TYPE_CHECKING, NamedTuple

from latentrt.runtime.adapters.adapter import ModelWeights
from latentrt.runtime.adapters.formats.bases import label_of_model

if TYPE_CHECKING:
    from latentrt.engines.bundle.bundle import Bundle

_VALUES = ".attn2.to_v.weight"
_FOLDED = (".attn2.to_q.weight", ".attn2.to_k.weight", ".norm2.weight", ".norm2.bias")


class AdaptedModel(NamedTuple):
    """The shapes of a model's weights, and what it is, such as "Stable Diffusion 1.x"."""

    weights: ModelWeights
    base: str


def model_weights_of(bundle: "Bundle") -> AdaptedModel:
    """What adapters need to know about a bundle; some milliseconds.

    Raises:
        BundleError: its record of weights is missing, cut short or altered.
    """
    weights: ModelWeights = {
        name: _with_folded(
            {
                weight: row.shape if row.takes_part else None
                for weight, row in bundle.weights(name).named.weights.items()
            }
        )
        for name, component in bundle.manifest.components.items()
        if component.kind.row.adaptable
    }
    return AdaptedModel(weights, label_of_model(weights))


def _with_folded(shapes: dict[str, tuple[int, ...] | None]) -> dict[str, tuple[int, ...] | None]:
    """The weights, and those that cross-attentions to one token have in checkpoints and compute nothing with.

    Such a bundle does not hold them (``export/modules/one_token.py``); files that were trained on the checkpoint do.
    """
    attentions = [name.removesuffix(_VALUES) for name in shapes if name.endswith(_VALUES)]
    folded = [block + name for block in attentions if block + _FOLDED[0] not in shapes for name in _FOLDED]
    return {**shapes, **dict.fromkeys(folded)}
