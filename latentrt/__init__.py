"""latentrt: torch builds, NumPy runs. Stable Diffusion pictures without torch in the process.

``build`` turns a checkpoint into a bundle once; ``open`` gives a pipeline that draws from it. Importing this
package loads neither NumPy nor any backend; names are fetched when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentrt.building.build import Build, build
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
    from latentrt.runtime.call.options import Options
    from latentrt.runtime.call.result import Result
    from latentrt.runtime.pipeline import Pipeline
    from latentrt.runtime.prompts.encoder import PromptTruncatedWarning
    from latentrt.runtime.prompts.style import LongPrompt, PromptSyntax
    from latentrt.runtime.sampling.run import Interrupt
    from latentrt.runtime.sampling.samplers import Sampler

_HOMES = {
    "Build": "latentrt.building.build",
    "BundleError": "latentrt.engines.errors",
    "BusyError": "latentrt.engines.errors",
    "CheckpointError": "latentrt.engines.errors",
    "EngineError": "latentrt.engines.errors",
    "Interrupt": "latentrt.runtime.sampling.run",
    "LatentrtError": "latentrt.engines.errors",
    "LongPrompt": "latentrt.runtime.prompts.style",
    "Options": "latentrt.runtime.call.options",
    "OutputError": "latentrt.engines.errors",
    "ParityError": "latentrt.engines.errors",
    "Pipeline": "latentrt.runtime.pipeline",
    "PromptSyntax": "latentrt.runtime.prompts.style",
    "PromptTruncatedWarning": "latentrt.runtime.prompts.encoder",
    "RequestError": "latentrt.engines.errors",
    "Result": "latentrt.runtime.call.result",
    "Sampler": "latentrt.runtime.sampling.samplers",
    "build": "latentrt.building.build",
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
