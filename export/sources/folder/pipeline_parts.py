"""Which parts a pipeline's folder holds, by the class that its index names, and what their configs say."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.families import FAMILIES
from latentrt.export.sources.family import POSE_PART
from latentrt.export.sources.vision import vision_config
from latentrt.export.sources.weights_file import open_weights_file

PICTURES_FOLDER = "feature_extractor"
# What the two pipelines for Zero123 call the projection of a pose
POSE_FOLDERS = ("cc_projection", "clip_camera_projection")
_OF_TEXT = ("text_encoder", "text_encoder_2", "unet", "vae")


def parts_of_pipeline(pipeline: object) -> tuple[str, ...]:
    """The parts that are read of a pipeline: an image encoder of a model for text is another's, which goes with it."""
    found = [family for family in FAMILIES if pipeline in family.pipeline_classes]
    return tuple(dict.fromkeys(part for family in found for part in family.parts)) or _OF_TEXT


def sees_pictures(pipeline: object) -> bool:
    """Whether a pipeline has an image encoder of its own."""
    return "image_encoder" in parts_of_pipeline(pipeline)


def folders_of_pipeline(folder: Path, pipeline: object) -> Iterator[tuple[str, Path]]:
    """Where each of these parts lies, of those that are there."""
    for part in parts_of_pipeline(pipeline):
        for name in names_of_part(part):
            if (folder / name).is_dir():
                yield part, folder / name
                break


def names_of_part(part: str) -> tuple[str, ...]:
    """What its folder, and its entry in an index, can be called."""
    return POSE_FOLDERS if part == POSE_PART else (part,)


def config_of_part(part: str, config: Mapping[str, Any], weights: Sequence[Path], called: str) -> Mapping[str, Any]:
    """A part's config with what it leaves out.

    Raises:
        CheckpointError: no such part.
    """
    if part == "image_encoder":
        return vision_config(config, called)
    if part != POSE_PART:
        return config
    shapes = [shape for file in weights for shape in open_weights_file(file).shapes.values() if len(shape) == 2]
    if len(shapes) != 1:
        raise CheckpointError(
            f"{called!r} holds {len(shapes)} matrices, expected the one of Zero123's cc_projection; download it again"
        )
    return {**config, "out_features": shapes[0][0], "in_features": shapes[0][1]}
