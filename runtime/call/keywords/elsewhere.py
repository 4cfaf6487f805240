"""What diffusers' users know under another name, and what does the same here."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from latentrt.engines.errors import RequestError

_SAMPLER = "choose the sampler in the call, as sampler='euler_a'"
_INTERRUPT = "raise latentrt.Interrupt in callback_on_step_end"
_GUIDANCE = "give guidance_scale to the call, or return {'guidance_scale': 3.0} from callback_on_step_end"
_BUILT_IN = "build a bundle of the model that has it, and open that"
_BACKEND = "choose the backend as the bundle is opened: latentrt.open(bundle, backend=…)"
_LORAS = "load LoRAs with load_lora and name them in the call, as loras={'style': 0.8}"
_UNLOAD = "use unload_lora"
_CONTROL = "give control=[latentrt.Control('canny.bundle', edges, scale=0.8)]"
_CONTROL_FIELDS = "give {} to latentrt.Control, as control=[latentrt.Control('canny.bundle', edges, {}={})]"
_IMAGE_PROMPT = "give image_prompt=[latentrt.ImagePrompt('plus.bundle', photograph, scale=0.6)]"
_HIRES = "give hires=latentrt.Hires(scale=2.0)"
_STEPS = "progress is told the number of model calls"

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "strength": "a picture to start from goes with it: use img2img",
        "image_guidance_scale": "a picture to edit goes with it: use edit",
        "scheduler": _SAMPLER,
        "generator": "give seed: one for the batch, or one per picture",
        "eta": "give it to the sampler, as sampler=latentrt.Sampler(name='ddim', eta=0.5)",
        "callback": "use callback_on_step_end",
        "callback_steps": "use callback_on_step_end, which is called after every step",
        "interrupt": _INTERRUPT,
        "_interrupt": _INTERRUPT,
        "_guidance_scale": _GUIDANCE,
        "guidance_scale": _GUIDANCE,
        "num_timesteps": _STEPS,
        "_num_timesteps": _STEPS,
        "encode_prompt": "use encode",
        "load_lora_weights": _LORAS,
        "set_adapters": _LORAS,
        "enable_lora": _LORAS,
        "disable_lora": "what a call does not name in loras is not used",
        "fuse_lora": _LORAS,
        "unfuse_lora": _UNLOAD,
        "unload_lora_weights": _UNLOAD,
        "delete_adapters": _UNLOAD,
        "get_list_adapters": "read pipe.loras",
        "get_active_adapters": "a call uses what it names in loras; read pipe.loras for what is loaded",
        "cross_attention_kwargs": _LORAS,
        "controlnet": _CONTROL,
        "control_net": _CONTROL,
        "adapter": _CONTROL,
        "control_image": _CONTROL,
        "controlnet_cond": _CONTROL,
        "controlnet_conditioning_image": _CONTROL,
        "controlnet_conditioning_scale": _CONTROL_FIELDS.format("scale", "scale", "0.8"),
        "adapter_conditioning_scale": _CONTROL_FIELDS.format("scale", "scale", "0.8"),
        "adapter_conditioning_factor": _CONTROL_FIELDS.format("end", "end", "0.8"),
        "control_guidance_start": _CONTROL_FIELDS.format("start", "start", "0.2"),
        "control_guidance_end": _CONTROL_FIELDS.format("end", "end", "0.8"),
        "guess_mode": _CONTROL_FIELDS.format("mode", "mode", "'control'"),
        "control_mode": "give mode to latentrt.Control; type for the kinds of a union net",
        "ip_adapter_image": _IMAGE_PROMPT,
        "ip_adapter_image_embeds": _IMAGE_PROMPT,
        "load_ip_adapter": f"build it with latentrt build ADAPTER --for BUNDLE, and {_IMAGE_PROMPT}",
        "set_ip_adapter_scale": _IMAGE_PROMPT,
        "unload_ip_adapter": "what a call does not name in image_prompt is not used",
        "image_encoder": "give it as an IP-Adapter is built: latentrt build ADAPTER --image-encoder FOLDER",
        "enable_hr": _HIRES,
        "hr_scale": _HIRES,
        "hr_upscaler": _HIRES,
        "hr_second_pass_steps": "give hires=latentrt.Hires(scale=2.0, steps=20)",
        "denoising_strength": "give strength to img2img, or to latentrt.Hires",
        "lora_cache": "set its size, as pipe.lora_cache.size = 4",
        "unet": _BUILT_IN,
        "vae": f"{_BUILT_IN}; how pictures go through it is chosen in the call, as vae='tiled'",
        "text_encoder": _BUILT_IN,
        "text_encoder_2": _BUILT_IN,
        "tokenizer": _BUILT_IN,
        "tokenizer_2": _BUILT_IN,
        "safety_checker": "there is none to turn off",
        "to": _BACKEND,
        "device": _BACKEND,
        "enable_vae_tiling": "give vae='tiled' to the call",
        "enable_vae_slicing": "give vae='sliced' to the call",
    }
)
"""Advice, by the name of a keyword or of a pipeline's attribute."""


class UnknownAttributeError(RequestError, AttributeError):
    """An attribute that a pipeline does not have."""


def unknown_attribute(name: str, keywords: Collection[str], *, to_set: bool) -> UnknownAttributeError:
    """The refusal of an attribute, read or set, with what does the same.

    Args:
        name: of the attribute.
        keywords: of a call.
        to_set: whether somebody set it.
    """
    got = "set on a pipeline, which would change nothing" if to_set else "of a pipeline, which has none of that name"
    known = (
        f"give it to the call, as pipe(prompt, {name}=…)" if name in keywords else "correct the name, or leave it out"
    )
    return UnknownAttributeError(f"got attribute {name!r} {got}; {ELSEWHERE.get(name, known)}")
