"""What adapters need to know about a bundle: the shapes of the weights that they may change, and what the model is."""

from typing import TYPE_CHECKING, NamedTuple

from latentrt.runtime.adapters.adapter import ModelWeights
from latentrt.runtime.adapters.formats.bases import label_of_model

if TYPE_CHECKING:
    from latentrt.engines.bundle.bundle import Bundle


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
        name: {
            weight: row.shape if row.takes_part else None for weight, row in bundle.weights(name).named.weights.items()
        }
        for name, component in bundle.manifest.components.items()
        if component.kind.row.adaptable
    }
    return AdaptedModel(weights, label_of_model(weights))
