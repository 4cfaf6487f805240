"""Where a model comes from: a diffusers folder, a hub id or the embedded model, checked before torch is asked."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from latentrt.engines.errors import CheckpointError
from latentrt.export.checkpoint import Checkpoint
from latentrt.export.families import Family, family_of
from latentrt.export.parts import WEIGHTS, FolderPart, weight_files
from latentrt.models import EMBEDDED, EMOJI

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a build reads from the configs and cannot guess, with the types it can have
_KEYS: dict[str, dict[str, type]] = {
    "text_encoder": {"max_position_embeddings": int, "hidden_size": int},
    "text_encoder_2": {"max_position_embeddings": int, "hidden_size": int, "projection_dim": int},
    "unet": {"in_channels": int, "out_channels": int, "block_out_channels": list, "cross_attention_dim": int},
    "vae": {"latent_channels": int, "block_out_channels": list},
}


def checkpoint_from_model(model: str) -> Checkpoint:
    """Finds and checks a model.

    Args:
        model: a diffusers folder, ``emoji`` for the embedded model (``./emoji`` for a folder of that name), or a
            hub id ``owner/name[@revision]``.

    Raises:
        CheckpointError: missing, incomplete or of no known family; every fault found is named.
    """
    if model == EMBEDDED:
        return _from_folder(EMOJI, name_of_model=EMBEDDED, revision=None)
    if Path(model).exists():
        return _from_folder(Path(model), name_of_model=Path(model).resolve().name, revision=None)
    identifier, _, revision = model.partition("@")
    if _HUB_ID.fullmatch(identifier):
        folder = _from_hub(identifier, revision or None)
        return _from_folder(folder, name_of_model=identifier, revision=folder.name)  # a snapshot is named by its commit
    raise CheckpointError(
        f"got model {model!r}, expected a diffusers folder, a hub id such as owner/name, or {EMBEDDED}; check the path"
    )


def _from_hub(identifier: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    patterns = ["model_index.json", "scheduler/*", "tokenizer*/*", "*/config.json"]
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


def _from_folder(folder: Path, *, name_of_model: str, revision: str | None) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"got the file {str(folder)!r}, expected a diffusers folder; give the folder's path")
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{str(folder)!r} has no model_index.json, expected a diffusers folder; give the folder that holds it"
        )
    index = _json(folder / "model_index.json")
    found = {part: folder / part / "config.json" for part in WEIGHTS}
    configs = {part: _json(path) for part, path in found.items() if path.is_file()}
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    scheduler = _json(scheduler_file) if scheduler_file.is_file() else {}
    # The wrong kind of model explains missing parts better than a list of them
    family = family_of(index, configs.get("unet", {}), scheduler, str(folder))
    parts = [*(row.part for row in family.text_encoders), "unet", "vae"]
    configs = {part: configs[part] for part in parts if part in configs}
    faults = [f"{part}/config.json is missing" for part in parts if part not in configs]
    faults += [] if scheduler_file.is_file() else ["scheduler/scheduler_config.json is missing"]
    for part in parts:
        faults += _weight_faults(folder, part)
    tokenizers = {row.tokenizer: folder / row.tokenizer for row in family.text_encoders}
    for name, tokenizer in tokenizers.items():
        if not (tokenizer / "tokenizer.json").is_file() and not (
            (tokenizer / "vocab.json").is_file() and (tokenizer / "merges.txt").is_file()
        ):
            faults.append(f"{name}/tokenizer.json (or vocab.json with merges.txt) is missing")
    faults += _config_faults(family, configs)
    if faults:
        raise CheckpointError(
            f"{str(folder)!r} cannot be built: {'; '.join(faults)}; download the model again, or mend these"
        )
    checkpoint = Checkpoint(
        name=name_of_model,
        revision=revision,
        source=str(folder),
        family=family,
        parts={part: FolderPart(name=part, folder=folder, config=configs[part]) for part in parts},
        tokenizers=tokenizers,
        scheduler=scheduler,
        settings={
            "model_index.json": folder / "model_index.json",
            "scheduler/scheduler_config.json": scheduler_file,
        },
        decisions={"family": f"{family.label}, by its pipeline class and the configs of its parts"},
    )
    checkpoint.schedule()  # refuses now what would otherwise stop the build half way
    return checkpoint


def _config_faults(family: Family, configs: dict[str, dict[str, Any]]) -> list[str]:
    faults = []
    for part, keys in _KEYS.items():
        config = configs.get(part, {})
        for key, kind in keys.items() if part in configs else ():
            if config.get(key) is None:
                faults.append(f"{part}/config.json lacks {key}")
            elif not isinstance(config[key], kind):
                faults.append(f"{part}/config.json has {key} {config[key]!r}, expected {kind.__name__}")
    faults += _width_faults(family, configs)
    one, two = configs.get("vae", {}).get("latent_channels"), configs.get("unet", {}).get("out_channels")
    if isinstance(one, int) and isinstance(two, int) and one != two:
        faults.append(f"vae has latent_channels {one} but unet has out_channels {two}")
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


def _width_faults(family: Family, configs: dict[str, dict[str, Any]]) -> list[str]:
    """The text encoders' states, side by side, are what the U-Net attends to."""
    parts = [row.part for row in family.text_encoders]
    widths = [configs.get(part, {}).get("hidden_size") for part in parts]
    context = configs.get("unet", {}).get("cross_attention_dim")
    known = [width for width in widths if isinstance(width, int)]
    if len(known) < len(parts) or not isinstance(context, int) or sum(known) == context:
        return []
    return [
        f"{' and '.join(parts)} {'has' if len(parts) == 1 else 'have'} hidden_size {' + '.join(map(str, known))} "
        f"but unet has cross_attention_dim {context}"
    ]


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
