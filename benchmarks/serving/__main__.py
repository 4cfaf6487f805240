"""python -m latentrt.benchmarks.serving load BUNDLE … | chaos BUNDLE … | render RESULT …"""

import argparse
import shlex
import sys
from pathlib import Path

from latentrt.benchmarks.serving.chaos.command import add_chaos
from latentrt.benchmarks.serving.load import LoadPlan, load
from latentrt.benchmarks.serving.markdown import COLUMNS, rows, sentences, serving_markdown, with_figures
from latentrt.benchmarks.serving.page import serving_html
from latentrt.benchmarks.serving.schema import ServingResult, read_serving_result
from latentrt.cli.terminal import print_table, say, stderr
from latentrt.engines.documents import write_document
from latentrt.engines.errors import LatentrtError
from latentrt.engines.files import write_file

_OUT = Path("out/serving")


def main() -> None:
    """Reads the arguments and does what they say."""
    parser = argparse.ArgumentParser(prog="python -m latentrt.benchmarks.serving", description=__doc__)
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("load", help="clients at a server, beside one at a time and beside peers")
    measure.add_argument("bundle", type=Path)
    measure.add_argument("--checkpoint", type=Path, help="that it was built from: measures the peers with it")
    measure.add_argument("--folder", type=Path, default=_OUT, help="keeps pictures, and the peers' environments")
    measure.add_argument("--requests", type=int, default=LoadPlan.requests)
    measure.add_argument("--different", type=int, default=LoadPlan.different)
    measure.add_argument("--rounds", type=int, default=LoadPlan.rounds)
    measure.add_argument("--clients", type=int, nargs="+", default=LoadPlan.clients)
    measure.add_argument("--peer-rounds", type=int, default=LoadPlan.peer_rounds)
    measure.add_argument("--overhead-rounds", type=int, default=LoadPlan.overhead_rounds)
    measure.add_argument("--seed", type=int, default=LoadPlan.seed)
    measure.add_argument("--json", type=Path, default=_OUT / "load.json")
    measure.set_defaults(run=_load)
    render = commands.add_parser("render", help="writes page and tables anew from a result")
    render.add_argument("result", type=Path)
    render.set_defaults(run=_render)
    for command in (measure, render):
        command.add_argument("--report", type=Path, help="the HTML page")
        command.add_argument("--markdown", type=Path, help="the tables")
        command.add_argument("--page", type=Path, help="a page whose place for figures is filled")
    add_chaos(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except LatentrtError as error:
        parser.exit(1, f"{error}\n")


def _load(arguments: argparse.Namespace) -> None:
    plan = LoadPlan(
        bundle=arguments.bundle,
        checkpoint=arguments.checkpoint,
        folder=arguments.folder,
        clients=tuple(arguments.clients),
        requests=arguments.requests,
        different=arguments.different,
        rounds=arguments.rounds,
        peer_rounds=arguments.peer_rounds,
        overhead_rounds=arguments.overhead_rounds,
        seed=arguments.seed,
    )
    command = shlex.join(["python", "-m", "latentrt.benchmarks.serving", *sys.argv[1:]])
    result = load(plan, command=command, told=lambda line: stderr.print(line))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_document(arguments.json, result)
    _write(result, arguments)
    if result.pictures.wrong:
        raise SystemExit(f"{len(result.pictures.wrong)} pictures were lost or were others: see {arguments.json}")


def _render(arguments: argparse.Namespace) -> None:
    _write(read_serving_result(arguments.result), arguments)


def _write(result: ServingResult, arguments: argparse.Namespace) -> None:
    """Writes what is wanted, and prints tables and sentences."""
    if arguments.report is not None:
        page = serving_html(result)
        write_file(arguments.report, lambda path: path.write_text(page, "utf-8"))
    if arguments.markdown is not None:
        table = serving_markdown(result)
        write_file(arguments.markdown, lambda path: path.write_text(table, "utf-8"))
    if arguments.page is not None:
        text = with_figures(arguments.page.read_text("utf-8"), result)
        write_file(arguments.page, lambda path: path.write_text(text, "utf-8"))
    for part in result.comparisons:
        print_table(part.title, COLUMNS, rows(part))
    for line in sentences(result):
        say(line)


if __name__ == "__main__":
    main()
