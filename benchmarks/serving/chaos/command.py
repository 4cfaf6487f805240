"""The command ``chaos``."""

import argparse
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from latentrt.benchmarks.serving.alone import draw_alone
from latentrt.benchmarks.serving.chaos.parts import clients_that_go, ended_under_load, hostile_bodies, killed_render
from latentrt.benchmarks.serving.chaos.schema import ChaosResult
from latentrt.benchmarks.serving.mix import Mix, asked_pictures, prompts_of_the_model
from latentrt.benchmarks.serving.server import Server
from latentrt.cli.terminal import say, stderr
from latentrt.engines.documents import write_document

_OUT = Path("out/serving")
_CLIENTS, _PICTURES, _RENDERED, _KILLS = 200, 40, 30, 3
# Short enough that hundreds are drawn in a minute, long enough that some go while theirs is drawn
_MIX = Mix(sizes=((64, 64), (32, 32)), steps=(4, 8, 16), ways=("text", "negative"))


def add_chaos(commands: Any) -> None:
    """Adds the command to a parser's."""
    parser = commands.add_parser(
        "chaos", help="clients that go, hostile bodies, SIGTERM under load, kill -9 of a render"
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--folder", type=Path, default=_OUT / "chaos", help="keeps pictures")
    parser.add_argument("--clients", type=int, default=_CLIENTS, help="that go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=_OUT / "chaos.json")
    parser.set_defaults(run=_chaos)


def _chaos(arguments: argparse.Namespace) -> None:
    pictures = asked_pictures(_MIX, prompts_of_the_model(), _PICTURES, arguments.seed)
    alone, bundle = arguments.folder / "alone", arguments.bundle
    stderr.print(f"drawing {len(pictures)} pictures alone")
    draw_alone(bundle, pictures, alone, None)
    parts = []
    with Server(bundle) as server:
        stderr.print(f"{arguments.clients} clients that go")
        parts.append(clients_that_go(server, pictures, alone, arguments.clients, arguments.seed))
        stderr.print("hostile requests")
        parts.append(hostile_bodies(server, pictures, alone))
    stderr.print("SIGTERM under load")
    with Server(bundle, "--concurrency", "4") as server:
        parts.append(ended_under_load(server, [one for one in pictures if one.negative_prompt is None], alone))
    stderr.print("kill -9 of a render")
    parts.append(killed_render(bundle, pictures[:_RENDERED], alone, arguments.folder / "render", _KILLS))
    result = ChaosResult(
        latentrt=version("latentrt"), created=datetime.now(UTC).isoformat(timespec="seconds"), parts=tuple(parts)
    )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_document(arguments.json, result)
    for part in result.parts:
        say(part.line)
    for fault in result.faults:
        say(fault)
    if result.faults:
        raise SystemExit(1)
