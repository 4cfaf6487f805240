"""The diffusers side of the parity tests: the same request, answered by torch and diffusers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from latentrt.engines.spec import Array
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Level

# Each of our samplers as a diffusers class with keywords. DDIM's and DDPM's classes clip x₀ to [−1, 1] unless told
# otherwise, which is meant for pixels; SD 1.5's own scheduler file says false.
_UNCLIPPED = {"clip_sample": False}
_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", _UNCLIPPED),
    "ddpm": ("DDPMScheduler", _UNCLIPPED),
    "pndm": ("PNDMScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", _UNCLIPPED),
    "edm_euler": ("EDMEulerScheduler", {}),
}
_PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm_2": ("KDPM2DiscreteScheduler", {}),
    "kdpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {"solver_order": 2}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"solver_order": 2, **_SDE}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    **_PLAIN,
    **_PAIRS,
    **{f"{name}_k": (of, {**keywords, **_KARRAS}) for name, (of, keywords) in _PAIRS.items()},
}
# The same on EDM's noise levels
EDM_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "edm_euler": ("EDMEulerScheduler", {}),
    "euler": ("EDMEulerScheduler", {}),
    "euler_k": ("EDMEulerScheduler", {"sigma_schedule": "karras"}),
    "dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {}),
    "dpmpp_2m_k": ("EDMDPMSolverMultistepScheduler", {"sigma_schedule": "karras"}),
    "dpmpp_2m_sde": ("EDMDPMSolverMultistepScheduler", _SDE),
    "dpmpp_3m": ("EDMDPMSolverMultistepScheduler", {"solver_order": 3}),
}
# Wishes that the reference takes in `step`, or in `set_timesteps`; the rest belongs to its config
_OF_STEP = {"eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "order"}
_OF_TIMESTEPS = {"timesteps", "sigmas"}
# Schedulers that nobody has used, by their settings: making one takes up to half a second, as it begins with 1000 steps
_MADE: dict[str, Any] = {}


@dataclass(frozen=True)
class Reference:
    """What diffusers drew: latents (N, C, h, w) and pixels (N, H, W, 3) in [0, 1]."""

    latents: Array
    pixels: Array


def scheduler_for(sampler: str | Sampler, config: Mapping[str, Any], **changes: Any) -> Any:
    """The diffusers scheduler that a sampler stands for, over a model's config."""
    import diffusers

    sampler = Sampler(name=sampler) if isinstance(sampler, str) else sampler
    edm = "sigma_data" in config
    name, keywords = (EDM_SCHEDULERS if edm else SCHEDULERS)[sampler.name]
    wishes = {k: v for k, v in sampler.wishes.items() if k not in _OF_STEP | _OF_TIMESTEPS}
    spacing = wishes.pop("sigma_spacing", None)
    if spacing is not None:
        wishes |= {"sigma_schedule": spacing} if edm else {}
        wishes |= {} if edm else {{"lu": "use_lu_lambdas"}.get(spacing, f"use_{spacing}_sigmas"): True}
    kind = getattr(diffusers, name)
    # from_config hides what a class does not know; here it would hide a test that compares nothing
    unknown = wishes.keys() - signature(kind.__init__).parameters.keys()
    assert not unknown, f"{name} does not know {unknown}"
    # It also remembers which keys were left at their defaults and drops those from a config object.
    settings = dict(config), {**keywords, **changes, **wishes}
    key = f"{name} {settings}"
    if key not in _MADE:
        _MADE[key] = kind.from_config(settings[0], **settings[1])
    return deepcopy(_MADE[key])


def set_timesteps(reference: Any, sampler: Sampler, steps: int) -> None:
    """Gives the reference its steps, or the sampler's custom ones."""
    custom = {k: list(v) for k, v in sampler.wishes.items() if k in _OF_TIMESTEPS}
    if custom:
        reference.set_timesteps(**custom)
    else:
        reference.set_timesteps(steps)


def reference_steps(
    reference: Any, sampler: Sampler, x: Array, start: int, model: Callable[[Array, float], Array], seed: int
) -> list[Array]:
    """The sample after each of the reference's steps, from its timestep number ``start`` on.

    Args:
        reference: with its timesteps set.
        sampler: whose options belong to the reference's `step`.
        x: where to start.
        start: how many of its timesteps to leave out.
        model: (scaled x, timestep) to output.
        seed: of the generator.
    """
    timesteps = reference.timesteps[start:]
    if hasattr(reference, "set_begin_index"):
        reference.set_begin_index(start)
    generator = torch.Generator().manual_seed(seed)
    known = signature(reference.step).parameters
    keywords = {k: v for k, v in sampler.wishes.items() if k in _OF_STEP}
    if "eta" in known:
        keywords.setdefault("eta", 0.0)  # as the pipelines pass it
    if "generator" in known:
        keywords["generator"] = generator
    if type(reference).__name__ == "DPMSolverSDEScheduler":
        path = Noise(seed, x.shape)
        reference.noise_sampler = lambda a, b: torch.from_numpy(
            path.between(Level(0.0, 1.0, float(a)), Level(0.0, 1.0, float(b)))
        )
    seen, sample = [], torch.from_numpy(x)
    for timestep in timesteps:
        scaled = reference.scale_model_input(sample, timestep)
        output = torch.from_numpy(model(scaled.numpy().astype(np.float32), float(timestep)))
        sample = reference.step(output, timestep, sample, **keywords).prev_sample
        seen.append(sample.numpy())
    return seen


