"""A bundle on disk: found, read, and checked against its manifest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.conditioning import TimeIds
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.manifest import (
    BUNDLE_FILE,
    BundleManifest,
    EngineManifest,
    FileRecord,
    read_manifest,
)
from latentrt.engines.bundle.parity import EXACT, Parity, parity_of
from latentrt.engines.bundle.weights import ComponentWeights, read_named_weights
from latentrt.engines.errors import BundleError
from latentrt.engines.files import recover_directory, sha256_of_file
from latentrt.engines.shapes import Profile, profile_from_text
from latentrt.engines.spec import Array

# Files up to this size are hashed whenever they are opened (tens of milliseconds); `verify` hashes them all.
HASHED_AT_OPEN = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One recorded run of a component in torch: the inputs, the outputs, and the profile they belong to."""

    profile: Profile
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def parity(self, outputs: Mapping[str, Array]) -> Parity:
        """The worst figures over the outputs."""
        worst = EXACT
        for name, reference in self.outputs.items():
            worst = worst.worse(parity_of(outputs[name], reference))
        return worst


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle's folder and its manifest."""

    root: Path
    manifest: BundleManifest

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

    def check_engine(self, engine: EngineManifest) -> None:
        """Hashes every file of one of the bundle's engines.

        Raises:
            BundleError: naming every file that is missing or altered.
        """
        check_files(self.root / "engines" / engine.key, engine.files, largest_hashed=None)

    def probes(self, component: str) -> list[Probe]:
        """The component's recorded torch runs."""
        return read_probes(self.path(self.manifest.components[component].probes))

    def weights(self, component: str) -> ComponentWeights:
        """The component's weights by their names in the checkpoint.

        Raises:
            BundleError: a file is missing, cut short or altered.
        """
        named = read_named_weights(self.path(self.manifest.components[component].named_weights))
        files = {place.file for row in named.weights.values() for place in row.places} & self.manifest.files.keys()
        return ComponentWeights(component, named, {name: self.path(name) for name in sorted(files)})


def open_bundle(root: str | Path) -> Bundle:
    """Reads a bundle's manifest; files are checked as they are used.

    Raises:
        BundleError: no bundle, damaged, or written by a newer latentrt.
    """
    root = Path(root)
    recover_directory(root)
    if not root.is_dir():
        raise BundleError(f"got {str(root)!r}, expected the folder of a bundle; make one with latentrt build")
    manifest = read_manifest(root / BUNDLE_FILE, BundleManifest)
    faults = _conditioning_faults(manifest)
    if faults:
        raise BundleError(f"{str(root)!r} was altered: it {', '.join(faults)}; build the bundle again")
    return Bundle(root=root, manifest=manifest)


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


def record_file(path: Path) -> FileRecord:
    """Size and digest of one file."""
    return FileRecord(size=path.stat().st_size, sha256=sha256_of_file(path))


def record_files(root: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Sizes and digests of files below ``root``, in the order of their names."""
    return {name: record_file(root / name) for name in sorted(names)}


def check_files(root: Path, files: Mapping[str, FileRecord], *, largest_hashed: int | None) -> None:
    """Compares files with their records: size always, digest up to ``largest_hashed`` bytes (None: all).

    Raises:
        BundleError: naming every file that differs and how.
    """
    faults = []
    for name, record in files.items():
        path = root / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            faults.append(f"{name} is missing")
        elif size != record.size:
            faults.append(f"{name} has {size} bytes instead of {record.size}")
        elif (largest_hashed is None or size <= largest_hashed) and sha256_of_file(path) != record.sha256:
            faults.append(f"{name} was altered")
    if faults:
        raise BundleError(f"{str(root)!r} is damaged: {'; '.join(faults)}; build the bundle again")


def write_probes(path: Path, probes: Iterable[Probe]) -> None:
    """Writes torch runs as safetensors, keyed ``<case>/<profile>/<inputs|outputs>/<tensor>``."""
    from safetensors.numpy import save

    tensors = {}
    for case, probe in enumerate(probes):
        for side, arrays in (("inputs", probe.inputs), ("outputs", probe.outputs)):
            for name, array in arrays.items():
                tensors[f"{case}/{probe.profile}/{side}/{name}"] = np.ascontiguousarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors))


def read_probes(path: Path) -> list[Probe]:
    """Reads what ``write_probes`` wrote, in order."""
    from safetensors.numpy import load_file

    cases: dict[int, tuple[Profile, dict[str, Array], dict[str, Array]]] = {}
    for key, array in load_file(path).items():
        case, profile, side, name = key.split("/", 3)
        _, inputs, outputs = cases.setdefault(int(case), (profile_from_text(profile), {}, {}))
        (inputs if side == "inputs" else outputs)[name] = array
    return [
        Probe(profile=profile, inputs=inputs, outputs=outputs)
        for _, (profile, inputs, outputs) in sorted(cases.items())
    ]
