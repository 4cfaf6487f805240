"""Whether what a build is given is an upscaler; told by its contents."""

from collections.abc import Mapping
from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.engines.tensors.tensor_file import is_safetensors
from latentrt.export.sources.foreign.files import ONNX, kind_of
from latentrt.export.sources.foreign.models import model_without_unet
from latentrt.export.sources.hub.reference import reference_from_text
from latentrt.export.sources.hub.repository import Repository
from latentrt.export.sources.place import Place, name_of, place_from_text
from latentrt.export.sources.single_file.unet_structure import DIFFUSERS, LDM
from latentrt.export.sources.weights_file import SHARD, WeightsFile, open_weights_file
from latentrt.export.upscalers.source import UpscalerSource
from latentrt.models import EMBEDDED_MODELS

UPSCALER = "an upscaler (ESRGAN or a relative)"
"""What files are called that hold one of the known names of tensors (``export/sources/foreign/models.py``)."""
_ON_HUB = (".pth", ".onnx")  # what no checkpoint of a model is called
_PREFIXES = ("model.diffusion_model.", "unet.", "", "diffusion_model.")


def upscaler_from_headers(model: str) -> UpscalerSource | None:
    """An upscaler by the header of its file; None for what is something else, or damaged.

    Files whose tensors no model has that is known here are shown to spandrel, if it is installed; that loads torch.

    Args:
        model: as a build takes it: a path, or a file on the hub.

    Raises:
        CheckpointError: it cannot be fetched.
    """
    place = _place(model)
    if place is None:
        return None
    try:
        if _is_onnx(place.path):
            from latentrt.export.upscalers.onnx_source import OnnxUpscaler

            return OnnxUpscaler(place=place)
        file = open_weights_file(place.path)
    except CheckpointError:
        return None  # whoever builds models says what it is
    return _of_weights(place, file)


def _place(model: str) -> Place | None:
    if Path(model).is_file():
        return place_from_text(model, _no_place, expected="a file")
    if model in EMBEDDED_MODELS or Path(model).exists() or not model.lower().endswith(_ON_HUB):
        return None
    reference = reference_from_text(model)
    return None if reference is None else place_from_text(model, _fetched, expected="a file of an upscaler")


def _fetched(repository: Repository) -> Place:
    reference = repository.reference
    if reference.path not in repository.names:
        raise CheckpointError(f"got {str(reference)!r}, but {reference.repository} has no such file; check the name")
    folder = repository.fetched([reference.path])
    return Place(path=folder / reference.path, name=name_of(reference), revision=folder.name)


def _no_place(_: Repository) -> Place:
    raise AssertionError("a file that is there is fetched from nowhere")


def _is_onnx(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04") or is_safetensors(head) or head[:1] == b"\x80":
        return False
    return kind_of(path) == ONNX


def _of_weights(place: Place, file: WeightsFile) -> UpscalerSource | None:
    from latentrt.export.upscalers.torch_source import TorchUpscaler

    found = TorchUpscaler(place=place, file=file)
    shapes = file.shapes
    marks = [[prefix + mark for mark in layout.marks] for prefix in _PREFIXES for layout in (LDM, DIFFUSERS)]
    if any(all(name in shapes for name in names) for names in marks) or SHARD.search(place.path.name):
        return None  # it has a U-Net, or is a part of something
    foreign = model_without_unet(shapes)
    if foreign is not None:
        return found if foreign.name == UPSCALER else None
    return found if _spandrel_knows(found.shapes) else None


def _spandrel_knows(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    from latentrt.export.upscalers.spandrel_networks import knows

    try:
        return knows(shapes)
    except (CheckpointError, ImportError):  # without it, it is what it always was: unknown
        return False
