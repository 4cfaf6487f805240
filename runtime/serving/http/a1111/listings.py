"""What A1111's clients ask a server for before they draw: names of all kinds, in its fields."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from latentrt.engines.machine import available_memory
from latentrt.runtime.metadata.further_passes import UPSCALERS
from latentrt.runtime.serving.http.a1111.checkpoints import checkpoints
from latentrt.runtime.serving.http.a1111.enlarging import FILTERS
from latentrt.runtime.serving.http.a1111.ordering.hires import NO_UPSCALER
from latentrt.runtime.serving.http.a1111.ordering.samplers import SCHEDULERS, schedulers_of, titles
from latentrt.runtime.serving.http.errors import A1111_RESPONSES
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.models import Models

router = APIRouter(prefix="/sdapi/v1", responses=A1111_RESPONSES)
_LATENT = "latent"  # what our names of those that enlarge latents begin with
_OF_UPSCALERS = 4.0  # what A1111 tells of upscalers whose scale it does not know


class SamplerItem(BaseModel):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    """A scheduler: the curve of noise levels."""

    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float = -1.0
    need_inner_model: bool = False


class ModelItem(BaseModel):
    """A model; no path of this machine is told."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class LoraItem(BaseModel):
    """A LoRA."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


class UpscalerItem(BaseModel):
    """What enlarges pictures."""

    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float


class NameItem(BaseModel):
    """A name alone."""

    name: str


class EmbeddingItem(BaseModel):
    """A textual inversion, of which only the name is known before a model is opened."""

    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    shape: int | None = None
    vectors: int | None = None


class Embeddings(BaseModel):
    """Textual inversions by name; those for another model are left alone as it is opened."""

    loaded: dict[str, EmbeddingItem]
    skipped: dict[str, EmbeddingItem]


class Scripts(BaseModel):
    """The names of scripts: there are none."""

    txt2img: list[str]
    img2img: list[str]


class Memory(BaseModel):
    """What A1111 tells of memory, as far as a client may know."""

    ram: dict[str, float]
    cuda: dict[str, str]


@router.get("/samplers", summary="Samplers")
async def samplers() -> list[SamplerItem]:
    """A1111's samplers, those of CFG++ and some that it lacks."""
    return [
        SamplerItem(name=title, aliases=[sampler.name], options={"scheduler": ", ".join(schedulers_of(title))})
        for title, sampler in titles().items()
    ]


@router.get("/schedulers", summary="Schedulers")
async def schedulers() -> list[SchedulerItem]:
    """Those of A1111's that can be drawn with; not every sampler takes every one."""
    return [SchedulerItem(name=name, label=label) for name, label in SCHEDULERS.items()]


@router.get("/sd-models", summary="Models")
async def sd_models(request: Request) -> list[ModelItem]:
    """The models of the server."""
    return [
        ModelItem(
            title=one.title, model_name=one.name, hash=one.short_hash, sha256=None, filename=one.name, config=None
        )
        for one in checkpoints(_models(request))
    ]


@router.get("/loras", summary="LoRAs")
async def loras(request: Request) -> list[LoraItem]:
    """The LoRAs that prompts can name: ``<lora:style:0.8>``."""
    return [LoraItem(name=name, alias=name, path=name, metadata={}) for name in _catalog(request).loras]


@router.get("/embeddings", summary="Textual inversions")
async def embeddings(request: Request) -> Embeddings:
    """The textual inversions of the server."""
    return Embeddings(loaded={name: EmbeddingItem() for name in _catalog(request).embeddings}, skipped={})


@router.get("/upscalers", summary="What enlarges pictures")
async def upscalers(request: Request) -> list[UpscalerItem]:
    """Filters, and the upscalers of the server."""
    return [
        UpscalerItem(name=name, model_name=None, model_path=None, model_url=None, scale=_OF_UPSCALERS)
        for name in (NO_UPSCALER, *FILTERS, *_catalog(request).upscalers)
    ]


@router.get("/latent-upscale-modes", summary="What enlarges latents")
async def latent_upscale_modes() -> list[NameItem]:
    """For a hires fix."""
    return [NameItem(name=label) for name, label in UPSCALERS.items() if name.startswith(_LATENT)]


@router.get("/sd-vae", summary="Autoencoders: every model has its own")
@router.get("/prompt-styles", summary="Styles: there are none")
@router.get("/hypernetworks", summary="Hypernetworks: there are none")
@router.get("/face-restorers", summary="Face restorers: there are none")
@router.get("/realesrgan-models", summary="Real-ESRGAN models: see the upscalers")
@router.get("/script-info", summary="Scripts: there are none")
async def nothing() -> list[NameItem]:
    """An empty list."""
    return []


@router.get("/scripts", summary="Names of scripts: there are none")
async def scripts() -> Scripts:
    """Empty lists."""
    return Scripts(txt2img=[], img2img=[])


@router.get("/cmd-flags", summary="How the server was started")
async def cmd_flags() -> dict[str, bool]:
    """That this API is served; nothing else is told."""
    return {"api": True}


@router.get("/memory", summary="Free memory")
async def memory() -> Memory:
    """Free bytes of the machine's memory."""
    return Memory(ram={"free": float(available_memory())}, cuda={"error": "unavailable"})


@router.post("/refresh-checkpoints", summary="Changes nothing: the models are fixed")
@router.post("/refresh-vae", summary="Changes nothing: every model has its own")
@router.post("/refresh-loras", summary="Changes nothing: the LoRAs are fixed")
@router.post("/refresh-embeddings", summary="Changes nothing: the textual inversions are fixed")
async def refresh() -> None:
    """What requests may name is fixed as the server starts."""


def _models(request: Request) -> Models:
    models: Models = request.app.state.service.models
    return models


def _catalog(request: Request) -> Catalog:
    return _models(request).catalog
