"""A model on the hub: what of its repository is fetched."""

from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.folder.folder import NON_EMA
from latentrt.export.sources.folder.part_folders import STEMS
from latentrt.export.sources.partial_model import Choices


def folder_from_hub(identifier: str, revision: str | None, choices: Choices) -> Path:
    """The files of a repository that a build reads; pickles only where there is nothing else.

    A choice of averaged weights or not needs both kinds: where there is one alone, it is refused.

    Raises:
        CheckpointError: a licence to accept, or nothing that could be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    variants = [name for name in (choices.variant, NON_EMA if choices.ema else None) if name is not None]
    settings = ["model_index.json", "scheduler/*", "tokenizer*/*", "*/config.json", "config.json"]

    def fetched(suffix: str) -> Path:
        weights = [f"*{suffix}.index*.json"]
        for marked in ("", *(f".{variant}" for variant in variants)):
            weights += [f"*model{marked}{suffix}", f"*model{marked}-?????-of-?????{suffix}"]
            weights += [f"*-?????-of-?????{marked}{suffix}"]
        patterns = [f"{part}/{name}" for part in STEMS for name in weights]
        patterns += [f"diffusion_pytorch_{name.removeprefix('*')}" for name in weights if name.startswith("*model")]
        patterns.append(f"diffusion_pytorch_model{suffix}.index*.json")
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=[*settings, *patterns]))

    try:
        folder = fetched(".safetensors")
        parts = [path.parent for path in folder.glob("*/config.json") if path.parent.name in STEMS]
        parts += [folder] if (folder / "config.json").is_file() else []  # a part alone
        whole = all(any(part.glob("*.safetensors")) for part in parts)
        apart = choices.ema is None or any(folder.glob(f"unet/*{NON_EMA}*.safetensors"))
        return folder if whole and apart else fetched(".bin")
    except GatedRepoError as error:
        raise CheckpointError(
            f"the hub refuses {identifier!r} without its licence accepted; accept it and log in with hf auth login"
        ) from error
    except Exception as error:  # the client lets through errors of its own, of httpx, of the system, ValueErrors
        raise CheckpointError(
            f"got model {identifier!r}, which is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}); check the name and the connection, or give a local folder"
        ) from error
