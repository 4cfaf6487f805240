"""A folder: a diffusers pipeline, whole or in part, or one part alone."""

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from latentrt.engines.errors import CheckpointError
from latentrt.engines.tensors.tensor_file import Format
from latentrt.export.sources.checks.fitting import MARKS
from latentrt.export.sources.checks.scheduler_settings import LISTED_CLASS
from latentrt.export.sources.families import check_pipeline
from latentrt.export.sources.folder.part_folders import (
    STEMS,
    WeightFiles,
    chosen_variant,
    files_in,
    shards_listed,
    weights_in,
    weights_of,
)
from latentrt.export.sources.folder.pipeline_parts import (
    PICTURES_FOLDER,
    config_of_part,
    folders_of_pipeline,
    names_of_part,
    parts_of_pipeline,
    sees_pictures,
)
from latentrt.export.sources.foreign.folders import (
    class_of,
    foreign_pipeline,
    foreign_weights,
    no_model_folder,
)
from latentrt.export.sources.partial_model import Choices, Ema, PartialModel, decision
from latentrt.export.sources.parts import FolderPart
from latentrt.export.sources.vision import PICTURES
from latentrt.export.sources.weights_file import SHARD, open_weights_file

_NETS = ("ControlNetModel", "ControlNetUnionModel", "T2IAdapter")  # which are built for a model
# A bare part's class, and what it is in a pipeline
_BARE = {
    "UNet2DConditionModel": "unet",
    "UNetSpatioTemporalConditionModel": "unet",
    "AutoencoderKL": "vae",
    "AutoencoderKLTemporalDecoder": "vae",
}
# Of these files a folder has one if it is a diffusers model, whole or in part, or a part alone
LAYOUT = ("model_index.json", "config.json", *(f"{part}/config.json" for part in STEMS))
UNET_EMA = "unet_ema"  # the folder that they write them in beside unet/, when they save a training's state
NON_EMA = "non_ema"  # the variant that training scripts of diffusers write beside the averaged weights


