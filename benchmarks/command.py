"""``latentrt bench``: what it takes, and what it leaves on disk and on the terminal."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from latentrt.benchmarks.bench import run
from latentrt.benchmarks.comparison import compared
from latentrt.benchmarks.environments import default_folder
from latentrt.benchmarks.markdown import markdown_table, summary_rows
from latentrt.benchmarks.needed import check_installed
from latentrt.benchmarks.peers.registry import PEERS, REFERENCE
from latentrt.benchmarks.plan import PROMPTS, Plan
from latentrt.benchmarks.schema import BenchResult, read_result, write_result
from latentrt.benchmarks.text_file import write_text
from latentrt.cli.terminal import BuildProgress, print_table, say, stderr
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.files import check_writable
from latentrt.engines.shapes import profile_for_size, profile_from_text
from latentrt.int8.calibration import prompts_from_file
from latentrt.models import EMBEDDED, EMOJI


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the result goes; whatever is None is not written."""

    report: Path | None = None
    json: Path | None = None
    markdown: Path | None = None

    def check(self) -> None:
        """Finds out whether all can be written, before hours are spent.

        Raises:
            OutputError: one cannot.
            RequestError: the report needs packages that are missing.
        """
        for path in (self.report, self.json, self.markdown):
            if path is not None:
                check_writable(path)
        if self.report is not None:
            check_installed("the report", "jinja2", "matplotlib")

    def write(self, result: BenchResult) -> None:
        """Writes all that is wanted.

        Raises:
            OutputError: a file cannot be written.
        """
        if self.json is not None:
            write_result(self.json, result)
        if self.markdown is not None:
            write_text(self.markdown, markdown_table(result))
        if self.report is not None:
            from latentrt.benchmarks.report import report_html

            write_text(self.report, report_html(result))

    def named(self) -> list[Path]:
        """The files."""
        return [path for path in (self.report, self.json, self.markdown) if path is not None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options as typed."""

    bundles: tuple[Path, ...]
    checkpoint: Path | None
    against: tuple[str, ...] | None
    backends: tuple[str, ...]
    report: Path | None
    json: Path | None
    markdown: Path | None
    runs: int
    cold_runs: int
    varied_runs: int
    steps: int
    guidance: float
    seed: int
    size: str | None
    prompts: Path | None
    threads: int | None
    resident: str
    icons: Path | None
    icons_every: int
    clip: Path | None
    peers: Path | None
    timeout: float
    note: str
    compare: tuple[Path, Path] | None
    render: Path | None


def bench(request: Request) -> None:
    """The command.

    Raises:
        LatentrtError: something that the user can mend.
    """
    outputs = Outputs(report=request.report, json=request.json, markdown=request.markdown)
    modes = [bool(request.bundles), request.compare is not None, request.render is not None]
    if sum(modes) != 1:
        raise RequestError(
            "expected bundles to measure, two results to --compare, or one to --render; name one of the three"
        )
    if request.compare is not None:
        if outputs.named():
            raise RequestError("got an output with --compare, which writes none; leave it out")
        compare(*request.compare)
    elif request.render is not None:
        render(request.render, outputs)
    else:
        measure(plan_from_request(request), outputs)


def plan_from_request(request: Request) -> Plan:
    """The options checked, and what they leave out filled in.

    Raises:
        BundleError: the first folder is no bundle.
        RequestError: an option that cannot be served.
    """
    manifest = open_bundle(request.bundles[0]).manifest
    for name, value, least in (
        ("runs", request.runs, 1),
        ("cold-runs", request.cold_runs, 0),
        ("varied-runs", request.varied_runs, 0),
        ("steps", request.steps, 1),
        ("icons-every", request.icons_every, 1),
        ("threads", request.threads if request.threads is not None else 1, 1),
    ):
        if value < least:
            raise RequestError(f"got --{name} {value}, expected at least {least}; raise it")
    if request.resident not in _RESIDENT:
        raise RequestError(f"got --resident {request.resident!r}, expected {', '.join(_RESIDENT)}; choose one of these")
    profile = manifest.profiles[0]
    if request.size is not None:
        wanted = profile_from_text(request.size)
        profile = profile_for_size(manifest.profiles, wanted.width, wanted.height)
    checkpoint = checkpoint_of(manifest, request.checkpoint)
    varied = request.varied_runs > 0
    sizes = sorted({(one.width, one.height) for one in manifest.profiles}, key=lambda size: size[0] * size[1])
    batches = tuple(2**n for n in range(profile.batch.bit_length()))
    return Plan(
        bundles=request.bundles,
        backends=request.backends,
        checkpoint=checkpoint,
        against=_peers(request.against, checkpoint),
        peers=request.peers or default_folder(),
        prompts=_prompts(request.prompts, manifest),
        seed=request.seed,
        steps=request.steps,
        guidance_scale=request.guidance,
        width=profile.width,
        height=profile.height,
        runs=request.runs,
        cold_runs=request.cold_runs,
        batches=batches if varied and len(batches) > 1 else (),
        sizes=tuple(sizes) if varied and len(sizes) > 1 else (),
        step_counts=_step_counts(request.steps) if varied else (),
        varied_runs=request.varied_runs,
        resident=_RESIDENT[request.resident],
        threads=request.threads,
        timeout=request.timeout,
        icons=request.icons,
        icons_every=request.icons_every,
        clip=request.clip,
        note=request.note,
    )


_RESIDENT = {"auto": None, "all": True, "one": False}


def _step_counts(steps: int) -> tuple[int, ...]:
    """A quarter, a half, all and twice as many; at least three, so that a multistep solver takes its usual course."""
    return tuple(sorted({count for count in (steps // 4, steps // 2, steps, 2 * steps) if count >= min(3, steps)}))


def _peers(names: tuple[str, ...] | None, checkpoint: Path | None) -> tuple[str, ...]:
    """The peers asked for; the reference where nothing was said and there is a checkpoint."""
    if names is None:
        return (REFERENCE,) if checkpoint is not None else ()
    if names == ("all",):
        return tuple(PEERS)
    return () if names == ("none",) else tuple(dict.fromkeys(names))


def measure(plan: Plan, outputs: Outputs) -> BenchResult:
    """Measures, writes and prints.

    Raises:
        LatentrtError: something that the user can mend.
    """
    outputs.check()
    check_installed("a benchmark", "psutil", "skimage.metrics")
    journal = outputs.json.with_name(f".{outputs.json.name}.journal") if outputs.json else None
    result = run(
        plan,
        command=shlex.join(["latentrt", *(_shown(word) for word in sys.argv[1:])]),
        journal_path=journal,
        told=lambda line: stderr.print(line),
        progress=BuildProgress(),
    )
    outputs.write(result)
    if journal is not None:
        journal.unlink(missing_ok=True)
    show(result, outputs)
    return result


def _shown(word: str) -> str:
    """An argument as it may stand in a report: of an absolute path only its end."""
    return Path(word).name if word.startswith(("/", "~")) else word


def render(source: Path, outputs: Outputs) -> None:
    """Writes report and table anew from a result.

    Raises:
        RequestError: it is no result, or nothing shall be written.
        OutputError: a file cannot be written.
    """
    result = read_result(source)
    if outputs.json is not None:
        raise RequestError("got --json with --render, expected --report or --markdown; leave it out")
    if not outputs.named():
        raise RequestError("got --render alone, expected what to write; add --report or --markdown")
    outputs.check()
    outputs.write(result)
    show(result, outputs)


def show(result: BenchResult, outputs: Outputs) -> None:
    """The table on the terminal, and where the rest is."""
    columns, rows = summary_rows(result)
    print_table(f"{result.model}, {result.settings.steps} steps", columns, rows)
    for row in result.contenders:
        if row.absent:
            say(f"{row.name} was not measured: {row.absent}")
        for phase, reason in row.failures.items():
            say(f"{row.name} failed in {phase}: {reason}")
    for path in outputs.named():
        say(str(path))


def compare(old: Path, new: Path) -> None:
    """Says what changed beyond the noise.

    Raises:
        RequestError: one of them is no result, or a package is missing.
    """
    check_installed("--compare", "scipy.stats")
    comparison = compared(read_result(old), read_result(new))
    for line in comparison.lines():
        say(line)


def _prompts(path: Path | None, manifest: BundleManifest) -> tuple[str, ...]:
    """Those of a file; without one, the embedded model's or one of a photograph."""
    if path is not None:
        return prompts_from_file(path)
    return PROMPTS if _is_embedded(manifest) else ("a photograph of an astronaut riding a horse",)


def _is_embedded(manifest: BundleManifest) -> bool:
    return manifest.source.name in (EMBEDDED, str(EMOJI))


def checkpoint_of(manifest: BundleManifest, given: Path | None) -> Path | None:
    """The checkpoint to draw the reference from: the one given, or the embedded model's own."""
    return EMOJI if given is None and _is_embedded(manifest) else given
