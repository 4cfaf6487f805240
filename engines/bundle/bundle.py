"""A bundle on disk: found, read, and checked against its manifest."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN, check_files
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE, ComponentsManifest
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.manifests.manifest_file import check_seal, read_manifest_and_seal
from latentrt.engines.bundle.records.manifests.seal import Seal
from latentrt.engines.errors import BundleError
from latentrt.engines.files import recover_directory

if TYPE_CHECKING:
    from latentrt.engines.bundle.checks.probes import Probe
    from latentrt.engines.bundle.records.manifests.addon_manifest import AddonManifest
    from latentrt.engines.bundle.records.manifests.upscaler_manifest import UpscalerManifest
    from latentrt.engines.bundle.weights import ComponentWeights


class BundleSort(StrEnum):
    """What a bundle is of."""

    MODEL = "model"
    ADDON = "addon"
    UPSCALER = "upscaler"

    @property
    def label(self) -> str:
        """What sentences call it."""
        return {"model": "a model", "addon": "a net or an adapter", "upscaler": "an upscaler"}[self]


@dataclass(frozen=True, kw_only=True)
class BundleFolder:
    """A bundle's folder and its manifest, whatever it is of."""

    root: Path
    manifest: ComponentsManifest

    def path(self, name: str) -> Path:
        """The file that the manifest calls ``name``, checked against size and, for small files, digest.

        Raises:
            BundleError: missing, cut short or altered.
        """
        check_files(self.root, {name: self.manifest.files[name]}, largest_hashed=HASHED_AT_OPEN)
        return self.root / name

    def check_all(self) -> None:
        """Hashes every portable file.

        Raises:
            BundleError: naming every file that is missing or altered.
        """
        check_files(self.root, self.manifest.files, largest_hashed=None)

    def probes(self, component: str) -> "list[Probe]":
        """The component's recorded runs."""
        from latentrt.engines.bundle.checks.probes import read_probes

        return read_probes(self.path(self.manifest.components[component].probes))

    def weights(self, component: str) -> "ComponentWeights":
        """The component's weights by their names in the checkpoint.

        Raises:
            BundleError: a file is missing, cut short or altered.
        """
        from latentrt.engines.bundle.records.named_weights import read_named_weights
        from latentrt.engines.bundle.weights import ComponentWeights  # drawing needs none of it

        record = self.manifest.components[component]
        named = read_named_weights(self.path(record.named_weights))
        files = {place.file for row in named.weights.values() for place in row.places}
        files |= {row.file for row in named.rounded.values()} | ({record.remainders} if record.remainders else set())
        paths = {name: self.path(name) for name in sorted(files & self.manifest.files.keys())}
        return ComponentWeights(component, named, paths, record.remainders)


@dataclass(frozen=True, kw_only=True)
class Bundle(BundleFolder):
    """A model's bundle."""

    manifest: BundleManifest


@dataclass(frozen=True, kw_only=True)
class AddonBundle(BundleFolder):
    """The bundle of a control net, a T2I-Adapter or an adapter for image prompts."""

    manifest: "AddonManifest"


@dataclass(frozen=True, kw_only=True)
class UpscalerBundle(BundleFolder):
    """The bundle of an upscaler."""

    manifest: "UpscalerManifest"


AnyBundle = Bundle | AddonBundle | UpscalerBundle
"""A bundle of any sort."""


def open_bundle(root: str | Path) -> Bundle:
    """Reads the manifest of a model's bundle; files are checked as they are used.

    Raises:
        BundleError: no bundle, another sort's, damaged, edited, or written by a newer latentrt.
    """
    bundle, seal = bundle_and_seal(root)
    check_seal(seal, bundle.root / BUNDLE_FILE)
    return bundle


def open_addon(root: str | Path) -> AddonBundle:
    """Reads the manifest of an add-on's bundle; files are checked as they are used.

    Raises:
        BundleError: no bundle, another sort's, damaged, edited, or written by a newer latentrt.
    """
    addon, seal = addon_and_seal(root)
    check_seal(seal, addon.root / BUNDLE_FILE)
    return addon


def open_upscaler(root: str | Path) -> UpscalerBundle:
    """Reads the manifest of an upscaler's bundle; files are checked as they are used.

    Raises:
        BundleError: no bundle, another sort's, damaged, edited, or written by a newer latentrt.
    """
    upscaler, seal = upscaler_and_seal(root)
    check_seal(seal, upscaler.root / BUNDLE_FILE)
    return upscaler


def sort_of(root: str | Path) -> BundleSort | None:
    """What the bundle in a folder is of; None for what is no bundle, or cannot be read."""
    content = _content(Path(root))
    if not content:
        return None
    sorts = (sort for sort in (BundleSort.ADDON, BundleSort.UPSCALER) if content.get(sort) is not None)
    return next(sorts, BundleSort.MODEL)


