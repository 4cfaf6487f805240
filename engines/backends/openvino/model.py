"""A compiled component, opened: mapped weights, the graphs that were asked for, and the engines over them."""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentrt.engines.backends.openvino.library import first_line, settings
from latentrt.engines.backends.openvino.open_graph import OpenGraph, open_graph
from latentrt.engines.backends.openvino.records import BLOB_FILE, GraphRecord, read_graphs
from latentrt.engines.backends.openvino.shapes import InputShapes, in_halves
from latentrt.engines.backends.ort import CLOSED
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.added_inputs import added_inputs
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.forks import keep_for_ever, watch_forks
from latentrt.engines.machine import physical_cores
from latentrt.engines.shapes import AddedInputs, CachePart, CacheRole, Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor, host_arrays

if TYPE_CHECKING:
    from latentrt.engines.backends.openvino.cached import Cut
    from latentrt.engines.backends.openvino.changed import ChangedOnnx
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes

_REMEDY = "close other programs or report it"


class _Key(NamedTuple):
    """An open graph: where its file has it, its streams, and what DeepCache made of it."""

    start: int
    streams: int
    cut: CachePart | None


class OpenVinoModel:
    """A ``Model``: a graph for every shape that was compiled, opened when it is first asked for."""

    def __init__(
        self,
        component: Component,
        folder: Path,
        *,
        threads: int | None,
        changes: "Mapping[int, Array] | ChangedOnnx | None" = None,
    ) -> None:
        """Reads which graphs there are.

        Args:
            component: the component.
            folder: what ``compile_component`` filled.
            threads: of a call; None takes one per core.
            changes: other numbers for some constants, by their offsets, or graphs to compile in place of those.

        Raises:
            EngineError: the record of graphs is missing or damaged.
        """
        self._component, self._folder, self._threads = component, folder, threads
        self._halves = in_halves(component) and (threads or physical_cores()) > 1
        self._changes: Mapping[int, Array] | ChangedOnnx = changes or {}
        self._record = read_graphs(folder)
        self._graphs: dict[_Key, OpenGraph] = {}
        self._lock = Lock()
        self._closed = False
        watch_forks(self)

    @property
    def own_bytes(self) -> int:
        """A changed model packs all of its weights anew, and keeps a copy of the pages that differ.

        Shallow graphs have few of them.
        """
        if not self._changes:
            return 0
        whole = [key for key in self._graphs if key.cut is None or key.cut.role is CacheRole.KEEPS]
        size = len(whole) * (self._folder / BLOB_FILE).stat().st_size
        if isinstance(self._changes, Mapping):
            size += sum(content.nbytes for content in self._changes.values())
        return size

    @property
    def compiled(self) -> tuple[Any, ...]:
        """OpenVINO's own models of the graphs that are open."""
        return tuple(graph.compiled for graph in self._graphs.values())

    def open_first(self) -> None:
        """Opens the graph for one picture of the first profile, with guidance: what is drawn most.

        Raises:
            EngineError: OpenVINO cannot open it.
        """
        component, profile = self._component, self._component.manifest.profiles[0]
        spec = component.spec_of_any_batch(Shapes(profile=profile))
        exact = component.kind.exact_batch
        batch = (
            component.fixed_batches(profile)[-1] if exact else min(component.record.batch_per_picture, spec.batches[-1])
        )
        streams = 2 if self._halves else 1
        self._graph({name: tensor.sized(batch // streams) for name, tensor in spec.inputs.items()}, streams)

    def engine(self, shapes: Shapes) -> Engine:
        """The component at these shapes; the profile need not be one of the bundle's.

        Raises:
            EngineError: the model was closed, or was compiled without inputs that the shapes have.
        """
        self._check_open()
        if shapes.added:
            self._record.for_any_size(added=True)
        if shapes.cached is None:
            return OpenVinoEngine(self, self._component.spec_of_any_batch(shapes))
        from latentrt.engines.backends.openvino.cached import Cut, read_joins  # loaded by those who use it

        cut = Cut(shapes.cached, read_joins(self._folder))
        return OpenVinoEngine(self, cut.spec(self._component, shapes), cut)

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "OpenVinoModel":
        """The same graphs over weights of which some pages are copies; or compiled anew, where that does not do."""
        from latentrt.engines.backends.openvino.changed import ChangedOnnx, compiled_changes

        self._check_open()
        replaced: Mapping[int, Array] | ChangedOnnx | None
        replaced = compiled_changes(self._component.name, self._folder, weights, changes)
        if replaced is None:
            replaced = ChangedOnnx(self._component, weights, changes)
        return OpenVinoModel(self._component, self._folder, threads=self._threads, changes=replaced)

    def run(self, spec: EngineSpec, inputs: Mapping[str, Array], cut: "Cut | None" = None) -> dict[str, Array]:
        """Runs the graph for the inputs' shapes; what was left out gets its neutral value.

        Raises:
            EngineError: the model was closed, or OpenVINO fails.
        """
        batched = {name for name, tensor in spec.inputs.items() if BATCH in tensor.shape}
        batch = next((len(array) for name, array in inputs.items() if name in batched), 1)
        own = self._component.record.inputs
        added = not inputs.keys() <= {*own, *((cut.feature,) if cut else ())}
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, tensor in self._neutral(spec, arrays, batch, added=added).items():
            if cut is None or cut.takes(name):
                arrays[name] = tensor
        streams = 2 if self._halves and batch % 2 == 0 else 1
        size = batch // streams
        parts = [
            {
                name: array[part * size :][:size] if name in batched or name not in own else array
                for name, array in arrays.items()
            }
            for part in range(streams)
        ]
        shapes = {name: array.shape for name, array in parts[0].items() if name in own}
        graph = self._graph(shapes, streams, added=added, cut=cut)
        try:
            results = graph.run(parts, spec.outputs)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {first_line(error)}; {_REMEDY}") from error
        if streams == 1:
            return results[0]
        return {name: np.concatenate([result[name] for result in results]) for name in spec.outputs}

    def _neutral(self, spec: EngineSpec, inputs: Mapping[str, Array], batch: int, *, added: bool) -> dict[str, Array]:
        """What the whole graph takes and the call does not give: of the added inputs all, or none."""
        wanted = {name: tensor for name, tensor in spec.inputs.items() if name in self._component.record.inputs}
        if added:
            shapes = Shapes(profile=self._component.manifest.profiles[0], added=frozenset(AddedInputs))
            height, width = inputs["sample"].shape[2:]
            wanted = {**added_inputs(self._component.structure, shapes, (height, width)), **spec.inputs}
        return {
            name: np.full(tensor.sized(batch), tensor.neutral, tensor.dtype)
            for name, tensor in wanted.items()
            if name not in inputs
        }

    def _graph(self, shapes: InputShapes, streams: int, *, added: bool = False, cut: "Cut | None" = None) -> OpenGraph:
        record = self._record
        graph = record.for_any_size(added=True) if added else record.of(shapes)
        key = _Key(graph.start, streams, cut.graph if cut else None)
        keeping = key._replace(cut=CachePart(role=CacheRole.KEEPS))
        with self._lock:
            self._check_open()
            # One that keeps computes what the plain one does, whose packed weights are not wanted twice
            if cut is None and keeping in self._graphs:
                key = keeping
            if key == keeping:
                self._graphs.pop(key._replace(cut=None), None)
            if key not in self._graphs:
                self._graphs[key] = self._opened(graph, streams, cut)
            return self._graphs[key]

    def _opened(self, graph: GraphRecord, streams: int, cut: "Cut | None") -> OpenGraph:
        chosen = settings(self._component.record.precision, self._threads)
        if not isinstance(self._changes, Mapping):
            return self._changes.open_graph(graph, chosen, streams, cut)
        blob = self._folder / BLOB_FILE
        return open_graph(blob, self._record, graph, changes=self._changes, settings=chosen, streams=streams, cut=cut)

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

    def __init__(self, model: OpenVinoModel, spec: EngineSpec, cut: "Cut | None" = None) -> None:
        self.spec = spec
        self._model, self._cut = model, cut

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component on arrays that match ``spec``; new arrays come back. Thread-safe."""
        self.spec.check(inputs)
        return self._model.run(self.spec, host_arrays(inputs), self._cut)

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()
