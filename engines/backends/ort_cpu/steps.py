"""Whole steps on the CPU: the engine over the graph that was made of the compiled one."""

from collections.abc import Mapping

import numpy as np

from latentrt.engines.backends.ort_cpu.model import STEP_FILE, OrtCpuEngine, OrtCpuModel
from latentrt.engines.bundle.unet.denoise_step import KEPT_CLEAN, KEPT_MASK, KEPT_NOISE, NOISE, STATE
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array, EngineSpec, Tensor

_OF_STEP = (NOISE, KEPT_MASK, KEPT_CLEAN, KEPT_NOISE)
"""Inputs that a call may leave out; the graph has defaults for those that the U-Net itself may be given beside them."""


def step_engine(model: OrtCpuModel, spec: EngineSpec) -> Engine:
    """The engine of whole steps; samples are combined, so a batch is not halved.

    Args:
        model: opened; the graph is opened when it is first asked for.
        spec: of the step.

    Raises:
        EngineError: the model was closed, or was compiled without this graph.
    """
    return _StepEngine(model.of_graph(STEP_FILE), spec)


class _StepEngine(OrtCpuEngine):
    """An ``OrtCpuEngine`` that fills in what a step may leave out."""

    def __init__(self, model: OrtCpuModel, spec: EngineSpec) -> None:
        super().__init__(model, spec)
        self._neutral: dict[int, dict[str, Array]] = {}

    def _arrays(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """What the session is given: what a step may leave out is neutral."""
        batch = inputs[STATE].shape[0]
        if batch not in self._neutral:
            tensors = {name: self.spec.inputs[name] for name in _OF_STEP}
            self._neutral[batch] = {
                name: np.full(tensor.sized(batch), tensor.neutral, tensor.dtype) for name, tensor in tensors.items()
            }
        return {**self._neutral[batch], **super()._arrays(inputs)}