def partial_model_from_folder(
    folder: Path,
    choices: Choices,
    *,
    name: str | None = None,
    revision: str | None = None,
    recorded: str = "",
    wanted: Set[str] = frozenset(STEMS),
    published: Sequence[Path] | None = None,
) -> PartialModel:
    """What a folder offers.

    Args:
        folder: with ``model_index.json``, with part folders alone, or a part's own with its ``config.json``.
        choices: of which ``variant`` and ``ema`` concern a folder.
        name: of the model; None takes the folder's.
        revision: of a hub's repository.
        recorded: what the bundle puts before the names of files.
        wanted: the parts whose weights are read; of the others the configuration alone is.
        published: the paths of a repository's files, of which only those that are read were fetched.

    Raises:
        CheckpointError: no such folder, unreadable configs, a variant that is not there.
    """
    folders = _part_folders(folder, choices.ema)
    found = {part: weights_in(path, STEMS[part], published) for part, path in folders.items() if part in wanted}
    variant, why, said = _variant(found, choices, str(folder), apart=_has_unet_ema(folder))
    parts, faults, decisions = {}, [], {}
    for part, path in folders.items():
        config_file = path / "config.json"
        if part not in wanted:
            if config_file.is_file():
                parts[part] = _config_alone(part, path)
            continue
        if not config_file.is_file():
            faults.append(f"{part}/config.json is missing")
        files = weights_of(found[part], variant)
        faults += _weight_faults(folder, part, path, files)
        if files is None:
            continue
        if config_file.is_file():
            parts[part] = FolderPart(
                name=part,
                folder=path,
                recorded=recorded + path.name if path != folder else recorded + part,
                config=config_of_part(part, read_json(config_file), files.paths, str(path)),
                weights=files.paths,
                variant=files.variant,
            )
    if any(part.variant for part in parts.values()):
        plain = [name for name, part in parts.items() if part.variant is None and part.weights]
        why += f"; plain for {', '.join(plain)}, which lacks it" if plain else ""
        decisions["variant"] = decision(variant or "plain", said or why)
    elif said is not None or any(len({row.variant for row in rows}) > 1 for rows in found.values()):
        decisions["variant"] = decision("plain", said or why)
    pickles = [name for name, part in parts.items() if any(path.suffix != ".safetensors" for path in part.weights)]
    if pickles:
        decisions["format"] = decision(
            "pickles", f"{', '.join(pickles)} as .bin alone, read by torch without running anything"
        )
    if _has_unet_ema(folder):
        ema = Ema.EMA if choices.ema is Ema.EMA else Ema.NON_EMA
        reason = f"chosen with --{'ema' if ema is Ema.EMA else 'no-ema'}" if choices.ema else "--ema takes the others"
        decisions["weights"] = decision(ema, f"{reason}; the averaged weights are in {UNET_EMA}/")
    elif _has_non_ema(found):
        ema = Ema.NON_EMA if variant == NON_EMA else Ema.EMA
        decisions["weights"] = decision(ema, said or ("--no-ema takes the others" if ema is Ema.EMA else why))
    index_file, scheduler_file = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    index = read_json(index_file) if index_file.is_file() else {}
    pictures_file = folder / PICTURES_FOLDER / PICTURES
    seen = pictures_file.is_file() and sees_pictures(index.get("_class_name"))
    read = [file for file in (index_file, scheduler_file) if file.is_file()] + ([pictures_file] if seen else [])
    settings = {f"{recorded}{file.relative_to(folder)}": file for file in read}
    return PartialModel(
        source=str(folder),
        name=name or folder.resolve().name,
        revision=revision,
        pipeline=index.get("_class_name"),
        index=index,
        listed=frozenset(
            part
            for part in parts_of_pipeline(index.get("_class_name"))
            if any(_is_listed(index.get(name)) for name in names_of_part(part))
        ),
        parts=parts,
        tokenizers={name: folder / name for name in ("tokenizer", "tokenizer_2") if _is_tokenizer(folder / name)},
        scheduler={**read_json(scheduler_file), **_listed_class(index)} if scheduler_file.is_file() else None,
        pictures=read_json(pictures_file) if seen else {},
        settings=settings,
        faults=tuple(faults),
        decisions=decisions,
    )


def partial_model_from_part_file(path: Path, *, recorded: str = "") -> PartialModel | None:
    """What a part's weight file offers that lies beside the part's config, whatever else lies there.

    None where it does not: no config of a U-Net or an autoencoder, or tensors in another layout than diffusers'.

    Raises:
        CheckpointError: it is one of several shards, is no file of weights, or its config is not readable.
    """
    config_file = path.parent / "config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    kind = config.get("_class_name")
    part = _BARE.get(kind) if isinstance(kind, str) else None
    if part is None:
        return None
    shard = SHARD.search(path.name)
    if shard is not None and int(shard[2]) > 1:
        raise CheckpointError(
            f"got {str(path)!r}, one of {int(shard[2])} shards of a {part}, expected all of them; give the folder "
            f"{str(path.parent)!r}"
        )
    file = open_weights_file(path)
    if MARKS[part] not in file.shapes:
        return None
    part_in_file = FolderPart(
        name=part, folder=path.parent, recorded=recorded + part, config=config, weights=(path,), variant=None
    )
    decisions = {"weights": decision(path.name, "the file that was given")}
    if file.format is not Format.SAFETENSORS:
        decisions["format"] = decision(file.format.value, "read without running anything")
    usual = any(path.stem.startswith(stem) for stem in STEMS[part])
    return PartialModel(
        source=str(path),
        name=path.parent.resolve().name if usual else path.stem,
        parts={part: part_in_file},
        decisions=decisions,
    )


