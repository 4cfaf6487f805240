"""Where a benchmark ran: processor, memory, system, versions."""

import os
import platform
from pathlib import Path

from latentrt.benchmarks.schema import Figure, Machine
from latentrt.engines.machine import cpu_features


def this_machine(background: Figure | None, idle_workers: Figure | None) -> Machine:
    """The machine, with the shares of its processors that others took during the runs."""
    import psutil

    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        features=cpu_features().split(" ", 2)[-1],
        background=background,
        idle_workers=idle_workers,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
