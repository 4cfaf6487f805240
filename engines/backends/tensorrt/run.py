"""Running a TensorRT plan: everything is allocated and bound once, and a run is one launch of a CUDA graph."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from latentrt.engines.backends.cuda import Driver
from latentrt.engines.backends.fixed_shapes import ExactEngine, check_added, indices_of_shape, spec_of_call
from latentrt.engines.backends.tensorrt.bound_shape import BoundShape
from latentrt.engines.backends.tensorrt.bound_steps import BoundSteps
from latentrt.engines.backends.tensorrt.device_weights import DeviceWeights
from latentrt.engines.backends.tensorrt.plan import CLOSED, OpenPlan
from latentrt.engines.backends.tensorrt.shared_weights import ON_DEVICES, SharedWeights
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.component import Component
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import Loop, Shapes
from latentrt.engines.spec import Array, EngineSpec, Tensor

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

    def engine(self, shapes: Shapes) -> Engine:
        """The component at one of the profiles; where tiles may come, the smallest that holds another size.

        Raises:
            RequestError: shapes that were not compiled.
            EngineError: closed, no memory for the profile's buffers, or added inputs that were not compiled.
        """
        check_added(self._component, shapes)
        indices = indices_of_shape(self._component, self._plan.shapes, shapes)
        if len(indices) == 1:
            return self._engine_at(indices[0], shapes)
        specs = {index: self._plan.shapes[index].spec for index in indices}
        opens = {specs[index].batches[0]: partial(self._engine_at, index, shapes) for index in indices}
        return ExactEngine(opens, specs[indices[0]])

    def _engine_at(self, index: int, shapes: Shapes) -> "TensorRTEngine":
        """The component at one of the compiled shapes."""
        with self.lock:
            _ = self.plan  # refuses where it was closed
            if index not in self._bound:
                bound = BoundSteps if self._component.loop is Loop.DEVICE else BoundShape
                self._bound[index] = bound(self._plan, index, self._weights)
            spec = spec_of_call(self._component, self._bound[index].spec, shapes)
            return TensorRTEngine(self, self._bound[index], spec)

    def close(self) -> None:
        """Frees what it has on the device; may be called twice, and waits for a run that is under way."""
        self._free()


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
            self._weights_key = (driver, component.name, component.onnx_sha256, opened.weight_inputs)
            if opened.weight_inputs:
                weights = ON_DEVICES.take(
                    self._weights_key,
                    lambda: DeviceWeights(driver, _base_weights(component, opened.weight_inputs), component.name),
                )
                taken.callback(weights.close)
                addresses = weights.addresses
            super().__init__(opened, addresses, component, taken.pop_all())

    @property
    def own_bytes(self) -> int:
        """None beside itself."""
        return 0

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "TensorRTModel | ChangedModel":
        """The same component with other weights.

        Where the plan takes weights as inputs, they share it, and all buffers that nothing changes; those that differ
        they share with plans of the component with other inputs. Else a plan of its own is compiled, once.

        Raises:
            RequestError: weights that the component cannot take.
            EngineError: closed, the device's memory does not hold it, or no other weights can be had.
        """
        _ = self.plan
        if not self._weights:
            if self._recompiled is None:
                raise EngineError(
                    f"the engine of {self._component.label} takes no other weights; build it again with --lora-ready"
                )
            return self._recompiled(weights, changes)
        own = ON_DEVICES.take(
            (self._weights_key, changes.key),
            lambda: DeviceWeights(self._plan.driver, self._taken_by_plan(weights, changes), self._component.name),
        )
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
                    f"the engine of {self._component.label} does not take {name} as an input; build it again with "
                    "--lora-ready"
                )
            yield name, content


class ChangedModel(_Shapes):
    """An open plan with other weights: buffers of its own hold what differs, and all else is shared."""

    def __init__(
        self, base: TensorRTModel, plan: OpenPlan, weights: Mapping[str, int], component: Component, own: SharedWeights
    ) -> None:
        """Takes over ``own``; whatever else it uses stays as long as ``base``."""
        owned = ExitStack()
        owned.callback(own.close)
        super().__init__(plan, weights, component, owned)
        self._base = base
        self._own_weights = own.bytes

    @property
    def own_bytes(self) -> int:
        """Device memory that it added: of the weights that differ, and of inputs and outputs."""
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


class TensorRTEngine(ClosesItself):
    """An ``Engine`` at one shape of a shared model."""

    def __init__(self, model: _Shapes, shape: BoundShape, spec: EngineSpec) -> None:
        self.spec = spec
        self._model = model
        self._shape = shape

    @property
    def graph_refused(self) -> str | None:
        """Why runs are not launched as a CUDA graph, if they are not."""
        return self._shape.graph_refused

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component on tensors that match ``spec``; new arrays come back. Threads take turns."""
        with self._turn(inputs):
            return self._shape.run(inputs)

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Runs it with results that stay on the device, where further engines take them."""
        with self._turn(inputs):
            return self._shape.run_kept(inputs)

    @contextmanager
    def _turn(self, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        self.spec.check(inputs)
        with self._model.lock:
            _ = self._model.plan  # refuses where it was closed
            yield

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
            f"the plan of {component.label} has other inputs than the bundle, such as {unknown[0]}; build the engine "
            "again with latentrt build"
        )
    return ((name, weights.stored(places[name])) for name in inputs)
