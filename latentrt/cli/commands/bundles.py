"""``latentrt inspect``, ``verify`` and ``compare``: looking at bundles."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Backend, Bundle, Json, Prompt, Steps, Threads

_TENSORS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_LORAS = ("adapter_config.json", "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_SHOWN = 100  # characters of a text in a header


def inspect(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The bundle's folder; or a picture or a clip, whose settings are shown; or a LoRA's file or folder.",
        ),
    ],
    json: Json = False,
) -> None:
    """Show what a bundle holds: source, profiles, components and engines, with precision and parity."""
    from latentrt.cli.tables.description import print_description
    from latentrt.cli.terminal import print_json
    from latentrt.describing import describe

    if bundle.is_file() or _holds_lora(bundle):
        is_lora = bundle.is_dir() or bundle.suffix.lower() in _TENSORS
        (_inspect_lora if is_lora else _inspect_picture)(bundle, json=json)
        return
    description = describe(bundle)
    if json:
        print_json(description)
    else:
        print_description(description)


def _holds_lora(folder: Path) -> bool:
    """Whether a folder is one that PEFT, diffusers or InvokeAI write."""
    return any((folder / part / name).is_file() for part in ("", "unet", "text_encoder") for name in _LORAS)


def _inspect_lora(path: Path, *, json: bool) -> None:
    from latentrt.cli.terminal import print_json, say
    from latentrt.describing_loras import describe_lora

    told = describe_lora(path)
    if json:
        print_json(told)
        return
    say(f"{told['file']}: {', '.join(told['kinds']) or 'biases'} for {told['modules']} modules")
    say(f"base       {told['base'] or 'its trainer does not say'}")
    if told["accelerator"]:
        say(f"{'few steps':<10} {told['accelerator']}: {told['advice']}")
    if told["trigger_words"]:
        say(f"{'triggers':<10} {', '.join(told['trigger_words'])}")
    say(f"hash       {told['short_hash']}")
    for name, value in told["metadata"].items():
        text = " ".join(value.split())
        say(f"{name}: {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}")


def _inspect_picture(path: Path, *, json: bool) -> None:
    from latentrt.cli.terminal import print_json, say
    from latentrt.engines.errors import RequestError
    from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters

    parameters = read_parameters(path)
    if parameters is None:
        raise RequestError(f"got {str(path)!r}, a picture without settings, expected one that was drawn; name another")
    if json:
        print_json(settings_from_parameters(parameters))
    else:
        say(parameters)


def compare(
    first: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The reference, such as the bundle in fp32.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="A bundle of the same model, such as int8.")],
    prompt: Prompt,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="Where to write the picture.")],
    seed: Annotated[int, typer.Option("--seed", help="The seed of both pictures.")] = 0,
    steps: Steps = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="Guidance scale; the bundle's default if left out.")
    ] = None,
    backend: Backend = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Draw one prompt with two bundles: both pictures and their difference, amplified eight times."""
    from latentrt.cli.comparing import compare as compare_bundles
    from latentrt.cli.terminal import print_json, say

    comparison = compare_bundles(
        first,
        second,
        prompt,
        output,
        seed=seed,
        steps=steps,
        guidance_scale=guidance,
        backend=backend,
        threads=threads,
    )
    if json:
        print_json({"picture": str(output), "psnr": comparison.psnr})
    else:
        say(f"{output}  ({comparison.names[1]} against {comparison.names[0]}: PSNR {comparison.psnr:.1f} dB)")


def verify(bundle: Bundle, backend: Backend = "auto", threads: Threads = None, json: Json = False) -> None:
    """Check every file of a bundle, and compare its engines on this machine with its recorded outputs."""
    from latentrt.cli.terminal import BuildProgress, print_json, say
    from latentrt.engines.bundle.bundle import folder_and_seal
    from latentrt.engines.bundle.checks.parity import Reference
    from latentrt.verifying import verify as verify_bundle

    figures = verify_bundle(bundle, backend=backend, threads=threads, progress=BuildProgress())
    if json:
        print_json({"bundle": str(bundle), "parity": {name: asdict(parity) for name, parity in figures.items()}})
        return
    components = folder_and_seal(bundle)[0].manifest.components
    for name, parity in figures.items():
        say(f"{name:<13} {parity}")
    by_reference = {
        reference: [name for name in figures if components[name].reference is reference] for reference in Reference
    }
    if not by_reference[Reference.ONNX]:
        say(f"{bundle} is whole, and its engines agree with torch")
        return
    say(f"{bundle} is whole, and its engines agree with what they were compared with as they were built:")
    for reference, names in by_reference.items():
        if names:
            say(f"  {', '.join(names)} with {reference.label}")
