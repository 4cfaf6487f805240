"""Changed weights as a compiled component holds them."""

from pathlib import Path

from latentrt.engines.backends.ort_cpu.compiled_weights import CompiledWeights
from latentrt.engines.backends.weights_record import read_weights_record
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.spec import Array


def compiled_changes(component: str, folder: Path, weights: ComponentWeights, changes: Changes) -> dict[str, Array]:
    """The initializers of a compiled graph that changes touch, with their new content, by name.

    Args:
        component: its name, for messages.
        folder: of the compiled graph.
        weights: the bundle's, by name.
        changes: what differs.

    Raises:
        EngineError: the engine does not know where one of them is.
        RequestError: a weight that the bundle cannot change, or numbers that its dtype cannot hold.
    """
    compiled = read_weights_record(folder, component, CompiledWeights)
    return {
        row.initializer: row.compiled(content)
        for name, content in changed_initializers(weights, changes)
        for row in compiled.of(name, component)
    }
