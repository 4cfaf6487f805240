"""An exporter that copies what an earlier build exported, so that a whole build takes a second and no torch."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest


def stub_exporter(
    bundle: Path, after: Callable[[Path], None] = lambda root: None, place: Callable[..., Any] = shutil.copyfile
) -> ModuleType:
    """A stand-in for ``latentrt.export.components`` that "exports" the portable files of ``bundle``.

    ``after`` sees the folder that was filled; ``place`` puts a file there.
    """

    def export_components(checkpoint: Any, root: Path, *_: Any) -> BundleManifest:
        manifest = open_bundle(bundle).manifest
        for name in manifest.files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            place(bundle / name, root / name)
        after(root)
        return manifest

    module = ModuleType("latentrt.export.components")
    module.export_components = export_components  # type: ignore[attr-defined]
    return module


def compare_nothing() -> None:
    """For a process of its own: tensors are not compared with torch's modules, whose import takes seconds."""
    from latentrt.export.sources.checkpoint import Checkpoint

    Checkpoint.check = lambda self: None  # type: ignore[method-assign]
    Checkpoint.unread = {}  # type: ignore[assignment]


def main() -> None:
    """``python stub_export.py SOURCE_BUNDLE ARGUMENTS…`` is ``latentrt ARGUMENTS…`` with the stub as exporter."""
    import latentrt.export.tracing.versions
    from latentrt.cli.app import main as command_line

    # equal to no real versions, so that a build never finds the bundle up to date
    latentrt.export.tracing.versions.exporter_versions = lambda: {"stub": "0"}
    compare_nothing()
    # links, so that a process whose files must stay small gets as far as the engines
    sys.modules["latentrt.export.components"] = stub_exporter(Path(sys.argv[1]), place=os.link)
    command_line(sys.argv[2:])


if __name__ == "__main__":
    main()
