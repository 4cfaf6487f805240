"""The backend that a bundle was made for, where nobody names one, so that no advice leads to a refusal."""

from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.precision import Backend, usual_backend

_ON_CPUS = (Backend.ORT_CPU, Backend.OPENVINO)


def usual_backend_of(manifest: ComponentsManifest) -> Backend:
    """On the CPU, and exact, wherever there is such a one; of a bundle in eight bits what its recipe is for."""
    quantizations = [record.quantization for record in manifest.components.values()]
    recipes = {quantization.recipe for quantization in quantizations if quantization is not None}
    if any(recipe.symmetric for recipe in recipes):
        return Backend.TENSORRT_RTX
    return Backend.OPENVINO if Recipe.U8S8_INPUTS in recipes else usual_backend(manifest.precision)


def or_on_cpu(manifest: ComponentsManifest) -> str:
    """The end of a remedy: the backend that takes what one of fixed shapes refuses; empty where no CPU has the kernels.

    Those of CPUs take every size, prompts of any length and any number of image prompts.
    """
    backend = usual_backend_of(manifest)
    return f", or open the bundle with the backend {backend}" if backend in _ON_CPUS else ""


def or_ort_cpu(manifest: ComponentsManifest, remedy: str) -> str:
    """The end of another: to do that with ``ort-cpu``; empty where that backend would refuse the bundle."""
    return f", or {remedy} {Backend.ORT_CPU}" if usual_backend_of(manifest) is Backend.ORT_CPU else ""
