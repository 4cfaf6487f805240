"""Opens a bundle as a pipeline on the best backend that this machine and the bundle have."""

from contextlib import suppress
from functools import partial
from pathlib import Path

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import OpenComponents
from latentrt.runtime.pipeline import Pipeline


def open(path: str | Path, *, backend: str = AUTO, threads: int | None = None) -> Pipeline:
    """Opens a bundle.

    Args:
        path: the bundle's folder; a relative one stays good when the working directory changes.
        backend: its name, or ``"auto"``: the first of tensorrt, tensorrt-rtx, ort-cuda and ort-cpu whose
            engines the bundle has and this machine can run. ``Pipeline.backend`` says which it is.
        threads: threads of a call on the CPU; None takes one per core.

    Raises:
        BundleError: no bundle, damaged, or of a newer latentrt.
        EngineError: no engine in it fits this machine.
        RequestError: an unknown backend or a number of threads below 1.
    """
    with suppress(OSError):  # the working directory is gone, and only an absolute path is good
        path = Path(path).absolute()
    bundle = open_bundle(path)
    components = OpenComponents(bundle, chosen_backend(bundle, backend), threads=threads)
    return Pipeline(bundle, components, reopen=partial(open, path, backend=backend, threads=threads))
