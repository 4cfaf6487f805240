"""The backends there are, best first."""

from collections import UserDict
from importlib import import_module
from typing import Any

from latentrt.engines.backends.compiler import Compiler
from latentrt.engines.precision import Backend


class _Compilers(UserDict[Backend, Any]):
    """Every backend's compiler; module and class until it is first asked for, as a bundle opens with one alone."""

    def __getitem__(self, backend: Backend) -> Compiler:
        compiler = self.data[backend]
        if isinstance(compiler, tuple):
            module, name = compiler
            compiler = getattr(import_module(f"latentrt.engines.backends.{module}"), name)()
            self.data[backend] = compiler
        return compiler  # type: ignore[no-any-return]


# In the order in which they are preferred where a bundle and the machine have several
COMPILERS = _Compilers(
    {
        Backend.TENSORRT: ("tensorrt.backend", "TensorRT"),
        Backend.TENSORRT_RTX: ("tensorrt.backend", "TensorRTRTX"),
        Backend.ORT_CUDA: ("ort_cuda.backend", "OrtCuda"),
        Backend.ORT_CPU: ("ort_cpu.backend", "OrtCpu"),
        # Behind the one that is exact, also where it is faster
        Backend.OPENVINO: ("openvino.backend", "OpenVino"),
        # They round in their own ways, and nobody has seen how: only where nothing else is there
        Backend.OPENVINO_GPU: ("openvino.devices.backend", "OpenVinoGpu"),
        Backend.OPENVINO_NPU: ("openvino.devices.backend", "OpenVinoNpu"),
    }
)