def _weight_faults(folder: Path, part: str, path: Path, files: WeightFiles | None) -> list[str]:
    """What is wrong with a part's weights.

    Raises:
        CheckpointError: they are whole, and something else.
    """
    if files is not None:
        return files.faults
    foreign = foreign_weights(folder, path)
    if foreign is not None:
        raise foreign
    listed = shards_listed(path)
    if listed:
        return [f"{part}/{', '.join(listed[:3])}{', …' if len(listed) > 3 else ''} of its index are missing"]
    return [f"{part}/{STEMS[part][0]}.safetensors is missing"]


def _config_alone(part: str, folder: Path) -> FolderPart:
    config = read_json(folder / "config.json")
    return FolderPart(name=part, folder=folder, recorded=part, config=config, weights=(), variant=None)


def files_to_read(
    folder: Path, choices: Choices, wanted: Set[str], published: Sequence[Path], *, called: str
) -> list[Path]:
    """Of a repository's published files those that ``partial_model_from_folder`` reads beside the configs of its parts.

    Raises:
        CheckpointError: it is of another kind, or a variant has to be chosen.
    """
    folders, index = _part_folders(folder, choices.ema), folder / "model_index.json"
    pipeline = read_json(index).get("_class_name") if index.is_file() else None
    check_pipeline(pipeline, called)
    pictures = folder / PICTURES_FOLDER / PICTURES
    settings = [pictures] if pictures in published and "image_encoder" in wanted and sees_pictures(pipeline) else []
    found = {part: weights_in(path, STEMS[part], published) for part, path in folders.items() if part in wanted}
    lacking = [part for part, rows in found.items() if not rows]
    if lacking:
        there = [path.relative_to(folder).as_posix() for part in lacking for path in files_in(folders[part], published)]
        raise CheckpointError(
            f"{called!r} has no weights of {', '.join(lacking)} that are read, expected safetensors or .bin (it has "
            f"{', '.join(there[:6]) or 'none'}); choose a model with these"
        )
    variant = _variant(found, choices, called, apart=_has_unet_ema(folder))[0]
    weights = [path for rows in found.values() if (files := weights_of(rows, variant)) for path in files.paths]
    return [*settings, *weights]


def single_file_in(folder: Path, published: Sequence[Path] | None = None, *, called: str | None = None) -> Path | None:
    """The one checkpoint of a folder that holds no diffusers model; None where there is none, or such a model.

    Of a name with both endings, ``.safetensors`` goes first.

    Raises:
        CheckpointError: there are several, which are named; or a config that is not readable.
    """
    if any((folder / name).is_file() for name in LAYOUT if name != "config.json"):
        return None
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if any(key in config for key in ("_class_name", "architectures", "model_type")):
        return None  # some hub pages count downloads by a config that says nothing
    files = [path for path in files_in(folder, published) if path.suffix.lower() in (".safetensors", ".ckpt")]
    by_stem = {path.stem: path for path in sorted(files, key=lambda path: path.suffix.lower() == ".safetensors")}
    if len(by_stem) > 1:
        names = sorted(path.name for path in by_stem.values())
        raise CheckpointError(
            f"{called or str(folder)!r} holds no diffusers folder but the files {', '.join(names)}, expected one; give "
            f"one of them, such as {called or folder}/{names[0]}"
        )
    return next(iter(by_stem.values()), None)


def _listed_class(index: dict[str, Any]) -> dict[str, str]:
    """The scheduler's class in model_index.json, which is the one that diffusers takes, whatever its own file says."""
    listed = index.get("scheduler")
    named = isinstance(listed, list) and len(listed) == 2 and isinstance(listed[1], str)
    return {LISTED_CLASS: listed[1]} if named else {}  # type: ignore[index]


