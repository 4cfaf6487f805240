"""Folders of other kinds, refused by name: other frameworks' weights, adapters, bundles, what lies a level too high."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.foreign.files import COREML, ONNX, kind_of, refusal
from latentrt.export.sources.foreign.models import model_beside_unet, model_without_unet
from latentrt.export.sources.weights_file import open_weights_file

# Weights of other frameworks, by the file that shows them
_OTHERS = (".onnx", ".xml", ".msgpack", ".gguf", ".plan", ".engine", ".h5", ".pb", ".tflite", ".mlmodel", ".mnn")
_CORE_ML = (".mlpackage", ".mlmodelc")
_OURS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# How the frameworks' pipelines call themselves in model_index.json
_PIPELINES = {"Onnx": ONNX, "ORT": ONNX, "OV": ("an OpenVINO model (IR)", ONNX[1])}
_SHOWN = 3


def foreign_weights(folder: Path, part: Path) -> CheckpointError | None:
    """That a part's folder holds weights of another framework, if it does.

    Args:
        folder: what the user gave.
        part: the part's folder, inside it or the same.
    """
    for path in (part, *_entries(part)):
        if path.suffix.lower() in _CORE_ML:
            return _holds(folder, path, *COREML)
        if path.suffix.lower() in _OTHERS and path.is_file():
            return _holds(folder, path, *kind_of(path))
    return None


def foreign_pipeline(folder: Path, index: Mapping[str, Any]) -> CheckpointError | None:
    """That a model_index.json is another framework's, or of a pipeline of its author's own."""
    kind = index.get("_class_name")
    if isinstance(kind, list):  # [module, class], as diffusers reads it
        named = ".".join(map(str, kind))[:100]
        return CheckpointError(
            f"{str(folder)!r} has a pipeline of its own ({named}, in a Python file that is not run), expected one of "
            "diffusers' for Stable Diffusion; choose such a model, or add its U-Net to another with --base"
        )
    if kind is not None and not isinstance(kind, str):
        return CheckpointError(
            f"{str(folder / 'model_index.json')!r} has _class_name {str(kind)[:60]!r}, expected a text such as "
            "'StableDiffusionPipeline'; correct it"
        )
    for begin, (called, advice) in _PIPELINES.items():
        if kind is not None and kind.startswith(begin) and not any(folder.glob("unet/*.safetensors")):
            return refusal(folder, f"a folder of {called} (its pipeline is {kind})", advice)
    return None


def no_model_folder(folder: Path) -> CheckpointError:
    """What a folder is that has no model_index.json, no config.json and no parts with one."""
    if (folder / BUNDLE_FILE).is_file():
        return refusal(folder, "a bundle, whose weights are ONNX", "give the model that it was built from")
    entries = _entries(folder)
    if not entries:
        return CheckpointError(
            f"{str(folder)!r} is empty and has no model_index.json, expected a diffusers folder; give the folder that "
            "holds it"
        )
    found = foreign_weights(folder, folder)
    if found is not None:
        return found
    for part in entries:  # as ONNX pipelines of old, without configs
        if part.is_dir() and (found := foreign_weights(folder, part)) is not None:
            return found
    bare = [path for part in ("unet", "vae") for path in _entries(folder / part) if path.suffix in _OURS]
    if bare:
        name = bare[0].parent.name
        return CheckpointError(
            f"{str(folder)!r} has {name}/{bare[0].name} without {name}/config.json, expected both; download that, too"
        )
    weights = [path for path in entries if path.suffix.lower() in _OURS and path.is_file()]
    if weights:
        return _single_files(folder, weights)
    models = [path for path in entries if (path / "model_index.json").is_file() or (path / "unet").is_dir()]
    if models:
        more = f", or another of {', '.join(path.name for path in models[1:4])}" if len(models) > 1 else ""
        return CheckpointError(
            f"{str(folder)!r} has no model_index.json, expected a diffusers folder; give the folder {str(models[0])!r} "
            f"in it{more}"
        )
    below = [path for entry in entries for path in _entries(entry) if path.suffix.lower() in _OURS]
    if below:
        return _single_files(folder, below)
    names = ", ".join(path.name for path in entries[:_SHOWN]) + (", …" if len(entries) > _SHOWN else "")
    return CheckpointError(
        f"{str(folder)!r} has no model_index.json (it holds {names}), expected a diffusers folder; "
        "give the folder that holds it"
    )


def _single_files(folder: Path, weights: list[Path]) -> CheckpointError:
    """Checkpoints, or an adapter's only file."""
    if len(weights) == 1:
        try:
            shapes = open_weights_file(weights[0]).shapes
        except CheckpointError as error:
            return error
        foreign = model_beside_unet(shapes) or model_without_unet(shapes)
        if foreign is not None:
            return _holds(folder, weights[0], foreign.name, foreign.advice)
    more = f", or another of {len(weights)} files in it" if len(weights) > 1 else ""
    return CheckpointError(
        f"{str(folder)!r} has no model_index.json, expected a diffusers folder; give the file {str(weights[0])!r}{more}"
    )


def _holds(folder: Path, path: Path, kind: str, advice: str) -> CheckpointError:
    inside = f" ({path.relative_to(folder)})" if path != folder else ""
    return refusal(folder, f"a folder of {kind}{inside}", advice)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, safetensors first; hidden files aside."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path.suffix != ".safetensors", path.name))


def class_of(config: Mapping[str, Any]) -> str:
    """What a config says that it is of, in diffusers' way or in transformers'."""
    return next(_classes(config), "model without a class")


def _classes(config: Mapping[str, Any]) -> Iterator[str]:
    architectures = config.get("architectures")
    listed = architectures if isinstance(architectures, list) else ()
    for kind in (config.get("_class_name"), *listed, config.get("model_type"), config.get("peft_type")):
        if isinstance(kind, str):
            yield kind
