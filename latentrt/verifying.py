"""Whether a bundle is whole, and its engines agree with torch on this machine."""

from functools import partial
from pathlib import Path

from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.gate import measure
from latentrt.engines.bundle.parity import Parity
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import engines_in, identity_of, record_parity


def verify(
    root: Path, *, backend: str = AUTO, threads: int | None = None, progress: Progress | None = None
) -> dict[str, Parity]:
    """Hashes every file, then repeats torch's recorded runs on this machine's engines.

    Engines whose records had no figures, because they were compiled elsewhere, have them then.

    Args:
        root: the bundle's folder.
        backend: whose engines run; ``"auto"`` takes those that ``latentrt.open`` would take.
        threads: threads of a call on the CPU; None takes one per core.
        progress: receives the stages.

    Returns:
        The worst figures per component.

    Raises:
        BundleError: files are missing or altered.
        EngineError: no engine fits this machine.
        RequestError: an unknown backend or a number of threads below 1.
        ParityError: an engine misses its gate here.
    """
    timer = StageTimer(progress)
    bundle = open_bundle(root)
    with timer.stage("files"):
        bundle.check_all()
        engines = engines_in(root)
        for engine in engines:
            bundle.check_engine(engine)
    figures = {}
    with timer.stage("open"):
        chosen = chosen_backend(bundle, backend)
        compiler = COMPILERS[chosen]
        components = OpenComponents(bundle, chosen, threads=threads, hashed=[engine.key for engine in engines])
    try:
        for name in bundle.manifest.components:
            component = Component(root=bundle.root, manifest=bundle.manifest, name=name)
            chunks = 1 if compiler.profiles(component) else None
            key = identity_of(component, compiler, compiler.here()).key
            with timer.stage(name):
                engine_at = partial(components.engine, name)
                parity = measure(component, engine_at, bundle.probes(name), largest_chunks=chunks)
            for engine in engines:
                if engine.key == key:
                    record_parity(bundle.root, engine, parity)
            figures[name] = parity.parity
    finally:
        components.close()
    return figures
