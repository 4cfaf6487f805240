"""What this machine is, which backends work on it, and what it reaches at best."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

from latentrt.benchmarks.gpu.models import Scale
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.report.figures import Figure
from latentrt.benchmarks.report.gpu.schema import BackendRow, GpuMachine, PeakRow, Row
from latentrt.engines.backends.cuda import cuda_device
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend

_PACKAGES = (
    "latentrt",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "torch",
    "diffusers",
    "transformers",
)
_ROWS: Mapping[Scale, int] = {Scale.FULL: 8192, Scale.SMALL: 64}  # of the matrices
_TYPES: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "float8"}
_REPEATS, _PRODUCTS = 5, 10


def machine() -> GpuMachine:
    """This machine; a driver that is not there is a rehearsal."""
    gpu = memory = driver = None
    with suppress(EngineError):
        gpu = cuda_device().model()
    with suppress(Exception):  # whatever a half-installed torch raises
        import torch

        memory = int(torch.cuda.get_device_properties(0).total_memory)
        gpu = gpu or torch.cuda.get_device_name(0)
        driver = f"CUDA {torch.version.cuda}"
    packages = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return GpuMachine(
        gpu=gpu,
        gpu_bytes=memory,
        driver=driver,
        cores=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        packages=packages,
    )


def find_backends(settings: Settings) -> Iterator[Row]:
    """Which of the backends are installed, and compile for what is here."""
    for name in settings.backends:
        compiler = COMPILERS[Backend(name)]
        found = reason = None
        try:
            found = compiler.version()
            compiler.here()
            compiler.targets(())
        except EngineError as error:
            reason = str(error)
        yield BackendRow(stage="backends", backend=name, version=found, works=reason is None, reason=reason)


def measure_peaks(settings: Settings) -> Iterator[Row]:
    """Matrix products in every type that torch has here, and a copy in the device's memory."""
    for precision in _TYPES:
        seconds = product_seconds(settings, precision)
        if seconds:
            rates = [_flop(settings) / one for one in seconds]
            yield PeakRow(stage="peak", what=_TYPES[precision], per_second=Figure.of(rates))
    import torch

    source = torch.ones(_ROWS[settings.scale] ** 2, device=settings.device)
    target = torch.empty_like(source)
    seconds = _timed(settings.device, lambda: target.copy_(source))
    yield PeakRow(stage="peak", what="copy", per_second=Figure.of([8 * source.numel() / one for one in seconds]))


def peak_of(settings: Settings, precision: str) -> float | None:
    """FLOP per second of the fastest product in a precision, now; None where torch has none."""
    seconds = product_seconds(settings, precision)
    if settings.device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()  # the memory of whoever is measured next
    return _flop(settings) / min(seconds) if seconds else None


def product_seconds(settings: Settings, precision: str) -> list[float]:
    """Seconds of a matrix product, a few times over; none where torch lacks it here."""
    try:
        import torch

        size = _ROWS[settings.scale]
        first, second = torch.randn((2, size, size), device=settings.device).unbind()
        return _timed(settings.device, _product(precision, first, second))
    except (ImportError, RuntimeError, AttributeError, NotImplementedError, AssertionError):
        return []


def _flop(settings: Settings) -> float:
    return 2.0 * _ROWS[settings.scale] ** 3


def _product(precision: str, first: Any, second: Any) -> Callable[[], object]:
    """The product of two matrices in a precision, the second of them transposed where eight bits want that."""
    import torch

    if precision == "int8":
        whole, other = first.to(torch.int8), second.to(torch.int8).t()
        return lambda: torch._int_mm(whole, other)
    if precision == "fp8":
        one = torch.ones((), device=first.device)
        whole, other = first.to(torch.float8_e4m3fn), second.to(torch.float8_e4m3fn).t()
        return lambda: torch._scaled_mm(whole, other, scale_a=one, scale_b=one, out_dtype=torch.float16)
    dtype = getattr(torch, _TYPES[precision])
    left, right = first.to(dtype), second.to(dtype)
    return lambda: left @ right


def _timed(device: str, work: Callable[[], object]) -> list[float]:
    """Seconds of some work, as means over a few in a row behind one that warms up."""
    synchronize(device, work())
    seconds = []
    for _ in range(_REPEATS):
        begin = perf_counter()
        for _ in range(_PRODUCTS):
            result = work()
        synchronize(device, result)
        seconds.append((perf_counter() - begin) / _PRODUCTS)
    return seconds


def synchronize(device: str, *_: object) -> None:
    """Waits for the device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def free_memory() -> int | None:
    """Bytes of the GPU's memory that nobody has; None without one."""
    with suppress(EngineError):
        return cuda_device().free_memory()
    with suppress(Exception):  # torch without CUDA says so in several ways
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return None
