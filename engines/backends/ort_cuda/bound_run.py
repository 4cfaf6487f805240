"""A session's buffers at one shape, and what copies between them on the device."""

import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.backends.cuda import Driver
from latentrt.engines.bundle.unet.denoise_step import NEXT_STATE, STATE
from latentrt.engines.spec import Array, EngineSpec, Tensor, TensorSpec, host_arrays

if TYPE_CHECKING:
    from latentrt.engines.backends.ort_cuda.model import OrtCudaModel

NO_GRAPH = -1
"""The gpu_graph_id of a run that is neither recorded nor replayed."""


class OrtDeviceArray:
    """A ``DeviceArray`` in memory that ONNX Runtime allocated, and frees with it."""

    def __init__(self, value: Any, tensor: TensorSpec, batch: int) -> None:
        """Takes ONNX Runtime's value."""
        self.value = value
        self.shape, self.dtype = tensor.sized(batch), tensor.dtype

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def numpy(self) -> Array:
        """A copy in the host's memory."""
        return np.array(self.value.numpy())

    def rows(self, start: int, stop: int) -> "OrtDeviceArray":
        """All of them: ONNX Runtime's values have no parts."""
        if (start, stop) != (0, self.shape[0]):
            raise ValueError(f"got rows {start} to {stop} of {self.shape[0]}, expected all; take them of a copy")
        return self


class Copies:
    """Copies between values of ONNX Runtime that are on the device; sessions wait for their runs, and this for its own.

    ONNX Runtime's ``copy_tensors`` does not know the memory of this provider.
    """

    def __init__(self, driver: Driver) -> None:
        """Takes the device."""
        self._driver, self._stream = driver, driver.stream_create()
        weakref.finalize(self, driver.stream_destroy, self._stream).atexit = False

    def copy(self, targets: Iterable[Any], sources: Iterable[Any]) -> None:
        """Copies each source, and waits until all are there."""
        for target, source in zip(targets, sources, strict=True):
            size = target.tensor_size_in_bytes()
            self._driver.copy_on_device(target.data_ptr(), source.data_ptr(), size, self._stream)
        self._driver.stream_synchronize(self._stream)


class BoundRun:
    """Inputs and outputs of one shape in device memory, bound to the session."""

    def __init__(
        self,
        model: "OrtCudaModel",
        spec: EngineSpec,
        batch: int,
        inputs: Mapping[str, Tensor],
        graph: int,
        *,
        turns: "BoundRun | None" = None,
    ) -> None:
        """Allocates and binds. What ``turns`` a step has its inputs, but for the state, which the two exchange."""
        self.recorded = None if graph == NO_GRAPH else False
        """Whether the graph was recorded, where there is to be one."""
        self._model, self._spec, self._batch = model, spec, batch
        self._session = model.session
        self._binding = self._session.io_binding()
        self._inputs: dict[str, Any] = {}
        if turns is None:
            self._inputs |= {name: self._value(spec.inputs[name]) for name in inputs}
        else:
            self._inputs |= turns._inputs
        self._left_out = {
            name: self._neutral(spec.inputs[name])
            for name in (tensor.name for tensor in self._session.get_inputs())  # others have defaults in the graph
            if name not in inputs
        }
        self._outputs = {name: self._value(tensor) for name, tensor in spec.outputs.items()}
        if turns is not None:
            self._inputs[STATE], self._outputs[NEXT_STATE] = turns._outputs[NEXT_STATE], turns._inputs[STATE]
        for name, tensor in (*self._inputs.items(), *self._left_out.items()):
            self._binding.bind_ortvalue_input(name, tensor)
        for name, tensor in self._outputs.items():
            self._binding.bind_ortvalue_output(name, tensor)
        self._options = model.ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph))

    def run(self, inputs: Mapping[str, Tensor]) -> None:
        """Copies the inputs in, and runs or replays."""
        on_device = {name: tensor.value for name, tensor in inputs.items() if isinstance(tensor, OrtDeviceArray)}
        if on_device:
            self._model.copies.copy((self._inputs[name] for name in on_device), on_device.values())
        for name, array in host_arrays({name: inputs[name] for name in inputs if name not in on_device}).items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()
        self.recorded = None if self.recorded is None else True

    @property
    def written(self) -> Iterable[Any]:
        """The values that a run writes."""
        return self._outputs.values()

    def reads(self, name: str) -> Any:
        """The value that a run reads an input from."""
        return self._inputs[name]

    def outputs_on_device(self) -> dict[str, OrtDeviceArray]:
        """The outputs themselves: the next run writes to them."""
        return {
            name: OrtDeviceArray(self._outputs[name], tensor, self._batch)
            for name, tensor in self._spec.outputs.items()
        }

    def results(self) -> dict[str, Array]:
        """Copies of the outputs in the host's memory."""
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

    def results_on_device(self) -> dict[str, OrtDeviceArray]:
        """Copies of the outputs on the device: the bound ones are written to by the next run."""
        made = {name: self._value(tensor) for name, tensor in self._spec.outputs.items()}
        self._model.copies.copy(made.values(), self._outputs.values())
        return {name: OrtDeviceArray(made[name], tensor, self._batch) for name, tensor in self._spec.outputs.items()}

    def _neutral(self, tensor: TensorSpec) -> Any:
        """Memory on the device that is full of what changes nothing."""
        content = np.full(tensor.sized(self._batch), tensor.neutral, tensor.dtype)
        return self._model.ort.OrtValue.ortvalue_from_numpy(content, self._model.device.memory, 0)

    def _value(self, tensor: TensorSpec) -> Any:
        """Memory on the device."""
        shape, memory = tensor.sized(self._batch), self._model.device.memory
        return self._model.ort.OrtValue.ortvalue_from_shape_and_type(shape, tensor.dtype.type, memory, 0)
