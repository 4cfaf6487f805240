"""The machine's features that a compiled engine depends on."""

import os
import platform
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

# What ONNX Runtime's kernels and weight packing choose by; an engine packed for one set may be wrong on another.
_RELEVANT = (
    "AVX", "AVX2", "FMA3", "AVX512F", "AVX512_SKX", "AVX512_CLX", "AVX512_ICL", "AVX512_SPR",
    "ASIMD", "ASIMDDP", "ASIMDHP", "SVE",
)  # fmt: skip
_FIRST_WITH_FP8 = 89  # sm89, which is Ada


def cpu_features() -> str:
    """Operating system, architecture and vector extensions, as in ``linux x86_64 AVX AVX2 FMA3``.

    The names are NumPy's: AVX512_CLX brings VNNI, AVX512_SPR brings AMX.
    """
    from numpy._core._multiarray_umath import __cpu_features__

    found = [name for name in _RELEVANT if __cpu_features__.get(name)]
    return " ".join([platform.system().lower(), platform.machine().lower(), *found])


def cores() -> list[frozenset[int]]:
    """The processors that the process may use, by physical core; of one each where the system does not tell which
    belong together, and no core at all where it does not tell processors (elsewhere than on Linux)."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return []
    found: dict[str, set[int]] = {}
    for number in sorted(allowed):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text("ascii")
        except OSError:
            siblings = str(number)
        found.setdefault(siblings, set()).add(number)
    return [frozenset(core) for core in found.values()]


def physical_cores() -> int:
    """How many cores the process may use."""
    return len(cores()) or os.cpu_count() or 1


def keep_to(processors: Collection[int]) -> None:
    """Keeps the calling thread on these processors; with none, or where the system refuses, it may run on any."""
    if processors:
        with suppress(OSError):
            os.sched_setaffinity(0, processors)


def available_memory() -> int:
    """Bytes that a process can take now without the system swapping or ending one, within its container's limits; all
    of the memory where the system does not tell."""
    return min(_system_memory(), memory_within_cgroup(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))


def memory_within_cgroup(root: Path, membership: Path) -> int:
    """Bytes that the process's control group and those around it leave it (version 2); 2**63 without a limit.

    Args:
        root: where the groups are mounted.
        membership: the file that names the process's group, on the line that begins with ``0::``.
    """
    free = 2**63
    try:
        lines = membership.read_text("utf-8").splitlines()
        group = root / next(line[3:] for line in lines if line.startswith("0::")).strip("/")
    except (OSError, StopIteration, ValueError):
        return free
    for folder in (group, *group.parents):
        try:
            limit = int((folder / "memory.max").read_text("ascii"))  # "max" where there is none
            used = int((folder / "memory.current").read_text("ascii"))
            statistics = (folder / "memory.stat").read_text("ascii").split()
            cached = int(statistics[statistics.index("inactive_file") + 1])  # files' pages, given up first
        except (OSError, ValueError, IndexError):
            cached, limit, used = 0, free, 0
        free = min(free, max(0, limit - used + cached))
        if folder == root:
            break
    return free


def _system_memory() -> int:
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


def computes_fp8(gpu: str) -> bool:
    """Whether a GPU of an architecture, such as ``sm89``, multiplies numbers of fp8: Ada and what came later."""
    number = gpu.removeprefix("sm")
    return number.isdigit() and int(number) >= _FIRST_WITH_FP8
