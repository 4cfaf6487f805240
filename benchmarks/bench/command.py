"""``latentrt bench``: measures, compares or renders, and what that leaves on disk and on the terminal."""

import shlex
import sys
from importlib import import_module
from pathlib import Path

from latentrt.benchmarks.bench.benchmark import run
from latentrt.benchmarks.bench.plan import plan_from_options
from latentrt.benchmarks.report.changes import changes_between
from latentrt.benchmarks.report.gpu.schema import read_gpu_result
from latentrt.benchmarks.report.markdown import markdown_table, summary_rows
from latentrt.benchmarks.report.schema import BenchResult, read_result
from latentrt.cli.bench import BenchOptions
from latentrt.cli.terminal import BuildProgress, print_table, say, stderr
from latentrt.engines.documents import write_document
from latentrt.engines.errors import RequestError
from latentrt.engines.files import check_writable, write_file


def bench(options: BenchOptions) -> None:
    """The command.

    Raises:
        LatentrtError: something that the user can mend.
    """
    if sum((bool(options.bundles), options.compare is not None, options.render is not None)) != 1:
        raise RequestError(
            "expected bundles to measure, two results to --compare, or one to --render; name one of the three"
        )
    if options.compare is not None:
        _compare(options)
    elif options.render is not None:
        _render(options)
    else:
        _measure(options)


def _measure(options: BenchOptions) -> None:
    plan = plan_from_options(options)
    _check_outputs(options)
    gpu = None if options.merge is None else read_gpu_result(options.merge)
    _check_packages("a benchmark", "psutil", "skimage.metrics", "flip_evaluator")
    journal = options.json.with_name(f".{options.json.name}.journal") if options.json else None
    result = run(
        plan,
        command=shlex.join(["latentrt", *(_shown(word) for word in sys.argv[1:])]),
        journal_path=journal,
        told=lambda line: stderr.print(line),
        progress=BuildProgress(),
    )
    _write(result if gpu is None else result.model_copy(update={"gpu": gpu}), options)
    if journal is not None:
        journal.unlink(missing_ok=True)


def _shown(word: str) -> str:
    """An argument as it may stand in a report: of an absolute path only its end."""
    return Path(word).name if word.startswith(("/", "~")) else word


def _render(options: BenchOptions) -> None:
    """Writes report and table anew from a result; with what a GPU's result says, the result, too."""
    assert options.render is not None
    result = read_result(options.render)
    if options.merge is not None:
        result = result.model_copy(update={"gpu": read_gpu_result(options.merge)})
    elif options.json is not None:
        raise RequestError("got --json with --render, expected --report, --markdown or --merge; leave it out")
    if not _outputs(options):
        raise RequestError("got --render alone, expected what to write; add --report or --markdown")
    _check_outputs(options)
    _write(result, options)


def _compare(options: BenchOptions) -> None:
    """Says what changed beyond the noise."""
    assert options.compare is not None
    if _outputs(options) or options.merge is not None:
        raise RequestError("got an output or --merge with --compare, which writes none; leave it out")
    _check_packages("--compare", "scipy.stats")
    for line in changes_between(*map(read_result, options.compare)).lines():
        say(line)


def _outputs(options: BenchOptions) -> list[Path]:
    return [path for path in (options.report, options.json, options.markdown) if path is not None]


def _check_outputs(options: BenchOptions) -> None:
    """Finds out whether all can be written, before hours are spent."""
    for path in _outputs(options):
        check_writable(path)
    if options.report is not None:
        _check_packages("the report", "jinja2", "matplotlib")


def _check_packages(purpose: str, *modules: str) -> None:
    """Imports what is needed beside latentrt's own packages."""
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            package = error.name or module
            raise RequestError(f"{purpose} needs the package {package}; install latentrt[bench]") from error


def _write(result: BenchResult, options: BenchOptions) -> None:
    """Writes all that is wanted; the table and the places of the rest go to the terminal."""
    if options.json is not None:
        write_document(options.json, result)
    if options.markdown is not None:
        write_file(options.markdown, lambda path: path.write_text(markdown_table(result), "utf-8"))
    if options.report is not None:
        from latentrt.benchmarks.report.page import report_html

        page = report_html(result)
        write_file(options.report, lambda path: path.write_text(page, "utf-8"))
    columns, rows = summary_rows(result)
    print_table(f"{result.model}, {result.settings.steps} steps", columns, rows)
    for row in result.contenders:
        if row.absent:
            say(f"{row.name} was not measured: {row.absent}")
        for phase, reason in row.failures.items():
            say(f"{row.name} failed in {phase}: {reason}")
    for path in _outputs(options):
        say(str(path))
