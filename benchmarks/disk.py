"""What a contender draws from on disk, counted alike for all: what it opens, and nothing that merely lies beside it."""

from latentrt.benchmarks.roster import Entrant
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.precision import Backend
from latentrt.engines.store.store import engine_folder, identity_of

_UNUSED = "safety_checker"


def drawn_from_bytes(entrant: Entrant) -> int:
    """Bytes of a peer's model without its safety checker.

    Of a bundle those of the engines on the entrant's backend, and of the files that every backend reads: without
    probes, other engines, and the graphs that engines were made from.
    """
    if entrant.ours:
        return _of_bundle(entrant)
    files = (path for path in entrant.model.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if path.relative_to(entrant.model).parts[0] != _UNUSED)


def _of_bundle(entrant: Entrant) -> int:
    bundle = open_bundle(entrant.model)
    manifest, compiler = bundle.manifest, COMPILERS[Backend(entrant.options["backend"])]
    apart = {name for one in manifest.components.values() for name in (one.onnx, one.weights, one.probes)}
    size = sum(record.size for name, record in manifest.files.items() if name not in apart)
    for name in manifest.components:
        component = Component(root=bundle.root, manifest=manifest, name=name)
        folder = engine_folder(bundle.root, identity_of(component, compiler, compiler.here()))
        size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return size
