"""What a model, a base or an autoencoder is: a folder, a file, or a place on the hub or in its cache."""

from collections.abc import Set
from dataclasses import replace

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.folder.folder import part_folder, partial_model_from_folder, partial_model_from_part_file
from latentrt.export.sources.partial_model import Choices, PartialModel
from latentrt.export.sources.parts import Part
from latentrt.export.sources.place import Place, place_of_model
from latentrt.export.sources.single_file.single_file import partial_model_from_file, vae_from_file
from latentrt.models import EMBEDDED_MODELS


def partial_model_from_model(model: str, choices: Choices, wanted: Set[str], *, recorded: str = "") -> PartialModel:
    """What a model is in one place; ``wanted`` are the parts whose weights will be read.

    Raises:
        CheckpointError: it is not found, or is no model; a choice that does not concern it.
    """
    if model in EMBEDDED_MODELS:
        return partial_model_from_folder(EMBEDDED_MODELS[model], choices, name=model, recorded=recorded, wanted=wanted)
    place = _place(model, choices, wanted, "--base: " if recorded else "")
    path = place.path
    if path.is_dir():
        return partial_model_from_folder(
            path,
            choices,
            name=place.name,
            revision=place.revision,
            recorded=recorded,
            wanted=wanted,
            published=place.published,
        )
    if choices.variant is not None:
        raise CheckpointError(f"got --variant {choices.variant} for the file {model!r}, which has none; leave it out")
    partial = partial_model_from_part_file(path, recorded=recorded)
    if partial is None:
        partial = partial_model_from_file(path, ema=choices.ema, recorded=recorded, wanted=wanted)
    elif choices.ema is not None:
        raise CheckpointError(
            f"got a choice of averaged weights for the file {model!r}, which holds one set; leave it out, or give the "
            "folder"
        )
    return replace(partial, name=place.name or partial.name, revision=place.revision)


def vae_from_model(vae: str) -> tuple[Part, str]:
    """The autoencoder that ``--vae`` names, and what it is called.

    Raises:
        CheckpointError: it is not found, or holds no autoencoder that can be read.
    """
    place = _place(vae, Choices(), frozenset(("vae",)), "--vae: ")
    name = place.name or place.path.absolute().name
    if place.path.is_dir():
        return part_folder(place.path, "vae", Choices(), recorded="replaced/", published=place.published), name
    beside = partial_model_from_part_file(place.path, recorded="replaced/")
    if beside is not None and "vae" in beside.parts:
        return beside.parts["vae"], name
    return vae_from_file(place.path, recorded="replaced/vae/"), name


def _place(model: str, choices: Choices, wanted: Set[str], option: str) -> Place:
    """As ``place_of_model``; the option that gave the model is named where it is refused."""
    try:
        return place_of_model(model, choices, wanted)
    except CheckpointError as error:
        raise CheckpointError(f"{option}{error}") from error
