"""Running a TensorRT plan: everything is allocated and bound once, and a run is one launch of a CUDA graph."""

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.backends.cuda import Driver, require_memory
from latentrt.engines.backends.tensorrt.device_weights import DeviceWeights
from latentrt.engines.backends.tensorrt.plan import CLOSED, OpenPlan
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import Planes
from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, TensorSpec

if TYPE_CHECKING:
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes

Recompiled = Callable[["ComponentWeights", "Changes"], "TensorRTModel"]


class _Shapes:
    """The shapes of an open plan with one set of weights.

    What nobody has any more frees itself: a set of weights may be put out of a cache while calls run with it.
    """

    def __init__(self, plan: OpenPlan, weights: Mapping[str, int], component: Component, owned: ExitStack) -> None:
        """Takes the addresses of weights by the inputs that take them, and what frees what it owns."""
        self.lock = plan.lock
        self._plan = plan
        self._weights = weights
        self._component = component
        self._bound: dict[int, BoundShape] = {}
        self._free = weakref.finalize(self, _free, plan.lock, self._bound, owned)
        self._free.atexit = False  # the process takes its memory with it

    @property
    def plan(self) -> Any:
        """TensorRT's engine.

        Raises:
            EngineError: the model was closed.
        """
        if not self._free.alive:
            raise EngineError(CLOSED)
        return self._plan.engine

    @property
    def bound_bytes(self) -> int:
        """Device memory of inputs and outputs."""
        return sum(shape.bytes for shape in list(self._bound.values()))

    def engine(self, shapes: Shapes) -> "TensorRTEngine":
        """The component at one of the profiles; where tiles may come, the smallest that holds another size.

        Raises:
            RequestError: shapes that were not compiled.
            EngineError: closed, or no memory for the profile's buffers.
        """
        index = self._index(shapes)
        with self.lock:
            _ = self.plan  # refuses where it was closed
            if index not in self._bound:
                self._bound[index] = BoundShape(self._plan, index, self._weights)
            return TensorRTEngine(self, self._bound[index])

    def close(self) -> None:
        """Frees what it has on the device; may be called twice, and waits for a run that is under way."""
        self._free()

    def _index(self, shapes: Shapes) -> int:
        profile, holds_less = shapes.profile, self._component.kind.planes is Planes.PICTURE
        known = [str(served) for shape in self._plan.shapes for served in shape.profiles]
        if shapes.chunks > 1:
            raise RequestError(
                f"got a prompt of {shapes.chunks} chunks, but the engine of {self._component.name} was compiled for "
                "prompts of one; shorten the prompt, or open the bundle with the backend ort-cpu"
            )
        for index, shape in enumerate(self._plan.shapes):
            if profile in shape.profiles:
                return index
        # Tiles have sizes that are no profile's
        holding = [
            (served.width * served.height, index)
            for index, shape in enumerate(self._plan.shapes)
            for served in shape.profiles
            if served.width >= profile.width and served.height >= profile.height and holds_less
        ]
        if not holding:
            raise RequestError(
                f"got size {profile.width}x{profile.height}, but the engine of {self._component.name} was compiled for "
                f"{', '.join(known)}; ask for one of these, or build again with --profile "
                f"{profile.width}x{profile.height}"
            )
        return min(holding)[1]


