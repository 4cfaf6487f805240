"""The machine's features that a compiled engine depends on."""

import os
import platform
import re
from pathlib import Path

# What ONNX Runtime's kernels and weight packing choose by; an engine packed for one set may be wrong on another.
_RELEVANT = (
    "AVX", "AVX2", "FMA3", "AVX512F", "AVX512_SKX", "AVX512_CLX", "AVX512_ICL", "AVX512_SPR",
    "ASIMD", "ASIMDDP", "ASIMDHP", "SVE",
)  # fmt: skip


def cpu_features() -> str:
    """Operating system, architecture and vector extensions, as in ``linux x86_64 AVX AVX2 FMA3``.

    The names are NumPy's: AVX512_CLX brings VNNI, AVX512_SPR brings AMX.
    """
    from numpy._core._multiarray_umath import __cpu_features__

    found = [name for name in _RELEVANT if __cpu_features__.get(name)]
    return " ".join([platform.system().lower(), platform.machine().lower(), *found])


def available_memory() -> int:
    """Bytes that a process can take now without the system swapping or ending one; all of the memory where the system
    does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**63


def gpu_machine(architecture: str, model: str | None = None) -> str:
    """Operating system, architecture, the GPU's model where it counts, and its architecture.

    As in ``linux x86_64 sm89``, or ``linux x86_64 NVIDIA-L40S sm89`` for what runs on that model alone.
    """
    named = [] if model is None else [re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-")]
    return " ".join([platform.system().lower(), platform.machine().lower(), *named, architecture])


def gpu_of_machine(machine: str) -> str:
    """The GPU's architecture in what ``gpu_machine`` wrote."""
    return machine.rpartition(" ")[2]
