"""The backends there are, best first."""

from latentrt.engines.compiler import Compiler
from latentrt.engines.ort_cpu import OrtCpu
from latentrt.engines.ort_cuda import OrtCuda
from latentrt.engines.precision import Backend
from latentrt.engines.tensorrt import TensorRT, TensorRTRTX

# In the order in which they are preferred where a bundle and the machine have several
COMPILERS: dict[Backend, Compiler] = {
    Backend.TENSORRT: TensorRT(),
    Backend.TENSORRT_RTX: TensorRTRTX(),
    Backend.ORT_CUDA: OrtCuda(),
    Backend.ORT_CPU: OrtCpu(),
}
