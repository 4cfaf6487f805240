"""Changed weights: in the place of constants of a compiled component, or in graphs that are compiled anew."""

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import finalize

from latentrt.engines.backends.openvino.blob import BlobWriter
from latentrt.engines.backends.openvino.compiled_weights import CompiledWeights
from latentrt.engines.backends.openvino.open_graph import OpenGraph, open_graph
from latentrt.engines.backends.openvino.records import GraphRecord, GraphsRecord
from latentrt.engines.backends.openvino.shapes import InputShapes
from latentrt.engines.backends.weights_record import read_weights_record
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.files import output_error
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    from latentrt.engines.backends.openvino.cached import Cut


def compiled_changes(
    component: str, folder: Path, weights: ComponentWeights, changes: Changes
) -> dict[int, Array] | None:
    """The constants of a compiled component that changes touch, with their new content, by offset.

    Args:
        component: its name, for messages.
        folder: of the compiled graphs.
        weights: the bundle's, by name.
        changes: what differs.

    Returns:
        None where the engine does not hold one of them alone.

    Raises:
        EngineError: nothing was recorded of the engine's weights.
        RequestError: a weight that the bundle cannot change, or numbers that its dtype cannot hold.
    """
    compiled = read_weights_record(folder, component, CompiledWeights)
    replaced: dict[int, Array] = {}
    for name, content in changed_initializers(weights, changes):
        rows = compiled.weights.get(name)
        if rows is None:
            return None
        replaced.update({row.offset: row.compiled(content) for row in rows})
    return replaced


class ChangedOnnx:
    """A component's ONNX with other weights, of which each graph is compiled when it is first asked for.

    It lies in a folder for temporary files, and goes with this object.
    """

    def __init__(
        self,
        component: Component,
        weights: ComponentWeights,
        changes: Changes,
        *,
        backend: Backend = Backend.OPENVINO,
        reason: str = "as they change weights that its engine does not hold apart",
    ) -> None:
        """Writes the weights.

        Args:
            component: whose.
            weights: the bundle's, by name.
            changes: what differs.
            backend: what it is compiled for, for the warning that this takes time.
            reason: why it is compiled, for the same.

        Raises:
            EngineError: onnx or onnx_ir is missing.
            RequestError: a weight that the bundle cannot change, or numbers that its dtype cannot hold.
            OutputError: the disk is full or read-only.
        """
        from latentrt.engines.backends.openvino.compile import rewritten  # plain drawing needs none of it
        from latentrt.engines.graphs.adapted_weights import change_weights
        from latentrt.engines.graphs.editor import serialized

        warnings.warn(
            f"compiling {component.label} for {backend} with these adapters, {reason}; this is not kept, and LoRAs "
            "that latentrt build --lora fuses need none of it",
            stacklevel=2,
        )
        self._component = component
        self._lock = Lock()
        self._blobs: dict[int, GraphsRecord] = {}
        model = rewritten(component, component.onnx, component.added)
        try:
            folder = Path(mkdtemp(prefix="latentrt-openvino-"))
            finalize(self, _remove, folder, os.getpid())
            self._onnx = folder / component.onnx.name
            change_weights(model, changed_initializers(weights, changes), folder)
            self._onnx.write_bytes(serialized(model))
        except OSError as error:
            raise output_error(Path(gettempdir()), error) from error

    def open_graph(
        self, graph: GraphRecord, settings: Mapping[str, Any], streams: int, cut: "Cut | None" = None
    ) -> OpenGraph:
        """Compiles a graph like one of the engine's.

        Args:
            graph: the engine's.
            settings: OpenVINO's.
            streams: how many runs go on at once.
            cut: what DeepCache makes of it; None: it stays whole.

        Raises:
            EngineError: OpenVINO refuses it.
        """
        from latentrt.engines.backends.openvino.compile import compile_graph, rewritten
        from latentrt.engines.graphs.editor import serialized

        onnx = self._onnx
        if graph.added:
            onnx = onnx.with_name(f"added.{onnx.name}")
            with self._lock:
                if not onnx.exists():
                    onnx.write_bytes(serialized(rewritten(self._component, self._onnx, frozenset(AddedInputs))))
        if cut is None:
            compiled = compile_graph(self._component, onnx, graph.shapes, {**settings, "NUM_STREAMS": streams})
            return OpenGraph(compiled, streams)
        blob = onnx.with_name(f"{graph.start}.blob")
        with self._lock:
            if graph.start not in self._blobs:
                compiled = compile_graph(self._component, onnx, graph.shapes, settings)
                self._blobs[graph.start] = _written(blob, compiled)
            record = self._blobs[graph.start]
        return open_graph(blob, record, record.graphs[0], changes={}, settings=settings, streams=streams, cut=cut)

    def open_shape(self, shapes: InputShapes, settings: Mapping[str, Any], device: str) -> OpenGraph:
        """Compiles the graph with the component's own inputs for one shape on a device.

        Raises:
            EngineError: OpenVINO refuses it.
        """
        from latentrt.engines.backends.openvino.compile import compile_graph

        return OpenGraph(compile_graph(self._component, self._onnx, shapes, settings, device), streams=1)


def _written(blob: Path, compiled: Any) -> GraphsRecord:
    """Writes a file with one graph."""
    with BlobWriter(blob, ()) as writer:
        place = writer.add(compiled.export_model().getbuffer())
    return GraphsRecord(**writer.places._asdict(), graphs=(GraphRecord(**place._asdict()),))


def _remove(folder: Path, process: int) -> None:
    """Removes a folder in the process that made it: what a forked child lets go of is still its parent's."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
