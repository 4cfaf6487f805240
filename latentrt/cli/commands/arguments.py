"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Bundle = Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampler steps; the bundle's default if left out.")]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="Whose engines to run: auto, ort-cpu, openvino, openvino-gpu, openvino-npu, ort-cuda, tensorrt or "
        "tensorrt-rtx.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads of a model call; one per core if left out.")
]
Loop = Annotated[
    str, typer.Option("--loop", help="Where latents are between model calls: host or device, whose engine makes steps.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
