"""An add-on's components, traced to ONNX, run once in torch, and described by a manifest."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonManifest
from latentrt.engines.bundle.records.manifests.components_manifest import SourceRecord
from latentrt.engines.bundle.records.manifests.manifest_file import SCHEMA
from latentrt.engines.precision import Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile
from latentrt.export.addons.addon import Addon
from latentrt.export.component_exports import ComponentExports
from latentrt.export.quiet import quiet
from latentrt.export.tracing.versions import exporter_versions


def export_addon(
    addon: Addon,
    root: Path,
    precision: Precision,
    profiles: Sequence[Profile],
    progress: Progress,
    kept_fp32: Sequence[str] = (),
) -> AddonManifest:
    """Writes every component's ONNX and probes below ``root``.

    Returns:
        The manifest, with parity figures still to be measured.

    Raises:
        CheckpointError: weights that torch cannot load.
        ParityError: activations that fp16 cannot hold.
    """
    base = addon.base.bundle.manifest
    run = ComponentExports(
        family=base.family,
        guided=addon.base.unet.batch_per_picture > 1,
        latent_channels=base.latents.channels,
        root=root,
        precision=precision,
        profiles=profiles,
        progress=progress,
        seamless=base.seamless,
        kept_fp32=kept_fp32,
    )
    with quiet():
        addon.export(run)
    with progress.stage("digests"):
        source = SourceRecord(
            name=addon.name,
            revision=addon.revision,
            decisions=addon.decisions,
            unread=dict(addon.unread),
            files=dict(addon.files),
        )
        files = record_files(root, [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()])
    return AddonManifest(
        schema_version=SCHEMA,
        latentrt=version("latentrt"),
        exporter=exporter_versions(),
        family=base.family,
        source=source,
        precision=precision,
        kept_fp32=tuple(kept_fp32),
        components=run.records,
        profiles=tuple(profiles),
        pixel_multiple=base.pixel_multiple,
        latents=base.latents,
        addon=addon.kind,
        tokens_per_chunk=base.prompt_length,
        control=addon.control,
        image_prompt=addon.image_prompt,
        files=files,
    )