class TensorRTModel(_Shapes):
    """A plan, opened, with the bundle's weights."""

    def __init__(
        self,
        trt: Any,
        driver: Driver,
        component: Component,
        plan: Path,
        *,
        maker: str,
        recompiled: "Recompiled | None" = None,
    ) -> None:
        """Reads the plan onto the device, and the weights that it takes as inputs.

        Args:
            trt: the module ``tensorrt`` or ``tensorrt_rtx``.
            driver: the device.
            component: whose plan it is.
            plan: the file.
            maker: the module's name for people.
            recompiled: gives a model of a plan that was compiled of changed weights, where this one takes none.

        Raises:
            EngineError: the device's memory does not hold it, or TensorRT refuses it; nothing stays allocated.
        """
        self._recompiled = recompiled
        self._changed: weakref.WeakSet[ChangedModel] = weakref.WeakSet()
        with ExitStack() as taken:
            opened = OpenPlan(trt, driver, component, plan, maker=maker)
            taken.callback(opened.close)
            addresses: Mapping[str, int] = {}
            if opened.weight_inputs:
                weights = DeviceWeights(driver, _base_weights(component, opened.weight_inputs), component.name)
                taken.callback(weights.close)
                addresses = weights.addresses
            super().__init__(opened, addresses, component, taken.pop_all())

    @property
    def own_bytes(self) -> int:
        """None beside itself."""
        return 0

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "TensorRTModel | ChangedModel":
        """The same component with other weights.

        Where the plan takes weights as inputs, they share it, and all buffers that nothing changes. Else a plan of its
        own is compiled, once.

        Raises:
            RequestError: weights that the component cannot take.
            EngineError: closed, the device's memory does not hold it, or no other weights can be had.
        """
        _ = self.plan
        if not self._weights:
            if self._recompiled is None:
                raise EngineError(
                    f"the engine of {self._component.name} takes no other weights; build it again with --lora-ready"
                )
            return self._recompiled(weights, changes)
        own = DeviceWeights(self._plan.driver, self._taken_by_plan(weights, changes), self._component.name)
        model = ChangedModel(self, self._plan, {**self._weights, **own.addresses}, self._component, own)
        with self.lock:
            if not self._free.alive:  # closed meanwhile
                model.close()
            self._changed.add(model)
        return model

    def close(self) -> None:
        """Frees everything on the device, of models with changed weights, too; waits for a run that is under way."""
        with self.lock, ExitStack() as rest:
            rest.callback(super().close)
            for model in list(self._changed):
                rest.callback(model.close)

    def _taken_by_plan(self, weights: "ComponentWeights", changes: "Changes") -> Iterator[tuple[str, Array]]:
        from latentrt.engines.bundle.changed_weights import changed_initializers

        for name, content in changed_initializers(weights, changes):
            if name not in self._weights:
                raise EngineError(
                    f"the engine of {self._component.name} does not take {name} as an input; build it again with "
                    "--lora-ready"
                )
            yield name, content


class ChangedModel(_Shapes):
    """An open plan with other weights: buffers of its own hold what differs, and all else is shared."""

    def __init__(
        self, base: TensorRTModel, plan: OpenPlan, weights: Mapping[str, int], component: Component, own: DeviceWeights
    ) -> None:
        """Takes over ``own``; whatever else it uses stays as long as ``base``."""
        owned = ExitStack()
        owned.callback(own.close)
        super().__init__(plan, weights, component, owned)
        self._base = base
        self._own_weights = own.bytes

    @property
    def own_bytes(self) -> int:
        """Device memory of the weights that differ, and of inputs and outputs."""
        return self._own_weights + self.bound_bytes

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "ChangedModel":
        """Refused: changes are of the bundle's weights."""
        raise EngineError("got changes of a changed model, expected the one that was opened; change that one")


class RecompiledModel(TensorRTModel):
    """A plan that was compiled of changed weights; it shares nothing."""

    @property
    def own_bytes(self) -> int:
        """Device memory of all of it."""
        return self._plan.bytes + self.bound_bytes


