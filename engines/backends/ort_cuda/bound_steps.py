"""A session of whole steps bound twice: each binding reads the state that the other one writes."""

import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from latentrt.engines.backends.ort_cuda.bound_run import BoundRun, OrtDeviceArray
from latentrt.engines.bundle.unet.denoise_step import STATE
from latentrt.engines.spec import Array, EngineSpec, Tensor

if TYPE_CHECKING:
    from latentrt.engines.backends.ort_cuda.model import OrtCudaModel


class BoundSteps:
    """What a ``BoundRun`` is, for whole steps: a run alternates between two bindings, each recorded once.

    Results are handed out where they were written. What is written over while somebody has it is copied before.
    """

    def __init__(
        self, model: "OrtCudaModel", spec: EngineSpec, batch: int, inputs: Mapping[str, Tensor], graphs: tuple[int, int]
    ) -> None:
        """Allocates and binds."""
        there = BoundRun(model, spec, batch, inputs, graphs[0])
        self._sides = there, BoundRun(model, spec, batch, inputs, graphs[1], turns=there)
        self._side = there
        self._model = model
        self._handed_out: list[weakref.ref[OrtDeviceArray]] = []

    @property
    def recorded(self) -> bool | None:
        """Whether the graph of the last step was recorded, where there is to be one."""
        return self._side.recorded

    def run(self, inputs: Mapping[str, Tensor]) -> None:
        """Makes a step from the state where it is, or from another that is copied."""
        state = inputs[STATE]
        value = state.value if isinstance(state, OrtDeviceArray) else None
        self._side = next((side for side in self._sides if side.reads(STATE) is value), self._sides[0])
        in_place = self._side.reads(STATE) is value
        written = [*self._side.written, *([] if in_place else [self._side.reads(STATE)])]
        self._part(written, but=state)
        given = {name: tensor for name, tensor in inputs.items() if not (in_place and name == STATE)}
        self._side.run(given)

    def results(self) -> dict[str, Array]:
        """Copies of the outputs in the host's memory."""
        return self._side.results()

    def results_on_device(self) -> dict[str, OrtDeviceArray]:
        """The outputs where they are."""
        results = self._side.outputs_on_device()
        self._handed_out = [one for one in self._handed_out if one() is not None]
        self._handed_out += map(weakref.ref, results.values())
        return results

    def _part(self, written: Iterable[object], but: Tensor) -> None:
        """Copies what somebody has of values that will be written."""
        values = list(written)
        for handed_out in self._handed_out:
            array = handed_out()
            if array is not None and array is not but and any(array.value is value for value in values):
                array.value = self._model.copied(array)
