"""``latentrt debug``: where a component on a backend goes wrong."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Bundle, Json, Steps, Threads
from latentrt.engines.errors import RequestError


def debug(
    bundle: Bundle,
    component: Annotated[str, typer.Option("--component", metavar="NAME", help="Which component to debug.")] = "unet",
    backend: Annotated[
        str, typer.Option("--backend", help="In question: ort-cpu, openvino, ort-cuda, tensorrt or tensorrt-rtx.")
    ] = "ort-cpu",
    against: Annotated[str, typer.Option("--against", help="The reference's backend, of the same ones.")] = "ort-cpu",
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="Debug a component in fp32 as a build in fp16 or bf16 would have it."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", metavar="DIR", help="Another bundle of the model for the reference, such as one in fp32."
        ),
    ] = None,
    modules: Annotated[
        str,
        typer.Option(
            "--modules", metavar="PATTERN", help="Compare tensors of these modules alone; others are fused as ever."
        ),
    ] = "*",
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="Draw this, and repeat its runs in place of the recorded ones."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="--prompt: the seed.")] = 0,
    steps: Steps = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="--prompt: guidance scale; the bundle's default if left out.")
    ] = None,
    run: Annotated[
        int | None,
        typer.Option("--run", metavar="N", help="Which run to repeat, from 0 on; all if left out."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", help="Relative error from which on two tensors are apart; by precision if left out."
        ),
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="fp16, bf16: look for modules that mend it when they are in fp32.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="DIR", help="Write graph, inputs and all tensors for polygraphy run."),
    ] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Find the first tensor of a component that is off on a backend, by torch module, and how the error grows."""
    from latentrt.cli.tables.debugging import findings_as_data, print_findings
    from latentrt.cli.terminal import BuildProgress, print_json
    from latentrt.debugging.debug import DebugSettings, debug_component
    from latentrt.debugging.drawn_runs import Drawing

    drawing = None if prompt is None else Drawing(prompt=prompt, seed=seed, steps=steps, guidance=guidance)
    if drawing is None and (seed, steps, guidance) != (0, None, None):
        raise RequestError("got seed, steps or guidance without a prompt, expected one to draw; add --prompt")
    settings = DebugSettings(
        backend=backend,
        against=against,
        precision=precision,
        reference=reference,
        modules=modules,
        drawing=drawing,
        run=run,
        tolerance=tolerance,
        suggest=suggest,
        save=save,
        threads=threads,
    )
    findings = debug_component(bundle, component, settings, BuildProgress())
    if json:
        print_json({"bundle": str(bundle), **findings_as_data(findings)})
    else:
        print_findings(findings, settings)
