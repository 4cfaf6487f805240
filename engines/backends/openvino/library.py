"""OpenVINO itself: the package, its core, and how this CPU computes."""

import os
from typing import Any

from latentrt.engines.errors import EngineError
from latentrt.engines.machine import cpu_features
from latentrt.engines.precision import Precision

DEVICE = "CPU"
_BF16 = "BF16"

# What it writes for a cache is scrambled unless somebody else encrypts it; this one leaves it legible
_LEGIBLE = (lambda text: text, lambda text: text)

_cores: dict[int, Any] = {}


def openvino_module() -> Any:
    """The package.

    Raises:
        EngineError: it is not installed, or is not whole.
    """
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise EngineError(
            f"backend openvino needs the package openvino ({error}); install latentrt[openvino]"
        ) from error
    if not (hasattr(openvino, "Core") and hasattr(openvino, "__version__")):
        # A folder of that name without the package, or one from before these names
        raise EngineError(
            f"got a package openvino without its core ({_place(openvino)}), expected that of latentrt[openvino]; "
            "install it anew with: pip install --force-reinstall 'latentrt[openvino]'"
        )
    return openvino


def _place(module: Any) -> str:
    return str(getattr(module, "__file__", None) or next(iter(module.__path__)))


def core() -> Any:
    """The process's core: what it began in a parent is not there in a forked child."""
    if os.getpid() not in _cores:
        _cores[os.getpid()] = openvino_module().Core()
    return _cores[os.getpid()]


def version() -> str:
    """The package's version.

    Raises:
        EngineError: it is not installed.
    """
    return str(openvino_module().__version__)


def devices() -> tuple[str, ...]:
    """The devices that OpenVINO finds here, as in ``CPU``, ``GPU`` or ``GPU.1``."""
    return tuple(core().available_devices)


def device_name(device: str) -> str:
    """What a device that is here is sold as.

    Raises:
        EngineError: its driver does not tell.
    """
    try:
        return str(core().get_property(device, "FULL_DEVICE_NAME"))
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot ask its device {device} for its name: {first_line(error)}; install its driver again"
        ) from error


def computes_bf16() -> bool:
    """Whether this CPU has arithmetic in bfloat16."""
    return _BF16 in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def this_machine() -> str:
    """The CPU's vector extensions, and whether it computes in bfloat16: by them graphs are made."""
    return f"{cpu_features()} {_BF16}" if computes_bf16() else cpu_features()


def settings(precision: Precision, threads: int | None = None) -> dict[str, Any]:
    """How a component of a precision is compiled and opened.

    What is in eight bits in the graph is computed in eight bits, and all else in bfloat16 where the CPU has it; a graph
    in fp16 is computed in float32, as ONNX Runtime does on a CPU.

    Args:
        precision: the component's.
        threads: of a call; None takes one per core.
    """
    rounded = precision in (Precision.BF16, Precision.INT8) and computes_bf16()
    chosen = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if rounded else "f32",
        "CACHE_ENCRYPTION_CALLBACKS": list(_LEGIBLE),
    }
    return chosen if threads is None else {**chosen, "INFERENCE_NUM_THREADS": threads}


def first_line(error: Exception) -> str:
    """What an error of OpenVINO says, without where in its sources that was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[0][:300]
