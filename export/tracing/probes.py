"""Real inputs for comparing a component with its torch module: prompts, a photograph, timesteps across the range."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.bundle.noise_schedule import alpha_cumprod_at, timestep_at
from latentrt.engines.bundle.records.conditioning import TimeIds, guidance_scale_embedding
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.tokenizer import Tokenizer
from latentrt.engines.bundle.unet.added_inputs import previous
from latentrt.engines.pixels import normalized
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.export.sources.checkpoint import Checkpoint

PROMPTS = (
    "",
    "a photograph of a cat looking into the camera, soft window light",
    "strawberry",
    "An oil painting of a harbour at dusk: fishing boats, gulls & lanterns (1880s), «l'heure bleue», 港 🚢, "
    "highly detailed, muted colours, by a follower of the Barbizon school, wide brush strokes, museum photograph",
)
# Near the start, the middle and the end of the noise schedule, as fractions of its length
_NOISE_FRACTIONS = (0.98, 0.5, 0.02)
_SEED = 7


def photograph_pixels(profile: Profile) -> Array:
    """The photograph at a profile's size: (1, 3, H, W) float32 in [−1, 1]."""
    return normalized(np.asarray(photograph(profile), np.float32) / np.float32(255.0))[None]


def control_pictures(profile: Profile) -> Array:
    """Two control pictures (2, 3, H, W) float32 in [0, 1]: the photograph, and it in black and white."""
    photo = np.asarray(photograph(profile), np.float32) / np.float32(255.0)
    light = (photo.mean(-1, keepdims=True) > photo.mean()).astype(np.float32)
    pictures = np.stack([photo, np.broadcast_to(light, photo.shape)])
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))


def encoder_pixels(size: int, mean: Sequence[float], std: Sequence[float]) -> Array:
    """What an image encoder sees: the photograph, and the negative pass's zeros (2, 3, size, size)."""
    photo = np.asarray(photograph(Profile(width=size, height=size)), np.float32) / np.float32(255.0)
    pixels = ((photo - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)).transpose(2, 0, 1)
    return np.stack([pixels, np.zeros_like(pixels)])


def masked_photograph(profile: Profile, space: LatentSpace) -> tuple[Array, Array]:
    """The photograph with an ellipse to redraw, off its middle.

    Args:
        profile: its size.
        space: the latents.

    Returns:
        The mask at the latents' size (1, 1, h, w), 1 where it is redrawn; and the pixels (1, 3, H, W) with mid-grey
        there.
    """
    mask = Image.new("L", (profile.width, profile.height))
    corners = (profile.width // 4, profile.height // 3, profile.width // 4 * 3, profile.height - 1)
    ImageDraw.Draw(mask).ellipse(corners, fill=1)
    redrawn = np.asarray(mask, np.float32)[None, None]
    return space.mask(redrawn), photograph_pixels(profile) * (1.0 - redrawn)


def with_channels(sample: torch.Tensor, more: torch.Tensor | None) -> torch.Tensor:
    """Latents (B, C, h, w) or (B, F, C, h, w), followed by further channels (1, …, h, w), if there are any."""
    if more is None:
        return sample
    return torch.cat([sample, more.expand(*sample.shape[:-3], *more.shape[1:])], -3)


def token_ids(tokenizer: Tokenizer) -> Array:
    """The prompts as ids: (4, L) int64."""
    return np.stack([tokenizer.encode(prompt).ids for prompt in PROMPTS])


def masks(length: int) -> tuple[Array, Array]:
    """Attention masks (2, L) int64 of two prompts: all tokens seen, and some of each masked out."""
    seen = np.ones((2, length), np.int64)
    some = seen.copy()
    some[0, 2:5] = some[1, length // 2 :] = 0
    return seen, some


def noised_latents(checkpoint: Checkpoint, clean: torch.Tensor, timesteps: Sequence[float]) -> torch.Tensor:
    """Scaled latents (1, …, C, h, w) as the U-Net is given them where it is told each of N timesteps: (N, …, C, h, w).

    Each has noise of its own, and all have unit variance.
    """
    schedule = checkpoint.schedule()
    generator = torch.Generator().manual_seed(_SEED + abs(round(timesteps[0])))
    noise = torch.randn((len(timesteps), *clean.shape[1:]), generator=generator)
    bars = torch.tensor([alpha_cumprod_at(schedule, timestep) for timestep in timesteps])
    bars = bars.reshape(-1, *[1] * (clean.ndim - 1))
    clean = clean if schedule.edm is None else clean / schedule.edm.sigma_data
    return bars**0.5 * clean + (1.0 - bars) ** 0.5 * noise


def timesteps(checkpoint: Checkpoint, *, first_profile: bool) -> Sequence[tuple[float, float]]:
    """Where the U-Net is compared: pairs across the range at the first profile, one in its middle at the others.

    A batch may hold requests at different steps, so the two samples of a pair have timesteps of their own.
    """
    start, middle, end = (timestep_at(checkpoint.schedule(), fraction) for fraction in _NOISE_FRACTIONS)
    return [(start, start), (middle, end), (end, middle)] if first_profile else [(middle, start)]


def added_inputs(checkpoint: Checkpoint, profile: Profile) -> dict[str, torch.Tensor]:
    """What U-Nets may want beside sample and prompt, for two samples of a profile's size: as pictures are drawn."""
    size = (profile.height, profile.width)
    rows = {
        TimeIds.SIZE: ((*size, 0, 0, *size), (*size, 8, 16, *size)),
        TimeIds.AESTHETIC: ((*size, 0, 0, 2.5), (*size, 0, 0, 6.0)),
        TimeIds.MOTION: ((6, 127, 0.02), (24, 200, 0.1)),
        TimeIds.NONE: (),
    }
    added = {"time_ids": torch.tensor(rows[checkpoint.family.time_ids], dtype=torch.float32)}
    embedding = checkpoint.unet.get("time_cond_proj_dim")
    if embedding:
        scales = (checkpoint.family.defaults.guidance_scale, 1.0)
        added["timestep_cond"] = torch.from_numpy(
            np.stack([guidance_scale_embedding(scale, embedding) for scale in scales])
        )
    return added


def with_previous(probe: Probe) -> Probe:
    """A run with what other nets gave beside the inputs, each of whose outputs that is added to."""
    noise = np.random.default_rng(_SEED)
    given = {name: noise.standard_normal(array.shape, np.float32) for name, array in probe.outputs.items()}
    return Probe(
        profile=probe.profile,
        inputs={**probe.inputs, **{previous(name): array for name, array in given.items()}},
        outputs={name: array + given[name] for name, array in probe.outputs.items()},
    )


def record_probe(
    module: torch.nn.Module, profile: Profile, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str]
) -> Probe:
    """Runs a module in torch and keeps what went in and came out."""
    with torch.inference_mode():
        results = module(*inputs.values())
    return Probe(
        profile=profile,
        inputs={name: tensor.numpy() for name, tensor in inputs.items()},
        outputs={name: result.numpy() for name, result in zip(outputs, results, strict=True)},
    )
