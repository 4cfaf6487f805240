"""latentrt: torch builds, NumPy runs. Stable Diffusion pictures without torch in the process.

``build`` turns a checkpoint into a bundle once; ``open`` gives a pipeline that draws from it. Importing this
package loads neither NumPy nor any backend; names are fetched when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentrt.building import Build, build
    from latentrt.engines.errors import (
        BundleError,
        BusyError,
        CheckpointError,
        EngineError,
        LatentrtError,
        OutputError,
        ParityError,
        RequestError,
    )
    from latentrt.opening import open
    from latentrt.runtime.loop import Interrupt
    from latentrt.runtime.options import Options
    from latentrt.runtime.pipeline import Pipeline
    from latentrt.runtime.prompt import PromptTruncatedWarning
    from latentrt.runtime.prompt_style import LongPrompt, PromptSyntax
    from latentrt.runtime.result import Result
    from latentrt.runtime.samplers import Sampler

_HOMES = {
    "Build": "latentrt.building",
    "BundleError": "latentrt.engines.errors",
    "BusyError": "latentrt.engines.errors",
    "CheckpointError": "latentrt.engines.errors",
    "EngineError": "latentrt.engines.errors",
    "Interrupt": "latentrt.runtime.loop",
    "LatentrtError": "latentrt.engines.errors",
    "LongPrompt": "latentrt.runtime.prompt_style",
    "Options": "latentrt.runtime.options",
    "OutputError": "latentrt.engines.errors",
    "ParityError": "latentrt.engines.errors",
    "Pipeline": "latentrt.runtime.pipeline",
    "PromptSyntax": "latentrt.runtime.prompt_style",
    "PromptTruncatedWarning": "latentrt.runtime.prompt",
    "RequestError": "latentrt.engines.errors",
    "Result": "latentrt.runtime.result",
    "Sampler": "latentrt.runtime.samplers",
    "build": "latentrt.building",
    "open": "latentrt.opening",
}

__all__ = [
    "Build",
    "BundleError",
    "BusyError",
    "CheckpointError",
    "EngineError",
    "Interrupt",
    "LatentrtError",
    "LongPrompt",
    "Options",
    "OutputError",
    "ParityError",
    "Pipeline",
    "PromptSyntax",
    "PromptTruncatedWarning",
    "RequestError",
    "Result",
    "Sampler",
    "build",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'latentrt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
