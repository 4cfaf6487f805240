"""How each layer is pruned, and what that alone does to the finished latents."""

from collections.abc import Mapping

import numpy as np

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.graphs.quantization.observe import Observations
from latentrt.engines.pruning.layers import Pruned, best_pruned
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.rounding import schedule_calls
from latentrt.sparsity.pruning import Pruning

_SAVED_AS = "scores"


def pruned_layers(pruning: Pruning, observations: Observations) -> dict[str, Pruned]:
    """How every layer is pruned, by its path."""
    pruned: dict[str, Pruned] = {}
    total = len(pruning.layers)
    with pruning.progress.stage("unet: importance of weights"):
        for layer in pruning.layers:
            weight = np.asarray(pruning.weights.array(layer.weight), np.float32)
            pruned[layer.path] = best_pruned(layer, weight, observations.tensors[layer.node.input])
            pruning.progress.phase(f"layer {len(pruned)} of {total}", len(pruned), total)
    return pruned


def layer_scores(
    pruning: Pruning, engines: OpenComponents[Bundle], pruned: Mapping[str, Pruned], observations: Observations
) -> dict[str, float]:
    """By how much pruning each layer alone moves the final latents (root mean square, to first order), by its path.

    The calls that were recorded while calibrating are repeated with an engine in which that layer is pruned. Those of a
    killed calibration are not measured again.
    """
    calls = schedule_calls(pruning.base.manifest.schedule, observations.calls)
    if not calls:
        return dict.fromkeys(pruned, 0.0)
    saved = pruning.checkpoints.load(_SAVED_AS) or {}
    scores = {path: float(score) for path, score in saved.items()}
    unscored = [layer for layer in pruning.layers if layer.path not in scores]
    if not unscored:
        return scores

    def arrays() -> dict[str, Array]:
        return {path: np.array(score) for path, score in scores.items()}

    output, total = next(iter(pruning.unet.spec.outputs)), len(pruning.layers)
    exact = pruning.engine(engines)
    with (
        pruning.progress.stage("unet: sensitivity to pruning"),
        pruning.checkpoints.autosaved(_SAVED_AS, arrays) as save_if_due,
    ):
        expected = [exact.run(call.inputs)[output] for call in calls]
        for layer in unscored:
            engine = pruning.engine(engines, pruning.changes([layer], pruned))
            moved = 0.0
            for call, reference in zip(calls, expected, strict=True):
                error = engine.run(call.inputs)[output] - reference
                moved += call.weight**2 * float(np.mean(np.square(error)))
            scores[layer.path] = moved**0.5
            pruning.progress.phase(f"layer {len(scores)} of {total}", len(scores), total)
            save_if_due()
    return scores
