"""An add-on's bundle, opened: its manifest at once, its engines as they are first needed."""

from functools import partial
from pathlib import Path

from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import AddonBundle, Bundle, open_addon
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind, AddonManifest
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.runtime.opened_bundle import BundlesByPath, OpenedBundle
from latentrt.runtime.serving.lanes.line import Line
from latentrt.runtime.serving.lanes.shared_engine import SharedEngine


class Addon(OpenedBundle[AddonBundle]):
    """A ControlNet, a T2I-Adapter or an IP-Adapter; ``latentrt.open_addon`` makes one."""

    called, opener = "the add-on", "latentrt.open_addon"

    @property
    def manifest(self) -> AddonManifest:
        """What its bundle says of it."""
        return self._bundle.manifest

    @property
    def kind(self) -> AddonKind:
        """What it is."""
        return self.manifest.addon

    @property
    def label(self) -> str:
        """What messages call it: its kind and its name."""
        return f"{self.kind.label.partition(' ')[2]} {self.name!r}"

    def check_profile(self, profile: Profile) -> None:
        """Refuses a size that its engines were not made for, where they take none but those of its bundle.

        Raises:
            RequestError: naming those that there are.
        """
        compiler = COMPILERS[self._backend]
        for name in self.manifest.components:
            part = Component(root=self._bundle.root, manifest=self.manifest, name=name)
            known = compiler.profiles(part)
            if known and profile not in known:
                raise RequestError(
                    f"got size {profile} for the {self.label}, whose engines for {self._backend} were built for "
                    f"{', '.join(map(str, known))}; ask for one of these, or build it again for the model with "
                    f"--profile {profile}"
                )


def addon_from_path(path: str | Path, *, backend: str = AUTO, threads: int | None = None) -> Addon:
    """Opens an add-on's bundle.

    Raises:
        BundleError: no bundle, a model's, damaged, or of a newer latentrt.
        EngineError: no engine in it fits this machine.
        RequestError: an unknown backend.
    """
    bundle = open_addon(path)
    reopen = partial(addon_from_path, path, backend=backend, threads=threads)
    return Addon(bundle, chosen_backend(bundle, backend), threads=threads, reopen=reopen)


class OpenAddons(BundlesByPath[Addon]):
    """The add-ons that a pipeline's calls named by their paths.

    Attributes:
        manifest: the model's.
        unet: the component that they are added to.
        backend: the pipeline's.
    """

    def __init__(self, bundle: Bundle, backend: Backend, *, threads: int | None, line: Line | None = None) -> None:
        """Opens none yet: those that come are opened on the pipeline's backend.

        Args:
            bundle: the model's.
            backend: what runs it.
            threads: of a call on the CPU; None takes one per core.
            line: where the pipeline's engines wait for each other; None: they do not.
        """
        super().__init__(partial(addon_from_path, backend=backend, threads=threads))
        self.manifest: BundleManifest = bundle.manifest
        self.unet = Component(root=bundle.root, manifest=bundle.manifest, name=UNET)
        self.backend = backend
        self._line = line

    def engine(self, addon: Addon, component: str, shapes: Shapes) -> Engine:
        """An add-on's component, whose runs wait with those of the pipeline.

        Raises:
            EngineError: as ``Addon.engine``.
        """
        engine = addon.engine(component, shapes)
        if self._line is None:
            return engine
        return SharedEngine(engine, self._line, (addon, component, shapes))

    def addon(self, net: str | Path | Addon) -> Addon:
        """The add-on of a path, or the one that was opened before.

        Raises:
            BundleError: no bundle, another sort's, damaged, or of a newer latentrt.
            EngineError: no engine in it fits this machine.
        """
        return net if isinstance(net, Addon) else self.opened(net)
