"""The autoencoder of a single file: where it lies, and whose names it has."""

from collections.abc import Mapping

from latentrt.export.sources.parts import FilePart
from latentrt.export.sources.single_file.ldm_layout import LayoutError, Shapes, below, vae_config, vae_tensors
from latentrt.export.sources.single_file.temporal_vae import MARK, temporal_vae_config, temporal_vae_tensors
from latentrt.export.sources.weights_file import WeightsFile

_PREFIXES = ("first_stage_model.", "vae.", "")
_MARKS = ("encoder.down.0.block.0.conv1.weight", "encoder.down_blocks.0.resnets.0.conv1.weight")
_TOPS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
# SGM's video models encode the picture that they are told with an autoencoder of its own, of which the encoder counts
# (sgm/modules/encoders/modules.py, VideoPredictionEmbedderWithEncoder); the place counts from the image encoder
PICTURE_ENCODER = "conditioner.embedders.3.encoder."
_ENCODER = ("encoder.", "quant_conv.")


def autoencoder_in(file: WeightsFile, recorded: str, *, temporal: bool = False) -> FilePart | None:
    """The autoencoder of a file; None where it has none.

    Args:
        file: the file.
        recorded: what the bundle calls it.
        temporal: whether it must be one that decodes frames together.

    Raises:
        LayoutError: tensors that are missing, or one that decodes each frame alone.
    """
    for prefix in _PREFIXES:
        if any(prefix + mark in file.shapes for mark in _MARKS):
            return _autoencoder(file, recorded, prefix, temporal=temporal)
    return None


def _autoencoder(file: WeightsFile, recorded: str, prefix: str, *, temporal: bool) -> FilePart:
    shapes = {key: shape for key, shape in below(file.shapes, prefix).items() if key.startswith(_TOPS)}
    keys = {key: prefix + key for key in shapes}
    if MARK not in shapes:
        if temporal:
            raise LayoutError(
                "it is an image_decoder variant, whose autoencoder decodes each frame alone, so that clips flicker",
                "take the file without image_decoder in its name, or add --vae with that one",
            )
        return FilePart(
            name="vae", recorded=recorded, config=vae_config(shapes), file=file, keys=keys, convert=vae_tensors
        )
    keys = _with_picture_encoder(keys, file.shapes)
    return FilePart(
        name="vae",
        recorded=recorded,
        config=temporal_vae_config({name: file.shapes[key] for name, key in keys.items()}),
        file=file,
        keys=keys,
        convert=temporal_vae_tensors,
    )


def _with_picture_encoder(keys: Mapping[str, str], shapes: Shapes) -> dict[str, str]:
    """The names and places of a decoder, with the encoder that the video model is told its picture by."""
    own = {key: PICTURE_ENCODER + key for key in below(shapes, PICTURE_ENCODER) if key.startswith(_ENCODER)}
    if not own:
        return dict(keys)
    return {key: place for key, place in keys.items() if not key.startswith(_ENCODER)} | own
