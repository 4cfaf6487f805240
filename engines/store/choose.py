"""The best backend that a bundle has engines for and this machine can run."""

from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.component import Component
from latentrt.engines.choices import choice
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.store.store import compiled_folder, engines_in

AUTO = "auto"


def best_backend(bundle: BundleFolder) -> Backend:
    """The first backend in the order of preference whose engines the bundle has and this machine can run.

    Raises:
        EngineError: there is none, with the reason of each that the bundle has.
    """
    present = {engine.backend for engine in engines_in(bundle.root)}
    reasons = []
    for backend in COMPILERS:
        if backend not in present:
            continue
        try:
            for name in bundle.manifest.components:
                compiled_folder(Component(root=bundle.root, manifest=bundle.manifest, name=name), backend)
        except EngineError as error:
            reasons.append(str(error))
            continue
        return backend
    if reasons:
        raise EngineError(
            f"no engine of {str(bundle.root)!r} runs here: {'; '.join(reasons)}; make one for this machine with: "
            f"latentrt build {bundle.root}"
        )
    # Whose refusal says how to make engines
    return Backend.OPENVINO if bundle.manifest.precision is Precision.BF16 else Backend.ORT_CPU


def chosen_backend(bundle: BundleFolder, name: str) -> Backend:
    """The backend of a name; of ``"auto"`` the best one.

    Raises:
        RequestError: an unknown name.
        EngineError: the bundle has no engine that runs here.
    """
    return best_backend(bundle) if name == AUTO else choice(Backend, name, "backend", besides=(AUTO,))
