"""What a picture's metadata call the model."""

from dataclasses import dataclass

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest

_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_REPLACED_VAE = "replaced/vae/"  # before the name of what --vae gave
_DIGITS = 10  # of a file's SHA-256 in A1111's short hash of a model or a VAE


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A model's name, and A1111's short hash of its file; the same of an autoencoder in place of its own.

    A hash is None where there are several files: none of them has the hash that one could make of all, and who looks
    for it finds nothing. So it is of a model with LoRAs fused into it, whose name tells them: ``emoji + style 0.8``.
    """

    name: str
    short_hash: str | None
    vae: str | None
    vae_hash: str | None


def model_name_from_manifest(manifest: BundleManifest) -> ModelName:
    """From the files that the bundle was built of."""
    digests = {name: file.sha256 for name, file in manifest.source.files.items() if name.lower().endswith(_WEIGHTS)}
    replaced = {name: digests.pop(name) for name in list(digests) if name.startswith(_REPLACED_VAE)}
    single = next(iter(digests)) if len(digests) == 1 else "/"
    vae = next(iter(replaced)) if len(replaced) == 1 else None
    return ModelName(
        name=" + ".join((manifest.source.name, *map(str, manifest.loras))),
        short_hash=None if "/" in single or manifest.loras else digests[single][:_DIGITS],
        vae=None if vae is None else vae.removeprefix(_REPLACED_VAE),
        vae_hash=None if vae is None else replaced[vae][:_DIGITS],
    )