def part_folder(
    folder: Path, part: str, choices: Choices, *, recorded: str, published: Sequence[Path] | None = None
) -> FolderPart:
    """One part of a folder: its own, or a pipeline's that holds it.

    Raises:
        CheckpointError: it has no such part, or one that cannot be read.
    """
    model = partial_model_from_folder(
        folder, choices, recorded=recorded, wanted=frozenset((part,)), published=published
    )
    if model.faults or part not in model.parts:
        reason = "; ".join(model.faults) or f"it holds {', '.join(model.parts) or 'no part of a model'}"
        raise CheckpointError(f"{str(folder)!r} has no usable {part} ({reason}); choose another folder")
    found = model.parts[part]
    assert isinstance(found, FolderPart)
    return found


def _part_folders(folder: Path, ema: Ema | None = None) -> dict[str, Path]:
    """Where each part lies."""
    bare = folder / "config.json"
    if (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        foreign = foreign_pipeline(folder, index)
        if foreign is not None:
            raise foreign
        folders = dict(folders_of_pipeline(folder, index.get("_class_name")))
    elif bare.is_file():
        config = read_json(bare)
        kind = class_of(config)
        if kind in _BARE:
            return {_BARE[kind]: folder}
        advice = (
            "it adds to another model: build it for the bundle of that one, with --for BUNDLE"
            if kind in _NETS
            else "choose such a model"
        )
        raise CheckpointError(
            f"{str(folder)!r} holds a {kind}, expected a diffusers pipeline or one of {', '.join(_BARE)}; {advice}"
        )
    else:
        folders = {part: folder / part for part in STEMS if (folder / part / "config.json").is_file()}
        if not folders:
            raise no_model_folder(folder)
    if ema is Ema.EMA and _has_unet_ema(folder):
        folders["unet"] = folder / UNET_EMA
    return folders


def _has_unet_ema(folder: Path) -> bool:
    """Whether a training script of diffusers left the averaged U-Net in a folder of its own."""
    return (folder / UNET_EMA / "config.json").is_file()


def _has_non_ema(found: Mapping[str, list[WeightFiles]]) -> bool:
    """Whether a training script of diffusers left the U-Net's last weights beside the averaged ones."""
    return NON_EMA in {files.variant for files in found.get("unet", ())}


def _variant(
    found: Mapping[str, list[WeightFiles]], choices: Choices, called: str, *, apart: bool
) -> tuple[str | None, str, str | None]:
    """The variant of a folder's weights that is read, why, and what ``--ema`` or ``--no-ema`` say about it."""
    wanted, said = _wanted_variant(found, choices, called, apart=apart)
    return *chosen_variant(found, wanted, called), said


def _wanted_variant(
    found: Mapping[str, list[WeightFiles]], choices: Choices, called: str, *, apart: bool
) -> tuple[str | None, str | None]:
    """``--variant``, or what ``--ema`` and ``--no-ema`` mean for a folder."""
    if choices.ema is None:
        return choices.variant, None
    if apart:
        return choices.variant, None
    if not _has_non_ema(found):
        raise CheckpointError(
            f"got --{'ema' if choices.ema is Ema.EMA else 'no-ema'} for {called!r}, which does not keep averaged "
            f"weights and others apart (a variant {NON_EMA}, a folder {UNET_EMA}); leave it out"
        )
    if choices.variant not in (None, NON_EMA):
        raise CheckpointError(
            f"got --variant {choices.variant} with a choice of averaged weights, expected one of them; leave one out"
        )
    if choices.ema is Ema.EMA:
        return None, f"chosen with --ema; {NON_EMA} are the others"
    return NON_EMA, "chosen with --no-ema"


def _is_listed(entry: object) -> bool:
    """Whether an index names a class for a part: [library, class], and nulls for a part that was left out."""
    return isinstance(entry, list) and len(entry) > 0 and entry[0] is not None


def _is_tokenizer(folder: Path) -> bool:
    pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return pair or (folder / "tokenizer.json").is_file()


def read_json(path: Path) -> dict[str, Any]:
    """A config file.

    Raises:
        CheckpointError: not readable, or no JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not readable JSON ({error}); download the model again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} is not a JSON object; download the model again")
    return data
