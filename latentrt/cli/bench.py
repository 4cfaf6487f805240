"""``latentrt bench`` as it is typed; what it does is in ``benchmarks/bench/command.py``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import parameters_of, takes


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Its options, as typer reads them; the one place where they stand."""

    bundles: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR[@BACKEND]...", help="Bundles of one model, in as many precisions."),
    ] = None
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FOLDER", help="What the bundles were built from, for peers.")
    ] = None
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="NAME",
            help="diffusers (the reference), diffusers-bf16, diffusers-compile, optimum-onnx, openvino, openvino-f32, "
            "openvino-int8, openvino-int8-f32, openvino-genai, sd-cpp, all or none; repeatable.",
        ),
    ] = None
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="Of bundles that name none: auto if left out; repeatable.")
    ] = None
    report: Annotated[Path | None, typer.Option("--report", metavar="OUT.html", help="Where the report goes.")] = None
    json: Annotated[Path | None, typer.Option("--json", metavar="OUT.json", help="Where the result goes.")] = None
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="OUT.md", help="Where the table goes.")] = None
    runs: Annotated[int, typer.Option("--runs", help="Rounds of pictures.")] = 15
    cold_runs: Annotated[int, typer.Option("--cold-runs", help="Rounds of cold starts.")] = 7
    varied_runs: Annotated[int, typer.Option("--varied-runs", help="Rounds of throughput and scaling; 0: none.")] = 5
    steps: Annotated[int, typer.Option("--steps", help="Sampler steps.")] = 20
    guidance: Annotated[float, typer.Option("--guidance", help="Guidance scale.")] = 7.5
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first prompt; the others count up.")] = 1
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Picture size; the first profile's if left out.")
    ] = None
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="One prompt a line, for the quality figures.")
    ] = None
    threads: Annotated[int | None, typer.Option("--threads", help="Of every contender; one per core if left out.")] = (
        None
    )
    resident: Annotated[
        str, typer.Option("--resident", help="all, one (contender open at a time), or auto by the memory.")
    ] = "auto"
    icons: Annotated[
        Path | None, typer.Option("--icons", metavar="FILE.npz", help="Of examples/emoji_data.py: own-emoji rates.")
    ] = None
    icons_every: Annotated[int, typer.Option("--icons-every", help="Draw every n-th name only.")] = 8
    clip: Annotated[Path | None, typer.Option("--clip", metavar="FOLDER", help="A CLIP model: CLIP scores.")] = None
    peers: Annotated[
        Path | None, typer.Option("--peers", metavar="FOLDER", help="Where peers' environments are kept.")
    ] = None
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that one answer of a contender may take.")] = (
        1800.0
    )
    note: Annotated[str, typer.Option("--note", help="A sentence about the model, for the report.")] = ""
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option("--compare", metavar="OLD NEW", help="Two results: what changed.")
    ] = None
    merge: Annotated[
        Path | None, typer.Option("--merge", metavar="GPU.json", help="What make gpu measured: taken into the result.")
    ] = None
    render: Annotated[
        Path | None, typer.Option("--render", metavar="RESULT.json", help="Write report and table anew from a result.")
    ] = None


@takes("options", parameters_of(BenchOptions), BenchOptions)
def bench(options: BenchOptions) -> None:
    """Measure bundles against other runtimes on this machine; or compare two results."""
    from latentrt.benchmarks.bench.command import bench as run

    run(options)