def bundle_and_seal(root: str | Path) -> tuple[Bundle, Seal]:
    """A model's bundle, for callers who look at one whose seal is broken, too.

    Raises:
        BundleError: no bundle, another sort's, damaged, or written by a newer latentrt.
    """
    root = _folder(root)
    try:
        manifest, seal = read_manifest_and_seal(root / BUNDLE_FILE, BundleManifest)
    except BundleError:
        if sort_of(root) is BundleSort.UPSCALER:
            raise _upscaler_refusal(root, "that of a model") from None
        from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind

        told = _content(root).get("addon")
        if told not in list(AddonKind):
            raise
        kind = AddonKind(told)
        prompts = kind is AddonKind.IMAGE_PROMPT
        use = "image_prompt=[latentrt.ImagePrompt" if prompts else "control=[latentrt.Control"
        option = "--image-prompt" if prompts else "--control"
        raise BundleError(
            f"got {str(root)!r}, which is the bundle of {kind.label}, expected that of a model; open the model's, and "
            f"give this one in its calls: {use}({root.name!r}, picture)], or as {option} {root.name}:PICTURE"
        ) from None
    faults = _conditioning_faults(manifest)
    if faults:
        raise BundleError(f"{str(root)!r} was altered: it {', '.join(faults)}; build the bundle again")
    return Bundle(root=root, manifest=manifest), seal


def addon_and_seal(root: str | Path) -> tuple[AddonBundle, Seal]:
    """An add-on's bundle, for callers who look at one whose seal is broken, too.

    Raises:
        BundleError: no bundle, another sort's, damaged, or written by a newer latentrt.
    """
    from latentrt.engines.bundle.records.manifests.addon_manifest import AddonManifest  # plain drawing needs none of it

    root = _folder(root)
    sort = sort_of(root)
    if sort is BundleSort.UPSCALER:
        raise _upscaler_refusal(root, "that of a ControlNet, a T2I-Adapter or an IP-Adapter")
    if sort is BundleSort.MODEL:
        raise BundleError(
            f"got {str(root)!r}, which is the bundle of a model, expected that of a ControlNet, a T2I-Adapter or an "
            "IP-Adapter; build one with latentrt build NET --for BUNDLE"
        )
    manifest, seal = read_manifest_and_seal(root / BUNDLE_FILE, AddonManifest)
    return AddonBundle(root=root, manifest=manifest), seal


def upscaler_and_seal(root: str | Path) -> tuple[UpscalerBundle, Seal]:
    """An upscaler's bundle, for callers who look at one whose seal is broken, too.

    Raises:
        BundleError: no bundle, another sort's, damaged, or written by a newer latentrt.
    """
    from latentrt.engines.bundle.records.manifests.upscaler_manifest import UpscalerManifest  # drawing needs none of it

    root = _folder(root)
    sort = sort_of(root)
    if sort in (BundleSort.MODEL, BundleSort.ADDON):
        raise BundleError(
            f"got {str(root)!r}, which is the bundle of {sort.label}, expected that of an upscaler; build one with "
            "latentrt build UPSCALER -o DIR"
        )
    manifest, seal = read_manifest_and_seal(root / BUNDLE_FILE, UpscalerManifest)
    return UpscalerBundle(root=root, manifest=manifest), seal


def folder_and_seal(root: str | Path) -> tuple[AnyBundle, Seal]:
    """A bundle of any sort, for callers who look at one whose seal is broken, too.

    Raises:
        BundleError: no bundle, damaged, or written by a newer latentrt.
    """
    sort = sort_of(root)
    if sort is BundleSort.ADDON:
        return addon_and_seal(root)
    return upscaler_and_seal(root) if sort is BundleSort.UPSCALER else bundle_and_seal(root)


def _upscaler_refusal(root: Path, expected: str) -> BundleError:
    return BundleError(
        f"got {str(root)!r}, which is the bundle of an upscaler, expected {expected}; enlarge pictures with it: "
        f"latentrt upscale {root.name} PICTURE -o OUT, or latentrt.open_upscaler"
    )


def _content(root: Path) -> dict[str, Any]:
    """What ``bundle.json`` holds, unchecked; nothing where it cannot be read."""
    try:
        content = json.loads((root / BUNDLE_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _folder(root: str | Path) -> Path:
    root = Path(root)
    recover_directory(root)
    if not root.is_dir():
        raise BundleError(f"got {str(root)!r}, expected the folder of a bundle; make one with latentrt build")
    return root


def _conditioning_faults(manifest: BundleManifest) -> list[str]:
    """What of the components, and of what the conditioning names, is not there or does not go together."""
    encoders = manifest.conditioning.text_encoders
    absent = set(manifest.needed) - manifest.components.keys()
    absent |= {encoder.tokenizer for encoder in encoders} - manifest.tokenizers.keys()
    absent |= {f"{e.component}'s token embeddings" for e in encoders if e.component not in manifest.token_embeddings}
    if absent:
        return [f"lacks {', '.join(sorted(absent))}"]
    faults = []
    if len({manifest.tokenizers[encoder.tokenizer].length for encoder in encoders}) > 1:
        faults.append("has prompts of different lengths")
    unet = manifest.components[UNET]
    pooled = [e.component for e in encoders if e.pooled]
    lacking = [name for name in pooled if "text_embeds" not in manifest.components[name].outputs]
    if lacking or len(pooled) != ("text_embeds" in unet.inputs):
        faults.append(f"has a pooled vector of {', '.join(pooled) or 'no text encoder'} for {', '.join(unet.inputs)}")
    if (manifest.conditioning.time_ids is not TimeIds.NONE) != ("time_ids" in unet.inputs):
        faults.append(f"has time ids {str(manifest.conditioning.time_ids)!r} for {', '.join(unet.inputs)}")
    return faults
