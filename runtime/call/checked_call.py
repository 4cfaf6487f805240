"""A call whose arguments were checked, before anything of it is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.initial_latents import InitialLatents, latents_from_noise
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.request import Request, request_from_options
from latentrt.runtime.call.workflow import Workflow
from latentrt.runtime.sampling.noise import Noise


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedCall:
    """What to draw, and what makes the latents that the run starts from: it may run the VAE encoder.

    It is drawn once, in whichever thread.
    """

    request: Request
    start: Callable[[Engines, Noise], InitialLatents]


def text_call(
    manifest: BundleManifest, prompt: str | Sequence[str] | None, options: Options, additions: Additions
) -> CheckedCall:
    """A call of the pipeline itself, checked.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    request = request_from_options(manifest, prompt, options, Workflow.TEXT, additions=additions)
    return CheckedCall(request=request, start=lambda _, noise: latents_from_noise(request, noise))
