"""T2I-Adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentrt.engines.bundle.kinds import FEATURES, ComponentKind
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind, ControlRecord
from latentrt.engines.bundle.unet.added_inputs import feature_planes
from latentrt.engines.bundle.unet.net_inputs import PICTURE
from latentrt.engines.bundle.unet.structure import Plane
from latentrt.engines.errors import CheckpointError
from latentrt.export.addons.addon import NetAddon
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.sources.addons.files import AddonFiles
from latentrt.export.sources.addons.t2i_layout import adapter_config, diffusers_names, feature_levels
from latentrt.export.sources.partial_model import decision
from latentrt.export.sources.parts import FilePart, FolderPart, Part
from latentrt.export.sources.single_file.ldm_layout import LayoutError

if TYPE_CHECKING:
    from latentrt.export.component_exports import ComponentExports


@dataclass(frozen=True, kw_only=True)
class T2IAdapter(NetAddon):
    """A T2I-Adapter."""

    @property
    def kind(self) -> AddonKind:
        """A T2I-Adapter."""
        return AddonKind.T2I_ADAPTER

    @property
    def control(self) -> ControlRecord:
        """Nothing that would be special."""
        return ControlRecord()

    @property
    def components(self) -> tuple[str, ...]:
        """One."""
        return (FEATURES,)

    def export(self, run: "ComponentExports") -> None:
        """Writes the one component."""
        import torch

        from latentrt.export.component_exports import release
        from latentrt.export.modules.seamless import seamless_module
        from latentrt.export.modules.t2i_adapter import FeaturesModule, features_graph
        from latentrt.export.tracing.probes import control_pictures, record_probe

        latents = self.base.bundle.manifest.latents
        with run.progress.stage(f"{FEATURES}: load"):
            module = seamless_module(FeaturesModule(self.part.module()), run.seamless)
        graph = features_graph(
            _planes(self.part.config, latents.height_factor),
            (latents.height_factor, latents.width_factor),
            self.part.config["downscale_factor"],
        )
        with run.reference(FEATURES):
            probes = [
                record_probe(
                    module, profile, {PICTURE: torch.from_numpy(control_pictures(profile))}, list(graph.outputs)
                )
                for profile in run.profiles
            ]
        run.component(FEATURES, ComponentKind.FEATURES, module, graph, probes)
        release(module)


def t2i_adapter(files: AddonFiles, base: BaseModel) -> T2IAdapter:
    """A T2I-Adapter of a folder or a file, compared with what it is for by config and headers.

    Raises:
        CheckpointError: it is incomplete, or for other models.
    """
    part, layout = _part(files)
    _check_fits(files, part, base)
    return T2IAdapter(
        name=files.name,
        revision=files.place.revision,
        source=files.source,
        base=base,
        told={
            "layout": decision(*layout),
            "adapter": decision(
                f"{part.config['adapter_type']}, {'grey' if part.config['in_channels'] == 1 else 'colour'}",
                "its config" if files.folder is not None else "its tensors' shapes",
            ),
        },
        part=part,
    )


def _part(files: AddonFiles) -> tuple[Part, tuple[str, str]]:
    if files.folder is not None and any(key.startswith("adapter.") for key in files.shapes):
        defaults = {
            "in_channels": 3,
            "channels": [320, 640, 1280, 1280],
            "num_res_blocks": 2,
            "downscale_factor": 8,
            "adapter_type": "full_adapter",
        }
        part: Part = FolderPart(
            name="t2i_adapter",
            recorded="t2i_adapter",
            config={**defaults, **files.config},
            folder=files.folder,
            weights=tuple(file.path for file in files.weights),
            variant=None,
        )
        return part, ("diffusers", "its config and its tensors' names")
    try:
        names = diffusers_names(files.shapes)
        config = adapter_config({name: files.shapes[key] for name, key in names.items()})
    except LayoutError as error:
        raise CheckpointError(
            f"{files.source!r} cannot be built: {error}, expected a T2I-Adapter; choose such an adapter"
        ) from error
    part = FilePart(
        name="t2i_adapter",
        recorded=files.file.path.name,
        config=config,
        file=files.file,
        keys=names,
        convert=lambda tensors, _: dict(tensors),
    )
    own = any(key.startswith("adapter.") for key in files.shapes)
    layout = "diffusers" if own else "T2I-Adapter's own"
    return part, (layout, "its tensors' names; its config follows from their shapes")


def _planes(config: Mapping[str, object], factor: int) -> tuple[Plane, ...]:
    """The planes of its features, the latents being smaller than pictures by a factor."""
    return tuple(Plane(channels=channels, level=level) for channels, level in feature_levels(config, factor))


def _check_fits(files: AddonFiles, part: Part, base: BaseModel) -> None:
    """Compares its features with what they are added to.

    Raises:
        CheckpointError: an adapter for other models, or settings that are none.
    """
    latents, expected = base.bundle.manifest.latents, feature_planes(base.structure)
    try:
        got = _planes(part.config, latents.height_factor)
    except LayoutError as error:
        raise CheckpointError(
            f"got {files.source!r}, a T2I-Adapter that does not fit {base.label}: {error}; choose one that was made "
            "for such a model"
        ) from error
    if got == expected[: len(got)] and latents.height_factor == latents.width_factor:
        return
    raise CheckpointError(
        f"got {files.source!r}, a T2I-Adapter with features of {_told(got)}, expected {_told(expected)} for "
        f"{base.label}; choose an adapter that was made for such a model"
    )


def _told(planes: tuple[Plane, ...]) -> str:
    return ", ".join(f"{plane.channels} channels at 1/{2**plane.level}" for plane in planes)
