"""The backends there are, best first."""

from latentrt.engines.backends.compiler import Compiler
from latentrt.engines.backends.ort_cpu.backend import OrtCpu
from latentrt.engines.backends.ort_cuda import OrtCuda
from latentrt.engines.backends.tensorrt.backend import TensorRT, TensorRTRTX
from latentrt.engines.precision import Backend

# In the order in which they are preferred where a bundle and the machine have several
COMPILERS: dict[Backend, Compiler] = {
    Backend.TENSORRT: TensorRT(),
    Backend.TENSORRT_RTX: TensorRTRTX(),
    Backend.ORT_CUDA: OrtCuda(),
    Backend.ORT_CPU: OrtCpu(),
}