class DiffusersReference:
    """A checkpoint's diffusers pipelines over the same modules."""

    def __init__(self, checkpoint: Path) -> None:
        import diffusers

        loaded: Any = diffusers.DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
        self.config = dict(loaded.scheduler.config)
        kind, options = "StableDiffusion", {"requires_safety_checker": False}
        if "XL" in type(loaded).__name__:
            zeros = loaded.config.force_zeros_for_empty_prompt
            kind, options = "StableDiffusionXL", {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}

        def pipeline(suffix: str, **more: Any) -> Any:
            chosen = getattr(diffusers, f"{kind}{suffix}Pipeline")
            known = signature(chosen.__init__).parameters
            return chosen(**{k: v for k, v in loaded.components.items() if k in known}, **options, **more)

        scored = loaded.config.get("requires_aesthetics_score")
        more = {} if scored is None else {"requires_aesthetics_score": scored}
        self.text = pipeline("")
        self.image = pipeline("Img2Img", **more)
        if type(loaded).__name__ == "LatentConsistencyModelPipeline":
            self.image = diffusers.LatentConsistencyModelImg2ImgPipeline(
                **loaded.components, requires_safety_checker=False
            )
        self.inpaint = pipeline("Inpaint", **more)
        for pipeline in (self.text, self.image, self.inpaint):
            pipeline.set_progress_bar_config(disable=True)

    def draw(
        self,
        *,
        prompt: str | list[str],
        sampler: str | Sampler,
        seeds: int | list[int],
        size: tuple[int, int],
        negative_prompt: str | list[str] | None = None,
        changes: Mapping[str, Any] = MappingProxyType({}),
        steps: int | None = None,
        guidance_scale: float = 7.5,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        **more: Any,
    ) -> Reference:
        """Draws with diffusers; seeds are one generator for the batch or one each, as in our pipeline.

        Raises:
            ValueError: as diffusers does.
        """
        sampler = Sampler(name=sampler) if isinstance(sampler, str) else sampler
        scheduler = scheduler_for(sampler, self.config, **changes)
        generator = (
            torch.Generator().manual_seed(seeds)
            if isinstance(seeds, int)
            else [torch.Generator().manual_seed(seed) for seed in seeds]
        )
        common = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "guidance_scale": guidance_scale,
            "generator": generator,
            "output_type": "latent",
            **({} if steps is None else {"num_inference_steps": steps}),
            **{k: list(v) for k, v in sampler.wishes.items() if k in _OF_TIMESTEPS},
            **({"eta": sampler.eta} if sampler.eta is not None else {}),
            **more,
        }
        if image is None:
            pipeline, draws = self.text, 1
            common.update(width=size[0], height=size[1])
        elif mask_image is None:
            pipeline, draws = self.image, 2
            common.update(image=image, **({} if strength is None else {"strength": strength}))
        else:
            pipeline, draws = self.inpaint, 3
            common.update(image=image, mask_image=mask_image, strength=strength, width=size[0], height=size[1])
        pipeline.scheduler = scheduler
        with _our_brownian_path(seeds, draws):
            latents = pipeline(**common).images
        if more.get("output_type", "latent") != "latent":
            return Reference(np.zeros(0), np.stack([np.asarray(picture) for picture in latents]))
        return Reference(latents.numpy(), self.decoded(latents))

    def decoded(self, latents: Any) -> Array:
        """The pixels (N, H, W, 3) in [0, 1] of latents."""
        config = self.text.vae.config
        if config.latents_mean is None:
            raw = latents / config.scaling_factor
        else:  # as the pipelines of SDXL do
            mean, deviation = (torch.tensor(s).view(1, -1, 1, 1) for s in (config.latents_mean, config.latents_std))
            raw = latents * deviation / config.scaling_factor + mean
        with torch.inference_mode():
            decoded = self.text.vae.decode(raw, return_dict=False)[0]
        return np.asarray(self.text.image_processor.postprocess(decoded, output_type="np"))


@contextmanager
def _our_brownian_path(seeds: int | list[int], draws: int) -> Iterator[None]:
    """Gives DPM++ SDE's class our noise instead of its Brownian tree, which the seed does not reach.

    ``draws`` is how often the workflow draws from the seed before the first step.
    """
    from diffusers.schedulers import scheduling_dpmsolver_sde as module

    def sampler(x: torch.Tensor, *_: Any, **__: Any) -> Callable[[Any, Any], torch.Tensor]:
        path = Noise(seeds if isinstance(seeds, int) else tuple(seeds), tuple(x.shape))
        for _ in range(draws):
            path()

        def between(start: Any, end: Any) -> torch.Tensor:
            return torch.from_numpy(path.between(Level(0.0, 1.0, float(start)), Level(0.0, 1.0, float(end))))

        return between

    kept = module.BrownianTreeNoiseSampler
    module.BrownianTreeNoiseSampler = sampler
    try:
        yield
    finally:
        module.BrownianTreeNoiseSampler = kept
