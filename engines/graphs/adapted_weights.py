"""A component's graph for weights that adapters change: given as inputs, or replaced."""

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.changed_weights import ChangedInitializer
from latentrt.engines.bundle.records.named_weights import StoredWeight
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.errors import BundleError
from latentrt.engines.graphs.editor import GraphEditor, load_graph, serialized, weight_of


def graph_with_weights_as_inputs(onnx: Path, weights: ComponentWeights) -> tuple[bytes, dict[str, StoredWeight]]:
    """The graph with all named weights as inputs in place of initializers; what is left lies beside ``onnx``.

    Args:
        onnx: the component's graph.
        weights: the bundle's weights of it, by name.

    Returns:
        The graph, and where the bundle holds each of the new inputs. Each initializer was compared with that place.

    Raises:
        BundleError: an initializer is missing or holds other numbers than the bundle's weight.
    """
    model = load_graph(onnx)
    editor, initializers = GraphEditor(model.graph), weights.initializers
    for name, place in initializers.items():
        value = model.graph.initializers.get(name)
        if value is None or not np.array_equal(weight_of(value), weights.stored(place)):
            raise BundleError(
                f"the graph of {weights.component} does not hold in {name} what the bundle says is there; build the "
                "bundle again"
            )
        editor.input_of_weight(value)
    return serialized(model), initializers


def graph_with_changed_weights(onnx: Path, changed: Iterable[ChangedInitializer], folder: Path) -> bytes:
    """The graph with other numbers in some initializers; its weights files are in ``folder``.

    The weights are copied there, and overwritten one at a time as they come. They are not linked: TensorRT's parser
    takes weights from the graph's folder alone, and onnx's refuses files that have links.

    Args:
        onnx: the component's graph.
        changed: initializers and their new numbers, in the shape and dtype that they have.
        folder: where to write; exists.

    Raises:
        OSError: the disk is full or read-only.
    """
    import onnx_ir as ir

    model = load_graph(onnx)
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    locations = {str(tensor.location) for tensor in tensors.values() if isinstance(tensor, ir.ExternalTensor)}
    with ExitStack() as opened:
        files = {}
        for location in locations:
            shutil.copyfile(onnx.parent / location, folder / location)
            files[location] = opened.enter_context((folder / location).open("r+b"))
        for name, content in changed:
            tensor = tensors[name]
            if isinstance(tensor, ir.ExternalTensor):
                file = files[str(tensor.location)]
                file.seek(tensor.offset or 0)
                file.write(np.ascontiguousarray(content).data)
            else:
                model.graph.initializers[name].const_value = ir.tensor(content, name=name)
    return serialized(model)
