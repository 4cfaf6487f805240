"""latentrt: torch builds, NumPy runs. Stable Diffusion pictures without torch in the process.

``build`` turns a checkpoint into a bundle once; ``open`` gives a pipeline that draws from it. Importing this
package loads neither NumPy nor any backend; names are fetched when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, which cannot read the table below; "as" exports a name
    from latentrt import prepare as prepare
    from latentrt.building.build import build as build
    from latentrt.building.result import Build as Build
    from latentrt.engines.errors import BundleError as BundleError
    from latentrt.engines.errors import BusyError as BusyError
    from latentrt.engines.errors import CheckpointError as CheckpointError
    from latentrt.engines.errors import EngineError as EngineError
    from latentrt.engines.errors import LatentrtError as LatentrtError
    from latentrt.engines.errors import OutputError as OutputError
    from latentrt.engines.errors import ParityError as ParityError
    from latentrt.engines.errors import RequestError as RequestError
    from latentrt.opening import open as open
    from latentrt.opening import open_addon as open_addon
    from latentrt.opening import open_pipeline as open_pipeline
    from latentrt.opening import open_upscaler as open_upscaler
    from latentrt.runtime.addons.addon import Addon as Addon
    from latentrt.runtime.addons.control import Control as Control
    from latentrt.runtime.addons.image_prompt import ImagePrompt as ImagePrompt
    from latentrt.runtime.call.deep_cache import DeepCache as DeepCache
    from latentrt.runtime.call.detail.result import DetailResult as DetailResult
    from latentrt.runtime.call.guidance.freeu import FreeU as FreeU
    from latentrt.runtime.call.hires.hires import Hires as Hires
    from latentrt.runtime.call.keywords.options import Embeds as Embeds
    from latentrt.runtime.call.keywords.options import Options as Options
    from latentrt.runtime.call.keywords.video_options import VideoOptions as VideoOptions
    from latentrt.runtime.call.result import Result as Result
    from latentrt.runtime.call.tasks.video.result import VideoResult as VideoResult
    from latentrt.runtime.denoiser.combiners.apg import Apg as Apg
    from latentrt.runtime.denoiser.combiners.dynamic_thresholding import DynamicThresholding as DynamicThresholding
    from latentrt.runtime.pictures.detail.detector import Detector as Detector
    from latentrt.runtime.pictures.picture_file import read_parameters as read_parameters
    from latentrt.runtime.pipeline import Pipeline as Pipeline
    from latentrt.runtime.prompts.encoder import PromptTruncatedWarning as PromptTruncatedWarning
    from latentrt.runtime.prompts.region import Region as Region
    from latentrt.runtime.prompts.style import LongPrompt as LongPrompt
    from latentrt.runtime.prompts.style import PromptSyntax as PromptSyntax
    from latentrt.runtime.prompts.textual_inversion import (
        UnusedTextualInversionWarning as UnusedTextualInversionWarning,
    )
    from latentrt.runtime.sampling.run import Interrupt as Interrupt
    from latentrt.runtime.sampling.samplers import Sampler as Sampler
    from latentrt.runtime.upscaling.upscaler import Upscaler as Upscaler

_NAMES = {
    "latentrt": ("prepare",),  # a module of this package
    "latentrt.building.build": ("build",),
    "latentrt.building.result": ("Build",),
    "latentrt.engines.errors": (
        "BundleError",
        "BusyError",
        "CheckpointError",
        "EngineError",
        "LatentrtError",
        "OutputError",
        "ParityError",
        "RequestError",
    ),
    "latentrt.opening": ("open", "open_addon", "open_pipeline", "open_upscaler"),
    "latentrt.runtime.addons.addon": ("Addon",),
    "latentrt.runtime.addons.control": ("Control",),
    "latentrt.runtime.addons.image_prompt": ("ImagePrompt",),
    "latentrt.runtime.call.deep_cache": ("DeepCache",),
    "latentrt.runtime.call.guidance.freeu": ("FreeU",),
    "latentrt.runtime.call.hires.hires": ("Hires",),
    "latentrt.runtime.call.keywords.options": ("Embeds", "Options"),
    "latentrt.runtime.call.detail.result": ("DetailResult",),
    "latentrt.runtime.call.keywords.video_options": ("VideoOptions",),
    "latentrt.runtime.call.result": ("Result",),
    "latentrt.runtime.call.tasks.video.result": ("VideoResult",),
    "latentrt.runtime.denoiser.combiners.apg": ("Apg",),
    "latentrt.runtime.denoiser.combiners.dynamic_thresholding": ("DynamicThresholding",),
    "latentrt.runtime.pictures.detail.detector": ("Detector",),
    "latentrt.runtime.pictures.picture_file": ("read_parameters",),
    "latentrt.runtime.pipeline": ("Pipeline",),
    "latentrt.runtime.prompts.encoder": ("PromptTruncatedWarning",),
    "latentrt.runtime.prompts.region": ("Region",),
    "latentrt.runtime.prompts.style": ("LongPrompt", "PromptSyntax"),
    "latentrt.runtime.prompts.textual_inversion": ("UnusedTextualInversionWarning",),
    "latentrt.runtime.sampling.run": ("Interrupt",),
    "latentrt.runtime.sampling.samplers": ("Sampler",),
    "latentrt.runtime.upscaling.upscaler": ("Upscaler",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'latentrt' has no attribute {name!r}")
    if _HOMES[name] == __name__:
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
