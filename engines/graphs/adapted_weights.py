"""A component's graph for weights that adapters change: given as inputs, or replaced."""

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.changed_weights import ChangedInitializer
from latentrt.engines.bundle.records.named_weights import StoredWeight
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.errors import BundleError
from latentrt.engines.graphs.editor import GraphEditor, weight_of
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir


def take_weights_as_inputs(model: "ir.Model", weights: ComponentWeights) -> dict[str, StoredWeight]:
    """Makes all named weights of a graph inputs in place of initializers.

    Args:
        model: the component's graph, or one made of it.
        weights: the bundle's weights of it, by name.

    Returns:
        Where the bundle holds each of the new inputs. Each initializer was compared with that place.

    Raises:
        BundleError: an initializer is missing or holds other numbers than the bundle's weight.
    """
    editor, initializers = GraphEditor(model.graph), weights.initializers
    for name, place in initializers.items():
        value = model.graph.initializers.get(name)
        if value is None or not np.array_equal(_as_numpy_has_it(weight_of(value)), weights.stored(place)):
            raise BundleError(
                f"the graph of {weights.component} does not hold in {name} what the bundle says is there; build the "
                "bundle again"
            )
        editor.input_of_weight(value)
    return initializers


def change_weights(model: "ir.Model", changed: Iterable[ChangedInitializer], folder: Path) -> None:
    """Puts other numbers into some initializers of a graph; its weights files are in ``folder`` then.

    The weights are copied there, and overwritten one at a time as they come. They are not linked: TensorRT's parser
    takes weights from the graph's folder alone, and onnx's refuses files that have links.

    Args:
        model: the component's graph, or one made of it.
        changed: initializers and their new numbers, in the shape and dtype that they have.
        folder: where to write; exists.

    Raises:
        OSError: the disk is full or read-only.
    """
    import onnx_ir as ir

    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    external = [tensor for tensor in tensors.values() if isinstance(tensor, ir.ExternalTensor)]
    locations = {str(tensor.location): Path(tensor.path) for tensor in external}
    with ExitStack() as opened:
        files = {}
        for location, path in locations.items():
            shutil.copyfile(path, folder / location)
            files[location] = opened.enter_context((folder / location).open("r+b"))
        for name, content in changed:
            tensor = tensors[name]
            if tensor is None:
                raise ValueError(f"got {name!r}, which is computed, expected a weight")
            if isinstance(tensor, ir.ExternalTensor):
                file = files[str(tensor.location)]
                file.seek(tensor.offset or 0)
                file.write(np.ascontiguousarray(content).data)
            else:
                model.graph.initializers[name].const_value = ir.Tensor(content, dtype=tensor.dtype, name=name)


def _as_numpy_has_it(weight: Array) -> Array:
    """A weight's numbers, or the bits of a type that NumPy itself lacks."""
    return weight if weight.dtype.isbuiltin == 1 else weight.view(f"u{weight.itemsize}")
