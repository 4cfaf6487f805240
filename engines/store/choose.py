"""The best backend that a bundle has engines for and this machine can run."""

from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.usual_backend import usual_backend_of
from latentrt.engines.choices import choice
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend
from latentrt.engines.store.store import compiled_folder, engines_in

AUTO = "auto"
_SPEED_FILE = "speed.json"


def best_backend(bundle: BundleFolder) -> Backend:
    """What a build for speed kept, if it was for this machine; or else the first backend in the order of preference.

    Either one whose engines the bundle has and this machine can run.

    Raises:
        EngineError: there is none, with the reason of each that the bundle has.
        BundleError: the record of a build for speed is damaged or was edited.
    """
    fastest = fastest_backend(bundle)
    if fastest is not None:
        return fastest
    present = {engine.backend for engine in engines_in(bundle.root)}
    reasons = []
    for backend in COMPILERS:
        if backend not in present:
            continue
        try:
            _check_engines(bundle, backend)
        except EngineError as error:
            reasons.append(str(error))
            continue
        return backend
    if reasons:
        command = f"latentrt build {bundle.root}"
        told = f"no engine of {str(bundle.root)!r} runs here: {'; '.join(reasons)}"
        raise EngineError(told if command in told else f"{told}; make one for this machine with: {command}")
    # Whose refusal says how to make engines
    return usual_backend_of(bundle.manifest)


def fastest_backend(bundle: BundleFolder) -> Backend | None:
    """What a build for speed kept; None if there was none, it was for another machine, or its engines do not run here.

    Raises:
        BundleError: the record of a build for speed is damaged or was edited.
    """
    if not (bundle.root / _SPEED_FILE).exists():  # so that other bundles open as fast as ever
        return None
    from latentrt.engines.store.speed import read_speed

    record = read_speed(bundle.root)
    try:
        if record is None or COMPILERS[record.backend].here() != record.machine:
            return None
        _check_engines(bundle, record.backend)
    except EngineError:
        return None
    return record.backend


def _check_engines(bundle: BundleFolder, backend: Backend) -> None:
    """Refuses a backend that has no engine of some component for this machine.

    Raises:
        EngineError: naming the component.
    """
    for name in bundle.manifest.components:
        compiled_folder(Component(root=bundle.root, manifest=bundle.manifest, name=name), backend)


def chosen_backend(bundle: BundleFolder, name: str) -> Backend:
    """The backend of a name; of ``"auto"`` the best one.

    Raises:
        RequestError: an unknown name.
        EngineError: the bundle has no engine that runs here.
    """
    return best_backend(bundle) if name == AUTO else choice(Backend, name, "backend", besides=(AUTO,))
