"""A compiled component on a device: the graphs that were asked for, and the engines over them."""

import mmap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.backends.fixed_shapes import ExactEngine, check_added, fill, indices_of_shape, spec_of_call
from latentrt.engines.backends.openvino.devices.records import graph_file, read_device_graphs
from latentrt.engines.backends.openvino.library import core, first_line, openvino_module
from latentrt.engines.backends.openvino.open_graph import OpenGraph
from latentrt.engines.backends.openvino.shapes import shapes_of
from latentrt.engines.backends.ort import CLOSED
from latentrt.engines.bundle.checked_files import check_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.forks import keep_for_ever, watch_forks
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, EngineSpec, Tensor, host_arrays

if TYPE_CHECKING:
    from latentrt.engines.backends.openvino.changed import ChangedOnnx
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes


class DeviceModel:
    """A ``Model``: a graph for every static shape, opened when it is first asked for."""

    def __init__(
        self,
        component: Component,
        folder: Path,
        *,
        backend: Backend,
        device: str,
        settings: Mapping[str, str],
        changed: "ChangedOnnx | None" = None,
    ) -> None:
        """Reads which graphs there are.

        Args:
            component: the component.
            folder: what ``compile_shapes`` filled.
            backend: the device's.
            device: OpenVINO's name of it.
            settings: OpenVINO's.
            changed: what graphs are compiled of in place of those.

        Raises:
            EngineError: the record of graphs is missing or damaged.
        """
        self._component, self._folder, self._backend = component, folder, backend
        self._device, self._settings, self._changed = device, settings, changed
        self._shapes = component.static_shapes
        self._record = read_device_graphs(folder, len(self._shapes))
        self._graphs: dict[int, OpenGraph] = {}
        self._lock = Lock()
        self._closed = False
        watch_forks(self)

    @property
    def own_bytes(self) -> int:
        """A changed model shares nothing: as much as the files of its graphs."""
        files = self._record.files
        return sum(files[graph_file(index)].size for index in list(self._graphs)) if self._changed else 0

    def open_first(self) -> None:
        """Opens the graph of the first profile.

        Raises:
            EngineError: OpenVINO cannot open it, or its file was altered.
        """
        self._graph(0)

    def engine(self, shapes: Shapes) -> Engine:
        """The component at one of the profiles; where tiles may come, the smallest that holds another size.

        Raises:
            RequestError: shapes that were not compiled.
            EngineError: closed, or added inputs that were not compiled.
        """
        self._check_open()
        check_added(self._component, shapes)
        indices = indices_of_shape(self._component, self._shapes, shapes)
        if len(indices) == 1:
            return self._engine_at(indices[0], shapes)
        specs = {index: self._shapes[index].spec for index in indices}
        opens = {specs[index].batches[0]: partial(self._engine_at, index, shapes) for index in indices}
        return ExactEngine(opens, specs[indices[0]])

    def _engine_at(self, index: int, shapes: Shapes) -> "DeviceEngine":
        """The component at one of the compiled shapes."""
        return DeviceEngine(self, index, spec_of_call(self._component, self._shapes[index].spec, shapes))

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "DeviceModel":
        """The same with other weights, compiled anew."""
        from latentrt.engines.backends.openvino.changed import ChangedOnnx

        self._check_open()
        reason = "as no engine of this backend takes other weights"
        onnx = ChangedOnnx(self._component, weights, changes, backend=self._backend, reason=reason)
        return DeviceModel(
            self._component,
            self._folder,
            backend=self._backend,
            device=self._device,
            settings=self._settings,
            changed=onnx,
        )

    def run(self, index: int, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the graph of a static shape; what was left out gets its neutral value.

        Raises:
            EngineError: the model was closed, or OpenVINO fails.
        """
        spec = self._shapes[index].spec
        arrays = {}
        for name, tensor in spec.inputs.items():
            given, shape = inputs.get(name), tensor.sized(spec.batches[0])
            if given is not None and given.shape == shape:
                arrays[name] = np.ascontiguousarray(given)
                continue
            arrays[name] = np.full(shape, tensor.neutral, tensor.dtype)
            if given is not None:
                fill(arrays[name], given, tensor.neutral)
        graph = self._graph(index)
        try:
            (results,) = graph.run([arrays], spec.outputs)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO failed on its device {self._device}: {first_line(error)}; close other programs or report it"
            ) from error
        return results

    def _graph(self, index: int) -> OpenGraph:
        with self._lock:
            self._check_open()
            if index not in self._graphs:
                self._graphs[index] = self._opened(index)
            return self._graphs[index]

    def _opened(self, index: int) -> OpenGraph:
        shapes = shapes_of(self._shapes[index])
        if self._changed is not None:
            return self._changed.open_shape(shapes, self._settings, self._device)
        name = graph_file(index)
        path = self._folder / name
        try:
            # OpenVINO believes what it reads: an altered file could end the process
            check_files(self._folder, {name: self._record.files[name]}, largest_hashed=None)
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            tensor = openvino_module().Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
            compiled = core().import_model(tensor, self._device, dict(self._settings))
        except BundleError as error:
            raise EngineError(str(error)) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"OpenVINO cannot open {str(path)!r} on its device {self._device}: {first_line(error)}; build the "
                "bundle again"
            ) from error
        found = {port.any_name: tuple(port.shape) for port in compiled.inputs}
        if found != shapes:
            raise EngineError(f"{str(path)!r} has other inputs than the bundle; build the bundle again")
        return OpenGraph(compiled, 1, mapped)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(CLOSED)

    def after_fork(self) -> None:
        """Closes what the parent opened, without a word to the device."""
        keep_for_ever(self._graphs)
        self._lock, self._graphs, self._closed = Lock(), {}, True

    def close(self) -> None:
        """Gives up the graphs; runs under way end."""
        with self._lock:
            self._closed = True
            self._graphs = {}


class DeviceEngine(ClosesItself):
    """An ``Engine`` at one static shape of a shared ``DeviceModel``."""

    def __init__(self, model: DeviceModel, index: int, spec: EngineSpec) -> None:
        self.spec = spec
        self._model = model
        self._index = index

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component on arrays that match ``spec``; new arrays come back. Threads take turns."""
        self.spec.check(inputs)
        return self._model.run(self._index, host_arrays(inputs))

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()
