"""Builds a bundle from a model, or the engines that an existing bundle lacks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from latentrt.arguments.loras import LoraArgument, loras_from_arguments
from latentrt.bf16.settings import bf16_request_from_arguments
from latentrt.building.addon import build_addon, build_engines_of_addon
from latentrt.building.compiling import engines_to_make
from latentrt.building.default_backend import backend_for, no_backend_for
from latentrt.building.from_bundle import build_from_bundle
from latentrt.building.from_model import build_from_model
from latentrt.building.request import BuildRequest, profiles_from_arguments
from latentrt.building.result import Build
from latentrt.building.upscaler import build_engines_of_upscaler, build_upscaler, upscaler_of
from latentrt.engines.backends.compiler import WeightsAs
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.bundle.records.sparsity import Sparsity
from latentrt.engines.bundle.unet.added_inputs import added_from_texts
from latentrt.engines.choices import choice, choice_if_given
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision, check_computes
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.shapes import AddedInputs, Loop, Profile
from latentrt.export.sources.partial_model import Choices, Ema
from latentrt.fastest.build import build_fastest
from latentrt.fastest.settings import speed_request_from_arguments
from latentrt.quantization.settings import quantization_request_from_arguments
from latentrt.sparsity.settings import sparsity_request_from_arguments


def build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    precision: str | Precision | None = None,
    fastest: bool = False,
    profiles: Sequence[str | Profile] = (),
    backend: str | Backend | None = None,
    gpus: Sequence[str] = (),
    workspace_mb: int | None = None,
    lora_ready: bool = False,
    added: str | Sequence[str | AddedInputs] = (),
    loop: str | Loop = Loop.HOST,
    seamless: str | Seamless = Seamless.NONE,
    fp32: Sequence[str] = (),
    variant: str | None = None,
    base: str | Path | None = None,
    vae: str | Path | None = None,
    ema: str | Ema | None = None,
    family: str | None = None,
    prediction_type: str | PredictionType | None = None,
    loras: Sequence[str | Path | tuple[str | Path, *tuple[float, ...]] | LoraArgument] = (),
    sparsity: str | Sparsity | None = None,
    prompts: str | Path | None = None,
    quality: float | None = None,
    for_bundle: str | Path | None = None,
    image_encoder: str | Path | None = None,
    progress: Progress | None = None,
    decided: Callable[[Mapping[str, DecisionRecord]], None] | None = None,
) -> Build:
    """Builds a bundle from a model, a net for one or an upscaler, or the engines that a bundle lacks on this machine.

    The bundle is written beside ``output`` and renamed when it is complete, so an earlier one stays whole
    until then. A bundle that was built from the same files, for the same profiles and by the same versions
    is kept as it is.

    Args:
        model: a diffusers folder, a single file (``.safetensors``, ``.ckpt``), a folder with a U-Net alone, a hub id
            (``owner/name[@revision]``, with a folder or a file after a slash) or address, ``emoji`` or ``emoji-video``
            for the embedded models, an upscaler's file (``.pth`` or another of weights, ``.onnx``), or a bundle.
        output: the bundle's folder; needed unless engines are added to a bundle.
        precision: element type of weights and arithmetic: "fp32" (also None), "fp16", "bf16", "int8" or "fp8".
            Parts that overflow or lose too much in fp16 stay in fp32: SDXL's autoencoder, the timestep embedding's
            sines, and what else ``engines/graphs/islands.py`` lists. bf16 is for openvino and TensorRT. int8 is for the
            U-Net and, on CPUs, the VAE decoder; fp8 for the U-Net, with TensorRT on GPUs from sm89 on. bf16, int8 and
            fp8 are judged by pictures, and ``model`` may be a bundle in fp32.
        fastest: tries every precision and backend that this machine has, and keeps the one that draws a picture in the
            least time, among those whose pictures reach ``quality``. What was measured is ``Build.speed``, and in the
            bundle. ``model`` may be a bundle in fp32. Takes minutes, and hours for large models on CPUs.
        profiles: picture sizes, ``"512x512"`` or with a batch ``"768x512x2"``; without any, the model's own size.
            Of videos also how many frames, ``"1024x576x14f"``; without, as many as the model was trained on. Of an
            upscaler sizes of tiles; without any, 256x256, or the size that an ONNX file was exported for.
        backend: what the engines are compiled for; None is "openvino" for bf16 and "ort-cpu" for all else.
        gpus: GPU architectures such as ``"sm89"``, for ``tensorrt-rtx``: engines are compiled for each of them, on a
            machine with or without a GPU. Without any, engines are compiled for this machine.
        workspace_mb: scratch memory in MB that TensorRT's builder may plan per layer; None sets no limit.
        lora_ready: TensorRT: U-Net and text encoders take their weights as inputs, so that LoRAs change them without
            a build; else a plan is built for each set of LoRAs, and kept. Other backends need none of it.
        added: TensorRT: inputs that a second U-Net takes, for control nets and T2I-Adapters (``"control"``), image
            prompts (``"image-prompt"``), or both. Calls that add nothing go on with the plain one. Each combination is
            an engine of its own, and a further build adds another. Other backends need none of it.
        loop: TensorRT: ``"device"`` makes a second U-Net that makes whole steps, for ``latentrt.open(…,
            loop="device")``; with ``added`` it takes these. Other backends need none of it.
        seamless: axes along which pictures wrap around, so that copies side by side show no seam: ``"none"``,
            ``"x"``, ``"y"`` or ``"xy"``.
        fp32: components that stay in fp32 whatever the precision, such as ``"vae_decoder"``; for fp16 and bf16 also
            modules of one by the paths that ``latentrt debug`` tells, such as ``"unet:*.mid_block.*"``.
        variant: which weights of a folder, ``"fp16"`` or another; None takes the plain ones, or the only ones.
        base: a model that supplies the components that ``model`` lacks.
        vae: an autoencoder in place of the model's own: a folder, a file, a hub id or address.
        ema: ``"ema"`` or ``"non-ema"``, the averaged or the last weights, where a model has both; None takes the last
            ones of a single file, and the plain ones of a folder.
        family: the model's family, such as ``"sdxl"`` or ``"stable-zero123"``; None works it out.
        prediction_type: ``"epsilon"`` or ``"v_prediction"``; None works it out.
        loras: LoRAs to fuse into the weights: paths with weights behind colons (``"style.safetensors:0.8"``, or
            ``"style.safetensors:0.8:0.4"`` with another one for the text encoders), or tuples of a path and weights.
            ``model`` may be a bundle in fp32 or fp16, of which a new one is made.
        sparsity: ``"2:4"`` makes two of four weights zero in as many of the U-Net's layers as pictures allow; in fp32,
            fp16 and eight bits. TensorRT may leave zeros out; on CPUs nothing becomes faster.
        prompts: int8, fp8, bf16, sparsity and fastest: a text file of calibration prompts, one a line; None takes a
            list of 32.
        quality: int8, fp8, bf16, sparsity and fastest: required mean PSNR in dB of pictures against the fp32 engine's;
            None is 40 for bf16, else 30. In eight bits the nodes whose rounding costs most stay as they are until it
            is reached.
        for_bundle: the bundle of the model that ``model``, then a control net or a T2I-Adapter (a diffusers folder, a
            file, a hub id), is built for. Its family, its profiles and, unless ``precision`` says otherwise, its
            precision are the net's; for a model in eight bits nets are in fp32 for CPUs and in fp16 for GPUs.
        image_encoder: of an IP-Adapter: the folder of the CLIP vision model that it was trained with, or one on the
            hub.
        progress: receives the stages.
        decided: receives what was worked out about the model, before the export begins.

    Raises:
        LatentrtError: of the kind that names the reason: RequestError, CheckpointError, ParityError, BusyError,
            OutputError.
    """
    precision = choice_if_given(Precision, precision, "precision")
    pattern = choice_if_given(Sparsity, sparsity, "sparsity")
    speed = None
    if fastest:
        answered = {
            "precision": precision,
            "backend": backend,
            "gpu": gpus,
            "workspace": workspace_mb,
            "lora-ready": lora_ready,
            "with": added,
            "loop": loop != Loop.HOST,
            "fp32": fp32,
            "sparsity": sparsity,
        }
        speed = speed_request_from_arguments(prompts, quality, besides=[name for name in answered if answered[name]])
        prompts = quality = None
    named = backend is not None
    backend = choice(Backend, backend or backend_for(precision, [model, for_bundle]), "backend")
    if precision is not None:
        check_computes(backend, precision)
    bf16 = bf16_request_from_arguments(precision, prompts, quality)
    weights = WeightsAs.INPUTS if lora_ready else WeightsAs.CONSTANTS
    pruning = sparsity_request_from_arguments(pattern, precision, prompts, quality)
    if pruning is not None and precision not in EIGHT_BITS:
        prompts = quality = None
    quantization = (
        None if bf16 is not None else quantization_request_from_arguments(precision, backend, prompts, quality)
    )
    try:
        engines = engines_to_make(
            backend, gpus, workspace_mb, weights, added_from_texts(added), choice(Loop, loop, "loop")
        )
    except EngineError as error:
        if named or precision is not Precision.FP8:
            raise
        raise no_backend_for(precision) from error
    request = BuildRequest(
        model=str(model),
        output=None if output is None else Path(output),
        for_bundle=None if for_bundle is None else Path(for_bundle),
        image_encoder=None if image_encoder is None else str(image_encoder),
        precision=precision,
        profiles=profiles_from_arguments(profiles),
        seamless=choice(Seamless, seamless, "seamless"),
        fp32=tuple(fp32),
        loras=loras_from_arguments(loras),
        quantization=quantization,
        bf16=bf16,
        sparsity=pruning,
        engines=engines,
        choices=Choices(
            variant=variant,
            base=None if base is None else str(base),
            vae=None if vae is None else str(vae),
            ema=choice_if_given(Ema, ema, "ema"),
            family=family,
            prediction_type=choice_if_given(PredictionType, prediction_type, "prediction type"),
        ),
    )
    request.engines.check_precision(precision)
    request.engines.check_sparsity(pattern)
    timer = StageTimer(progress)
    if speed is not None:
        return build_fastest(request, speed, timer, decided)
    if request.starts_from_addon:
        return build_engines_of_addon(request, timer)
    if request.starts_from_upscaler:
        return build_engines_of_upscaler(request, timer)
    if request.image_encoder is not None and request.for_bundle is None:
        raise RequestError(
            "got an image encoder without the bundle of a model that an IP-Adapter is built for; give that with --for, "
            "or leave --image-encoder out"
        )
    if request.for_bundle is not None:
        return build_addon(request, timer, decided)
    upscaler = upscaler_of(request)
    if upscaler is not None:
        return build_upscaler(upscaler, request, timer, decided)
    if request.starts_from_bundle:
        return build_from_bundle(request, timer, decided)
    return build_from_model(request, timer, decided)
