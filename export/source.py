"""Where a model comes from: a diffusers folder, a hub id or the embedded model, checked before torch is asked."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from latentrt.engines.errors import CheckpointError
from latentrt.export.checkpoint import WEIGHTS, Checkpoint, weight_files
from latentrt.export.families import family_of
from latentrt.models import EMBEDDED, EMOJI

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONFIGS = {
    "text_encoder": "config.json",
    "unet": "config.json",
    "vae": "config.json",
    "scheduler": "scheduler_config.json",
}
# What a build reads from the configs and cannot guess, with the types it can have
_KEYS: dict[str, dict[str, type]] = {
    "text_encoder": {"max_position_embeddings": int, "hidden_size": int},
    "unet": {"in_channels": int, "out_channels": int, "block_out_channels": list, "cross_attention_dim": int},
    "vae": {"latent_channels": int, "block_out_channels": list},
}
# Pairs that must be equal for the parts to fit together
_EQUAL = (
    (("text_encoder", "hidden_size"), ("unet", "cross_attention_dim")),
    (("vae", "latent_channels"), ("unet", "out_channels")),
)


def checkpoint_from_model(model: str) -> Checkpoint:
    """Finds and checks a model.

    Args:
        model: a diffusers folder, ``emoji`` for the embedded model (``./emoji`` for a folder of that name), or a
            hub id ``owner/name[@revision]``.

    Raises:
        CheckpointError: missing, incomplete or of no known family; every fault found is named.
    """
    if model == EMBEDDED:
        return _from_folder(EMOJI, name=EMBEDDED, revision=None)
    if Path(model).exists():
        return _from_folder(Path(model), name=Path(model).resolve().name, revision=None)
    identifier, _, revision = model.partition("@")
    if _HUB_ID.fullmatch(identifier):
        folder = _from_hub(identifier, revision or None)
        return _from_folder(folder, name=identifier, revision=folder.name)  # a snapshot is named by its commit
    raise CheckpointError(
        f"got model {model!r}, expected a diffusers folder, a hub id such as owner/name, or {EMBEDDED}; check the path"
    )


def _from_hub(identifier: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    patterns = ["model_index.json", "scheduler/*", "tokenizer/*", "*/config.json"]
    for part, name in WEIGHTS.items():
        stem = name.removesuffix(".safetensors")
        patterns += [f"{part}/{name}", f"{part}/{name}.index.json", f"{part}/{stem}-*-of-*.safetensors"]
    try:
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"the hub refuses {identifier!r} without its licence accepted; accept it and log in with hf auth login"
        ) from error
    except Exception as error:  # the client lets through errors of its own, of httpx, of the system, ValueErrors
        raise CheckpointError(
            f"got model {identifier!r}, which is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}); check the name and the connection, or give a local folder"
        ) from error


def _from_folder(folder: Path, *, name: str, revision: str | None) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"got the file {str(folder)!r}, expected a diffusers folder; give the folder's path")
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{str(folder)!r} has no model_index.json, expected a diffusers folder; give the folder that holds it"
        )
    index = _json(folder / "model_index.json")
    configs = {part: _json(folder / part / file) for part, file in _CONFIGS.items() if (folder / part / file).is_file()}
    # The wrong kind of model explains missing parts better than a list of them
    family = family_of(index, configs.get("unet", {}), str(folder))
    faults = [f"{part}/{file} is missing" for part, file in _CONFIGS.items() if part not in configs]
    for part in WEIGHTS:
        faults += _weight_faults(folder, part)
    tokenizer = folder / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file() and not (
        (tokenizer / "vocab.json").is_file() and (tokenizer / "merges.txt").is_file()
    ):
        faults.append("tokenizer/tokenizer.json (or vocab.json with merges.txt) is missing")
    faults += _config_faults(configs)
    if faults:
        raise CheckpointError(
            f"{str(folder)!r} cannot be built: {'; '.join(faults)}; download the model again, or mend these"
        )
    checkpoint = Checkpoint(name=name, revision=revision, folder=folder, family=family, **configs)
    checkpoint.schedule()  # refuses now what would otherwise stop the build half way
    return checkpoint


def _config_faults(configs: dict[str, dict[str, Any]]) -> list[str]:
    faults = []
    for part, keys in _KEYS.items():
        config = configs.get(part, {})
        for key, kind in keys.items() if part in configs else ():
            if config.get(key) is None:
                faults.append(f"{part}/config.json lacks {key}")
            elif not isinstance(config[key], kind):
                faults.append(f"{part}/config.json has {key} {config[key]!r}, expected {kind.__name__}")
    for (part, key), (other, other_key) in _EQUAL:
        one, two = configs.get(part, {}).get(key), configs.get(other, {}).get(other_key)
        if isinstance(one, int) and isinstance(two, int) and one != two:
            faults.append(f"{part} has {key} {one} but {other} has {other_key} {two}")
    taken, latents = configs.get("unet", {}).get("in_channels"), configs.get("vae", {}).get("latent_channels")
    if isinstance(taken, int) and isinstance(latents, int) and taken not in (latents, 2 * latents + 1):
        faults.append(
            f"unet has in_channels {taken} but vae has latent_channels {latents}, expected {latents}, or "
            f"{2 * latents + 1} with a mask"
        )
    vae = configs.get("vae", {}).get("_class_name", "AutoencoderKL")
    if vae != "AutoencoderKL":
        faults.append(f"the VAE is a {vae}, expected AutoencoderKL")
    return faults


def _weight_faults(folder: Path, part: str) -> list[str]:
    """Faults of a part's weights, from their names and headers alone."""
    files = weight_files(folder, part)
    if not files:
        variants = sorted((folder / part).glob("*.safetensors")) + sorted((folder / part).glob("*.bin"))
        beside = f" (only {', '.join(path.name for path in variants)}; save it as safetensors, without a variant)"
        return [f"{part}/{WEIGHTS[part]} is missing{beside if variants else ''}"]
    faults = []
    for path in files:
        try:
            with safe_open(path, "numpy"):
                pass
        except (SafetensorError, OSError) as error:
            faults.append(f"{part}/{path.name} is damaged ({error})")
    return faults


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is not readable JSON ({error}); download the model again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} is not a JSON object; download the model again")
    return data
