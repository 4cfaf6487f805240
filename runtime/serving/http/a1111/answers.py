"""What A1111's API answers: pictures in base64, and what its clients read of them."""

import json
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel

from latentrt.runtime.call.result import Result
from latentrt.runtime.serving.http.a1111.bodies import DrawingBody, Img2ImgBody
from latentrt.runtime.serving.http.a1111.checkpoints import checkpoint
from latentrt.runtime.serving.http.a1111.current import timestamp
from latentrt.runtime.serving.http.a1111.settings import A1111Settings
from latentrt.runtime.serving.http.pictures import pictures_of, text_from_picture
from latentrt.runtime.serving.jobs.job import Job
from latentrt.runtime.serving.jobs.models import Models


class DrawingAnswer(BaseModel):
    """Pictures as PNGs in base64, the fields of the request, and what was drawn as JSON in a text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


def drawing_answer(
    body: DrawingBody, settings: A1111Settings, models: Models, job: Job, result: Result | None
) -> DrawingAnswer:
    """The answer to a request for pictures.

    Args:
        body: the request.
        settings: what it was drawn with.
        models: of the service.
        job: that drew it.
        result: the pictures; None: it was interrupted before there were any.
    """
    images = []
    if result is not None and body.send_images:
        told = (metadata.parameters() for metadata in result.metadata)
        images = [text_from_picture(image, text) for image, text in zip(pictures_of(result), told, strict=True)]
    return DrawingAnswer(
        images=images,
        parameters=dict(body.echo()),
        info=json.dumps(_info(body, settings, models, job, result), ensure_ascii=False),
    )


def _info(
    body: DrawingBody, settings: A1111Settings, models: Models, job: Job, result: Result | None
) -> dict[str, Any]:
    """What was drawn, in A1111's names; a client may read any of them."""
    told = () if result is None else result.metadata
    seeds = list(job.order.keywords["seed"]) if result is None else list(result.seeds)
    subseed = seeds[0] if body.subseed < 0 else body.subseed
    manifest = models.bundle(settings.model).manifest
    first, of_model = manifest.profiles[0], checkpoint(models, settings.model)
    width, height = (
        (told[0].width, told[0].height) if told else (body.width or first.width, body.height or first.height)
    )
    drawn_from_picture = isinstance(body, Img2ImgBody)
    return {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * len(seeds),
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * len(seeds),
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseed,
        "all_subseeds": [subseed + index for index in range(len(seeds))],
        "subseed_strength": 0.0,
        "width": width,
        "height": height,
        "sampler_name": told[0].sampler_label if told else body.sampler_title or "",
        "cfg_scale": manifest.defaults.guidance_scale if body.cfg_scale is None else body.cfg_scale,
        "steps": told[0].num_inference_steps if told else body.steps or manifest.defaults.num_inference_steps,
        "batch_size": body.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": settings.model,
        "sd_model_hash": of_model.short_hash or "",
        "sd_vae_name": told[0].vae if told else None,
        "sd_vae_hash": told[0].vae_hash if told else None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": body.denoising_strength if drawn_from_picture or body.enable_hr else None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [metadata.parameters() for metadata in told],
        "styles": [],
        "job_timestamp": timestamp(job.created),
        "clip_skip": settings.clip_layer,
        "is_using_inpainting_conditioning": manifest.unet_takes_mask,
        "version": f"latentrt {version('latentrt')}",
    }
