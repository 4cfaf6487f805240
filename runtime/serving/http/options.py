"""What requests may ask for: models with their sizes and defaults, samplers, and names of all else."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models

router = APIRouter(tags=["options"])


class Size(BaseModel):
    """A size that a model draws, and how many pictures of it in one call of its engine."""

    width: int
    height: int
    batch: int


class Defaults(BaseModel):
    """What a model draws with where a request says nothing."""

    sampler: str
    num_inference_steps: int
    guidance_scale: float
    strength: float


class ModelOptions(BaseModel):
    """A model: its name, and what it is."""

    name: str
    family: str
    sizes: list[Size]
    defaults: Defaults
    inpainting: bool
    opened: bool


class SamplerOptions(BaseModel):
    """A sampler: its name in requests, and the one that people know."""

    name: str
    label: str


class LimitOptions(BaseModel):
    """The most that one request may ask for."""

    pictures: int
    pixels: int
    steps: int
    queued: int


class Options(BaseModel):
    """All that requests may name."""

    models: list[ModelOptions]
    samplers: list[SamplerOptions]
    loras: list[str]
    embeddings: list[str]
    nets: list[str]
    upscalers: list[str]
    wildcards: bool
    limits: LimitOptions


@router.get("/v1/options", summary="Models, samplers, LoRAs, embeddings, nets and upscalers by name")
async def options(request: Request) -> Options:
    """All that requests may name, and their limits."""
    models: Models = request.app.state.service.models
    limits: Limits = request.app.state.service.limits
    catalog, opened = models.catalog, models.opened
    return Options(
        models=[_model(name, models.bundle(name).manifest, name in opened) for name in catalog.models],
        samplers=[SamplerOptions(name=row.name, label=row.label) for row in SAMPLERS.values()],
        loras=list(catalog.loras),
        embeddings=list(catalog.embeddings),
        nets=list(catalog.nets),
        upscalers=list(catalog.upscalers),
        wildcards=catalog.wildcards is not None,
        limits=LimitOptions(pictures=limits.pictures, pixels=limits.pixels, steps=limits.steps, queued=limits.queued),
    )


def _model(name: str, manifest: BundleManifest, opened: bool) -> ModelOptions:
    return ModelOptions(
        name=name,
        family=manifest.family,
        sizes=[Size(width=one.width, height=one.height, batch=one.batch) for one in manifest.profiles],
        defaults=Defaults(**{field: getattr(manifest.defaults, field) for field in Defaults.model_fields}),
        inpainting=manifest.unet_takes_mask,
        opened=opened,
    )
