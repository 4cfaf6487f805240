"""A compiled component, opened: mapped weights, the graphs that were asked for, and the engines over them."""

import mmap
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.backends.openvino.blob import BlobPlaces, GraphPlace, mapped_graph
from latentrt.engines.backends.openvino.library import DEVICE, core, first_line, openvino_module, settings
from latentrt.engines.backends.openvino.records import BLOB_FILE, GraphRecord, GraphsRecord, read_graphs
from latentrt.engines.backends.ort import CLOSED
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.added_inputs import added_inputs
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.forks import keep_for_ever, watch_forks
from latentrt.engines.shapes import AddedInputs, Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor, host_arrays

if TYPE_CHECKING:
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes

_REMEDY = "close other programs or report it"


class _OpenGraph:
    """One graph, ready to run: one call at a time, as all cores work on it."""

    def __init__(self, blob: Path, record: GraphsRecord, graph: GraphRecord, model: "OpenVinoModel") -> None:
        self._lock = Lock()
        places = BlobPlaces(header=record.header, constants=record.constants)
        try:
            mapped = mapped_graph(blob, places, GraphPlace(start=graph.start, size=graph.size), model.changes)
            tensor = openvino_module().Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
            self._compiled = core().import_model(tensor, DEVICE, model.settings)
            self._request = self._compiled.create_infer_request()
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"OpenVINO cannot open {str(blob)!r}: {first_line(error)}; build the bundle again"
            ) from error
        self._mapped = mapped
        if not model.changes and sys.platform != "win32":  # which has no such call
            mapped.madvise(mmap.MADV_DONTNEED)  # what is packed is not read again; the rest is, from the file
        self.inputs = frozenset(port.any_name for port in self._compiled.inputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, copied."""
        with self._lock:
            results = self._request.infer(dict(inputs), share_inputs=True)
            return {port.any_name: results[port] for port in self._compiled.outputs}


class OpenVinoModel:
    """A ``Model``: a graph for every shape that was compiled, opened when it is first asked for."""

    def __init__(
        self, component: Component, folder: Path, *, threads: int | None, changes: Mapping[int, Array] | None = None
    ) -> None:
        """Reads which graphs there are.

        Args:
            component: the component.
            folder: what ``compile_component`` filled.
            threads: of a call; None takes one per core.
            changes: other numbers for some constants, by their offsets.

        Raises:
            EngineError: the record of graphs is missing or damaged.
        """
        self._component, self._folder, self._threads = component, folder, threads
        self.settings = settings(component.record.precision, threads)
        self.changes: Mapping[int, Array] = changes or {}
        self._record = read_graphs(folder)
        self._graphs: dict[int, _OpenGraph] = {}
        self._lock = Lock()
        self._closed = False
        watch_forks(self)

    @property
    def own_bytes(self) -> int:
        """A changed model packs all of its weights anew, and keeps a copy of the pages that differ."""
        if not self.changes:
            return 0
        size = (self._folder / BLOB_FILE).stat().st_size
        return len(self._graphs) * size + sum(content.nbytes for content in self.changes.values())

    def open_first(self) -> None:
        """Opens the graph of one picture with guidance at the first profile: what is drawn most.

        Raises:
            EngineError: OpenVINO cannot open it.
        """
        spec = self._component.spec_of_any_batch(Shapes(profile=self._component.manifest.profiles[0]))
        batch = min(self._component.record.batch_per_picture, spec.batches[-1])
        self._graph({name: tensor.sized(batch) for name, tensor in spec.inputs.items()}, added=False)

    def engine(self, shapes: Shapes) -> Engine:
        """The component at these shapes; the profile need not be one of the bundle's.

        Raises:
            EngineError: the model was closed, or was compiled without inputs that the shapes have.
        """
        self._check_open()
        spec = self._component.spec_of_any_batch(shapes)
        if shapes.added:
            self._record.for_any_size(added=True)
        return OpenVinoEngine(self, spec)

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "OpenVinoModel":
        """The same graphs over weights of which some pages are copies."""
        from latentrt.engines.backends.openvino.changed import compiled_changes

        self._check_open()
        replaced = compiled_changes(self._component.name, self._folder, weights, changes)
        return OpenVinoModel(self._component, self._folder, threads=self._threads, changes=replaced)

    def run(self, spec: EngineSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the graph for the inputs' shapes; those that were left out get their neutral values.

        Raises:
            EngineError: the model was closed, or OpenVINO fails.
        """
        added = any(name not in self._component.record.inputs for name in inputs)
        filled = {**inputs, **self._left_out(spec, inputs)} if len(inputs) < len(spec.inputs) else dict(inputs)
        if not added:
            filled = {name: filled[name] for name in self._component.record.inputs}
        graph = self._graph({name: array.shape for name, array in filled.items()}, added=added)
        if added:
            filled |= self._neutral(graph.inputs - filled.keys(), spec, filled)
        try:
            return graph.run({name: np.ascontiguousarray(array) for name, array in filled.items()})
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {first_line(error)}; {_REMEDY}") from error

    def _left_out(self, spec: EngineSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
        batch = _batch_of(spec, inputs)
        return {
            name: np.full(tensor.sized(batch), tensor.neutral, tensor.dtype)
            for name, tensor in spec.inputs.items()
            if name not in inputs and tensor.neutral is not None
        }

    def _neutral(self, names: Set[str], spec: EngineSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Neutral values of the added inputs that no call was opened for."""
        height, width = inputs["sample"].shape[2:]
        shapes = Shapes(profile=self._component.manifest.profiles[0], added=frozenset(AddedInputs))
        tensors = added_inputs(self._component.structure, shapes, (height, width))
        batch = _batch_of(spec, inputs)
        return {name: np.full(tensors[name].sized(batch), tensors[name].neutral, np.float32) for name in names}

    def _graph(self, shapes: dict[str, tuple[int, ...]], *, added: bool) -> _OpenGraph:
        record = self._record
        graph = record.for_any_size(added=True) if added else record.of(shapes)
        with self._lock:
            self._check_open()
            if graph.start not in self._graphs:
                self._graphs[graph.start] = _OpenGraph(self._folder / BLOB_FILE, record, graph, self)
            return self._graphs[graph.start]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(CLOSED)

    def after_fork(self) -> None:
        """Closes what the parent opened, without a word to its threads."""
        keep_for_ever(self._graphs)
        self._lock, self._graphs, self._closed = Lock(), {}, True

    def close(self) -> None:
        """Gives up the graphs; runs under way end."""
        with self._lock:
            self._closed = True
            self._graphs = {}


class OpenVinoEngine(ClosesItself):
    """An ``Engine`` at one profile over a shared ``OpenVinoModel``."""

    def __init__(self, model: OpenVinoModel, spec: EngineSpec) -> None:
        self.spec = spec
        self._model = model

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component on arrays that match ``spec``; new arrays come back. Thread-safe."""
        self.spec.check(inputs)
        return self._model.run(self.spec, host_arrays(inputs))

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()


def _batch_of(spec: EngineSpec, inputs: Mapping[str, Array]) -> int:
    """How many samples inputs hold."""
    batched = (len(inputs[name]) for name, tensor in spec.inputs.items() if name in inputs and BATCH in tensor.shape)
    return next(batched, 1)