class BoundShape:
    """One shape of a plan: a context, a device buffer and a pinned one per tensor, and the graph of a run."""

    def __init__(self, plan: OpenPlan, index: int, weights: Mapping[str, int]) -> None:
        """Allocates and binds; the plan's lock is held. Weights are bound where they are."""
        self.spec = spec = plan.shapes[index].spec
        self.graph: int | None = None
        self.graph_refused: str | None = None
        self._plan = plan
        self._staging: dict[str, Array] = {}
        self._places: dict[str, tuple[int, int, int]] = {}  # device address, pinned address, bytes
        driver = plan.driver
        tensors = {**spec.inputs, **spec.outputs}
        sizes = {name: _bytes(tensor, spec.batches[0]) for name, tensor in tensors.items()}
        self.bytes = sum(sizes.values())
        with ExitStack() as taken:
            require_memory(driver, self.bytes, f"{plan.name}'s inputs and outputs")
            self._context: Any = plan.context()
            taken.callback(self._drop_context)
            self._context.set_device_memory(plan.scratch, plan.scratch_bytes)
            self._require(self._context.set_optimization_profile_async(index, plan.stream), "select a profile")
            for name, tensor in tensors.items():
                size = sizes[name]
                device = driver.malloc(size)
                taken.callback(driver.free, device)
                pinned = driver.host_alloc(size)
                taken.callback(driver.host_free, pinned)
                self._places[name] = device, pinned, size
                self._staging[name] = _view(pinned, tensor, spec.batches[0])
                self._require(self._context.set_tensor_address(name, device), f"bind {name}")
            for name, address in weights.items():  # their shapes are the network's own
                self._require(self._context.set_tensor_address(name, address), f"bind {name}")
            for name, tensor in spec.inputs.items():
                self._require(self._context.set_input_shape(name, tensor.sized(spec.batches[0])), f"size {name}")
            driver.stream_synchronize(plan.stream)
            self._taken = taken.pop_all()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run; the plan's lock is held. The first one warms up and is recorded behind it."""
        driver, stream = self._plan.driver, self._plan.stream
        for name in self.spec.inputs:
            self._staging[name][...] = inputs[name]
        if self.graph is None:
            self._enqueue()
        else:
            driver.launch(self.graph, stream)
        driver.stream_synchronize(stream)
        outputs = {name: self._staging[name].copy() for name in self.spec.outputs}
        if self.graph is None and self.graph_refused is None:
            self._capture()
        return outputs

    def close(self) -> None:
        """Frees the buffers, the context and the graph."""
        with ExitStack() as taken:
            taken.enter_context(self._taken.pop_all())
            if self.graph is not None:
                taken.callback(self._plan.driver.graph_destroy, self.graph)
            self.graph, self._staging, self._places = None, {}, {}

    def _enqueue(self) -> None:
        driver, stream = self._plan.driver, self._plan.stream
        for name in self.spec.inputs:
            device, pinned, size = self._places[name]
            driver.copy_to_device(device, pinned, size, stream)
        self._require(self._context.execute_async_v3(stream), "run")
        for name in self.spec.outputs:
            device, pinned, size = self._places[name]
            driver.copy_to_host(pinned, device, size, stream)

    def _capture(self) -> None:
        """Records a run. A plan that cannot be recorded goes on without: slower by its launches, nothing else."""
        driver, stream = self._plan.driver, self._plan.stream
        try:
            driver.begin_capture(stream)
            try:
                self._enqueue()
            except BaseException:  # Ctrl-C, too
                with suppress(EngineError):
                    driver.graph_destroy(driver.end_capture(stream))  # the stream must leave its recording
                raise
            self.graph = driver.end_capture(stream)
        except EngineError as error:
            self.graph_refused = str(error)

    def _require(self, done: Any, what: str) -> None:
        if not done:
            raise EngineError(f"TensorRT cannot {what} for {self._plan.name}; open the bundle again or report it")

    def _drop_context(self) -> None:
        self._context = None


class TensorRTEngine(ClosesItself):
    """An ``Engine`` at one shape of a shared model."""

    def __init__(self, model: _Shapes, shape: BoundShape) -> None:
        self.spec = shape.spec
        self._model = model
        self._shape = shape

    @property
    def graph_refused(self) -> str | None:
        """Why runs are not launched as a CUDA graph, if they are not."""
        return self._shape.graph_refused

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the component on arrays that match ``spec``; new arrays come back. Threads take turns."""
        self.spec.check(inputs)
        with self._model.lock:
            _ = self._model.plan  # refuses where it was closed
            return self._shape.run(inputs)

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()


def _free(lock: RLock, bound: "dict[int, BoundShape]", owned: ExitStack) -> None:
    """Closes shapes, and then frees what they were bound to."""
    with lock, ExitStack() as rest:
        rest.enter_context(owned)
        for shape in bound.values():
            rest.callback(shape.close)
        bound.clear()


def _base_weights(component: Component, inputs: Sequence[str]) -> Iterator[tuple[str, Array]]:
    """The bundle's numbers for the inputs that take weights; of the bundle's mapped files."""
    weights = BundleFolder(root=component.root, manifest=component.manifest).weights(component.name)
    places = weights.initializers
    unknown = [name for name in inputs if name not in places]
    if unknown:
        raise EngineError(
            f"the plan of {component.name} has other inputs than the bundle, such as {unknown[0]}; build the engine "
            "again with latentrt build"
        )
    return ((name, weights.stored(places[name])) for name in inputs)


def _bytes(tensor: TensorSpec, batch: int) -> int:
    return int(np.prod(tensor.sized(batch))) * tensor.dtype.itemsize


def _view(address: int, tensor: TensorSpec, batch: int) -> Array:
    """Memory as an array."""
    content = np.ctypeslib.as_array((ctypes.c_uint8 * _bytes(tensor, batch)).from_address(address))
    return content.view(tensor.dtype).reshape(tensor.sized(batch))
