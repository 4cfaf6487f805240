"""``latentrt build``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentrt.cli.commands.arguments import Json

if TYPE_CHECKING:
    from latentrt.building.result import Build


def build(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A diffusers folder, a checkpoint file, a hub id or address, emoji or emoji-video (the embedded "
            "models), the file of an upscaler (.pth, .onnx, …), or a bundle.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write the bundle to.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="fp32, fp16, bf16, int8 or fp8; fp32 or the bundle's own if left out."),
    ] = None,
    fastest: Annotated[
        bool,
        typer.Option(
            "--fastest",
            help="Measure every precision and backend of this machine, and keep the fastest that passes --quality.",
        ),
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            help="Compile for ort-cpu, openvino, openvino-gpu, openvino-npu, ort-cuda, tensorrt or tensorrt-rtx; "
            "ort-cpu if left out, and openvino for bf16.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", metavar="DEVICE", help="openvino: CPU, GPU or NPU; GPU is short for --backend openvino-gpu."
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            metavar="ARCH",
            help="tensorrt-rtx: compile for this GPU architecture, such as sm89; repeatable; this machine's GPU if "
            "left out.",
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option("--workspace", metavar="MB", help="TensorRT: limit on scratch memory per layer."),
    ] = None,
    lora_ready: Annotated[
        bool,
        typer.Option("--lora-ready", help="TensorRT: plans that take LoRAs without being built again."),
    ] = False,
    added: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="INPUTS",
            help="TensorRT: a second U-Net for control, image-prompt, perturbed-attention, freeu, or several of them.",
        ),
    ] = None,
    loop: Annotated[
        str,
        typer.Option(
            "--loop", help="TensorRT: device makes a second U-Net that makes whole steps, with what --with adds."
        ),
    ] = "host",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="WxH[xBATCH]",
            help="Picture size, and pictures per call, to build for; repeatable; the model's own size if left out. Of "
            "videos also the frames, as in 1024x576x14f; of upscalers the size of tiles.",
        ),
    ] = None,
    seamless: Annotated[
        str,
        typer.Option("--seamless", help="Axes on which the model's pictures tile without a seam: none, x, y or xy."),
    ] = "none",
    fp32: Annotated[
        list[str] | None,
        typer.Option(
            "--fp32",
            metavar="COMPONENT",
            help="Component to keep in fp32, such as vae_decoder, or modules of one, such as 'unet:*.mid_block.*'; "
            "repeatable.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Variant of a folder's weights to read, such as fp16.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="Model that supplies the components MODEL lacks.")
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(
            "--vae", metavar="MODEL", help="Folder, file or hub id of an autoencoder in place of the model's."
        ),
    ] = None,
    ema: Annotated[
        bool | None, typer.Option("--ema/--no-ema", help="Averaged or last weights, where the model has both.")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="Family, such as sd1, sdxl or stable-zero123; detected if left out.")
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option("--prediction-type", help="epsilon or v_prediction; detected if left out.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="PATH[:WEIGHT[:TEXT_WEIGHT]]",
            help="LoRA to fuse into the weights, and how much of it; repeatable. MODEL may be a bundle.",
        ),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option(
            "--sparsity",
            metavar="2:4",
            help="Make two of four weights zero in as many layers as --quality allows; for TensorRT.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="int8, fp8, bf16, --sparsity, --fastest: prompts to judge by, one a line; built-in if left out.",
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            "--quality",
            metavar="DB",
            help="int8, fp8, bf16, --sparsity, --fastest: required mean PSNR to fp32 pictures; 40 for bf16, else 30, "
            "if left out.",
        ),
    ] = None,
    for_bundle: Annotated[
        Path | None,
        typer.Option(
            "--for",
            metavar="BUNDLE",
            help="Bundle of the model that MODEL, then a ControlNet or the like, is built for.",
        ),
    ] = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(
            "--image-encoder", metavar="FOLDER", help="With --for, of an IP-Adapter: the CLIP vision model it uses."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Build a bundle from a model or an upscaler, or of a ControlNet or the like with --for.

    Of a bundle: compile its engines for this machine, make it int8, fp8 or bf16, or fuse LoRAs. With --fastest: keep
    what this machine draws fastest with.
    """
    from latentrt.building.build import build as build_bundle
    from latentrt.cli.terminal import BuildLog, BuildProgress, print_decisions, tell

    try:
        made = build_bundle(
            model,
            output,
            precision=precision,
            fastest=fastest,
            profiles=profile or (),
            backend=backend if device is None else _on_device(backend, device),
            gpus=gpu or (),
            workspace_mb=workspace,
            lora_ready=lora_ready,
            added=added or (),
            loop=loop,
            seamless=seamless,
            fp32=fp32 or (),
            variant=variant,
            base=base,
            vae=vae,
            ema=None if ema is None else "ema" if ema else "non-ema",
            family=family,
            prediction_type=prediction_type,
            loras=lora or (),
            sparsity=sparsity,
            prompts=prompts,
            quality=quality,
            for_bundle=for_bundle,
            image_encoder=image_encoder,
            progress=BuildLog() if json else BuildProgress(),
            decided=print_decisions,
        )
    except KeyboardInterrupt:
        tell(f"interrupted; {_kept(output)}")
        raise
    _print(made, json=json)


def _kept(output: Path | None) -> str:
    """What there is of a build that ends here."""
    from latentrt.building.destination import begun_beside

    if output is None:
        return "engines that are finished are kept in the bundle, and the same command makes the others"
    destination = output.resolve()
    before = "is as it was" if destination.exists() else "is not written"
    begun = begun_beside(destination)
    if not begun:
        return f"{str(output)!r} {before}, and the same command begins anew"
    folders = " and ".join(repr(str(path)) for path in begun)
    return f"{str(output)!r} {before}; what was made for it is kept in {folders}, and the same command goes on"


def _on_device(backend: str | None, device: str) -> str:
    from latentrt.engines.errors import RequestError

    named = {"CPU": "openvino", "GPU": "openvino-gpu", "NPU": "openvino-npu"}.get(device.upper())
    if backend != "openvino" or named is None:
        raise RequestError(
            f"got device {device} for backend {backend or 'ort-cpu'}, expected CPU, GPU or NPU with --backend "
            "openvino; correct it or leave it out"
        )
    return named


def _print(made: "Build", *, json: bool) -> None:
    from latentrt.cli.tables.speed import print_speed
    from latentrt.cli.terminal import print_json, say

    manifest, root = made.bundle.manifest, made.bundle.root
    if json:
        print_json(
            {
                "bundle": str(root),
                "up_to_date": made.up_to_date,
                "seconds": made.seconds,
                "decisions": {name: decision.model_dump() for name, decision in manifest.source.decisions.items()},
                "parity": {name: record.parity.model_dump() for name, record in manifest.components.items()},
                "speed": None if made.speed is None else made.speed.model_dump(mode="json"),
            }
        )
    elif made.up_to_date:
        say(f"{root} is up to date")
    else:
        say(f"{root} built in {sum(made.seconds.values()):.1f} s")
        longest = max(13, *map(len, manifest.components))
        for name, record in manifest.components.items():
            say(f"  {name:<{longest}} against {record.reference.label}: {record.parity.parity}")
    if made.speed is not None and not json:
        print_speed(made.speed.model_dump(mode="json"))
