"""The CUDA driver at its narrowest: the calls that an engine makes, and cuda-python behind them.

Everything is an integer: addresses, streams, graphs. So a stand-in needs nothing of CUDA.
"""

from functools import cache
from typing import Any, Protocol

from latentrt.engines.errors import EngineError

_MEGABYTE = 2**20


class Driver(Protocol):
    """One device. Every call raises EngineError when CUDA refuses it."""

    def compute_capability(self) -> tuple[int, int]:
        """Major and minor number of the GPU's architecture."""
        ...

    def model(self) -> str:
        """The GPU's name, as its maker sells it."""
        ...

    def free_memory(self) -> int:
        """Bytes of device memory that are free."""
        ...

    def malloc(self, size: int) -> int:
        """Allocates device memory."""
        ...

    def free(self, address: int) -> None:
        """Frees device memory."""
        ...

    def host_alloc(self, size: int) -> int:
        """Allocates pinned host memory, which the device reads and writes without a copy in between."""
        ...

    def host_free(self, address: int) -> None:
        """Frees pinned host memory."""
        ...

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Enqueues a copy from pinned memory."""
        ...

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Enqueues a copy to pinned memory."""
        ...

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueues a copy from device memory to device memory."""
        ...

    def clear(self, device: int, size: int, stream: int) -> None:
        """Enqueues filling device memory with zeros."""
        ...

    def stream_create(self) -> int:
        """A queue of its own, apart from the default one."""
        ...

    def stream_synchronize(self, stream: int) -> None:
        """Waits until all that was enqueued is done."""
        ...

    def stream_destroy(self, stream: int) -> None:
        """Gives the queue back."""
        ...

    def begin_capture(self, stream: int) -> None:
        """From here on what this thread enqueues is recorded, not run."""
        ...

    def end_capture(self, stream: int) -> int:
        """Ends the recording; an executable graph comes back."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Enqueues all that was recorded, in one call."""
        ...

    def graph_destroy(self, graph: int) -> None:
        """Gives the graph back."""
        ...


def architecture(driver: Driver) -> str:
    """The GPU's architecture, as in ``sm89``."""
    major, minor = driver.compute_capability()
    return f"sm{major}{minor}"


def require_memory(driver: Driver, size: int, what: str) -> None:
    """Looks at the free memory before anything is allocated.

    Raises:
        EngineError: it does not hold ``size`` bytes.
    """
    free = driver.free_memory()
    if size > free:
        raise EngineError(
            f"{what} needs {-(-size // _MEGABYTE)} MB of device memory, {free // _MEGABYTE} MB are free; close what "
            "else uses the GPU, build for fewer pictures at once, or choose another backend"
        )


@cache
def cuda_device() -> "CudaPython":
    """The device, the same object for all engines on it: by that they know what another one left there.

    Raises:
        EngineError: there is none.
    """
    return CudaPython()


class CudaPython:
    """The driver through cuda-python's bindings of the CUDA runtime, on the first device that CUDA shows.

    ``CUDA_VISIBLE_DEVICES`` chooses another one.
    """

    def __init__(self) -> None:
        """Finds the device.

        Raises:
            EngineError: cuda-python is not installed, or there is no GPU.
        """
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineError(
                "running on a GPU needs the package cuda-python; install latentrt[tensorrt], latentrt[rtx] or "
                "latentrt[cuda]"
            ) from error
        self._cuda: Any = runtime
        status, count = runtime.cudaGetDeviceCount()
        if status != runtime.cudaError_t.cudaSuccess or not count:
            raise EngineError(
                f"found no NVIDIA GPU that CUDA can use ({self._text(status)}), expected one; run on a machine that "
                "has a GPU and its driver, or choose a backend for CPUs"
            )

    def compute_capability(self) -> tuple[int, int]:
        """Of device 0."""
        kind = self._cuda.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", kind.cudaDevAttrComputeCapabilityMajor, 0)
        minor = self._call("cudaDeviceGetAttribute", kind.cudaDevAttrComputeCapabilityMinor, 0)
        return int(major), int(minor)

    def model(self) -> str:
        """Of device 0."""
        name = self._call("cudaGetDeviceProperties", 0).name
        return name.decode() if isinstance(name, bytes) else str(name)

    def free_memory(self) -> int:
        """cudaMemGetInfo's first figure."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def malloc(self, size: int) -> int:
        """cudaMalloc: aligned to 256 bytes."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """cudaFree."""
        self._call("cudaFree", address)

    def host_alloc(self, size: int) -> int:
        """cudaMallocHost."""
        return int(self._call("cudaMallocHost", size))

    def host_free(self, address: int) -> None:
        """cudaFreeHost."""
        self._call("cudaFreeHost", address)

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """cudaMemcpyAsync."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host, size, kind, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """cudaMemcpyAsync."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host, device, size, kind, stream)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """cudaMemcpyAsync."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def clear(self, device: int, size: int, stream: int) -> None:
        """cudaMemsetAsync."""
        self._call("cudaMemsetAsync", device, 0, size, stream)

    def stream_create(self) -> int:
        """Does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def stream_synchronize(self, stream: int) -> None:
        """cudaStreamSynchronize."""
        self._call("cudaStreamSynchronize", stream)

    def stream_destroy(self, stream: int) -> None:
        """cudaStreamDestroy."""
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: int) -> None:
        """Thread-local: other threads may allocate meanwhile."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """Instantiates what was recorded; the recording itself is not kept."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """cudaGraphLaunch."""
        self._call("cudaGraphLaunch", graph, stream)

    def graph_destroy(self, graph: int) -> None:
        """cudaGraphExecDestroy."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"CUDA's {name} failed: {self._text(status)}; close what else uses the GPU or report it")
        return results[0] if len(results) == 1 else tuple(results)

    def _text(self, status: Any) -> str:
        _, text = self._cuda.cudaGetErrorString(status)
        return text.decode() if isinstance(text, bytes) else str(status)
