"""What a model has that is told of a picture: its image encoder, the projection of a pose, latents that move."""

from collections.abc import Iterator

import numpy as np
import torch

from latentrt.engines.bundle.kinds import IMAGE_ENCODER, ComponentKind
from latentrt.engines.bundle.unet.net_inputs import IMAGE_EMBEDS, PIXELS, POSE
from latentrt.export.component_exports import ComponentExports, release
from latentrt.export.modules.image_prompt import ImageEncoderModule, image_encoder_graph
from latentrt.export.modules.pose import PoseModule, pose_graph
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.family import POSE_PART
from latentrt.export.tracing.probes import encoder_pixels, record_probe

_CHUNKS = (3, 1)  # frames of a chunk that the decoder is compared at
# As the first kind takes them: elevation in radians, sine and cosine of the azimuth, distance
_POSES = ((-0.3, 0.5, 0.8660254, 0.2), (0.6, -0.9, 0.4358899, -0.4))


def export_image_encoder(run: ComponentExports, checkpoint: Checkpoint) -> torch.Tensor | None:
    """Exports the image encoder, and what makes a token of its embedding and a pose, if the model has them.

    Returns:
        The token of the photograph, and the zeros that the unconditional half sees: (2, 1, width).
    """
    record, profile = checkpoint.image_encoder, run.profiles[0]
    if record is None:
        return None
    with run.progress.stage(f"{IMAGE_ENCODER}: load"):
        encoder = ImageEncoderModule(checkpoint.parts[record.component].module())
    width = int(checkpoint.parts[record.component].config["projection_dim"])
    pixels = torch.from_numpy(encoder_pixels(record.size, record.mean, record.std))
    with run.reference(IMAGE_ENCODER):
        seen = record_probe(encoder, profile, {PIXELS: pixels}, [IMAGE_EMBEDS])
    graph = image_encoder_graph(IMAGE_EMBEDS, record.size, (width,))
    run.component(IMAGE_ENCODER, ComponentKind.IMAGE_ENCODER, encoder, graph, [seen])
    release(encoder)
    embeds = torch.from_numpy(seen.outputs[IMAGE_EMBEDS])
    token = embeds[:1, None] if checkpoint.family.pose is None else _token_of_pose(run, checkpoint, embeds)
    return torch.cat([token, torch.zeros_like(token)])


def _token_of_pose(run: ComponentExports, checkpoint: Checkpoint, embeds: torch.Tensor) -> torch.Tensor:
    """Exports the projection; returns what it makes of the first embedding and a pose (1, 1, width)."""
    with run.progress.stage(f"{POSE_PART}: load"):
        projection = PoseModule(checkpoint.parts[POSE_PART].module())
    inputs = {IMAGE_EMBEDS: embeds, POSE: torch.tensor(_POSES)}
    graph = pose_graph(embeds.shape[1])
    with run.reference(POSE_PART):
        probe = record_probe(projection, run.profiles[0], inputs, list(graph.outputs))
    run.component(POSE_PART, ComponentKind.PROJECTION, projection, graph, [probe])
    release(projection)
    return torch.from_numpy(probe.outputs["encoder_hidden_states"][:1])


def moved(latents: torch.Tensor, frames: int) -> torch.Tensor:
    """Latents (1, C, h, w) of a picture that moves: (1, F, C, h, w), each frame shifted by one more column."""
    return torch.stack([latents.roll(frame, -1) for frame in range(frames)], 1)


def chunks_of_video(latents: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """Chunks of frames (F, C, h, w) that the decoder is compared at: of a picture that moves, with a little noise."""
    noise = np.random.default_rng(0)
    for frames in sorted({min(frames, most) for frames in _CHUNKS}, reverse=True):
        video = moved(latents, frames)[0]
        yield video + 0.1 * torch.from_numpy(noise.standard_normal(video.shape, np.float32))
