"""A benchmark from its plan to its result."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from latentrt.benchmarks.bench.aggregate import contender, figure, machine
from latentrt.benchmarks.bench.contenders import entrants
from latentrt.benchmarks.bench.fingerprint import fingerprint
from latentrt.benchmarks.bench.journal import Journal
from latentrt.benchmarks.bench.machine.flops import work_of
from latentrt.benchmarks.bench.machine.peak import PeakMeter, peak_from_seconds
from latentrt.benchmarks.bench.plan import Plan
from latentrt.benchmarks.bench.quality import clip_score
from latentrt.benchmarks.bench.rounds import Rounds
from latentrt.benchmarks.bench.same_checkpoint import check_same_checkpoint
from latentrt.benchmarks.bench.weights import is_pruned, weights_of_bundle
from latentrt.benchmarks.bench.workers.pool import Pool
from latentrt.benchmarks.peers.registry import SAMPLER
from latentrt.benchmarks.report.schema import SCHEMA, BenchResult, Settings
from latentrt.benchmarks.studies.own_emoji import read_icons
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.machine import available_memory
from latentrt.engines.progress import Progress

# What an open contender holds: its weights in fp32 twice over, and its libraries
_RESIDENT_WEIGHTS, _RESIDENT_LIBRARIES = 2.0, 600 << 20


def run(
    plan: Plan, *, command: str, journal_path: Path | None, told: Callable[[str], None], progress: Progress | None
) -> BenchResult:
    """Measures everything.

    Args:
        plan: what.
        command: as it was typed, for the report.
        journal_path: keeps what was measured so far; a later run of the same plan goes on from there.
        told: is given a line as each round begins.
        progress: is given the stages of making environments.

    Raises:
        LatentrtError: something that the user can mend.
    """
    begin, options = perf_counter(), plan.options
    icons = None if options.icons is None else read_icons(options.icons)
    clip = None if options.clip is None else clip_score(options.clip)
    check_same_checkpoint(plan.bundles, plan.checkpoint)
    everyone = entrants(plan, progress)
    bundle = open_bundle(plan.bundles[0])
    parameters = sum(record.parameters for record in bundle.manifest.components.values())
    resident = plan.resident
    if resident is None:
        need = len(everyone) * (_RESIDENT_WEIGHTS * 4 * parameters + _RESIDENT_LIBRARIES)
        resident = need < 0.8 * available_memory()
    work = work_of(bundle, plan.profile, told, guided=options.guidance > 1)
    journal = Journal(journal_path, fingerprint(plan, resident=resident))
    if journal.resumed:
        told(f"going on with {journal.resumed} answers of a run that was stopped")
    with (
        _pictures_folder(journal_path, resumed=bool(journal.resumed)) as pictures,
        closing(PeakMeter(timeout=options.timeout, threads=options.threads)) as peak,
        closing(Pool(timeout=options.timeout, resident=resident)) as pool,
    ):
        rounds = Rounds(plan, journal, pool, peak, pictures, told)
        drew = rounds.latency([entrant for entrant in everyone if entrant.absent is None])
        rounds.pictures(drew)
        rounds.operators(drew)
        rounds.varied(drew)
        if icons is not None:
            rounds.own_emoji(drew, icons)
        rounds.cold(drew)
        reference, qualities = rounds.qualities(drew, clip)
    watched = [answer for entrant in drew for answer in journal.rounds(options.runs, "latency", "one", entrant.name)]
    pruned = any(map(is_pruned, plan.bundles))  # zeros are what a zip makes something of
    weights = {root: weights_of_bundle(root, zipped=pruned) for root in plan.bundles}
    products = [found for number in range(options.runs) if (found := journal.known("peak", number)) is not None]
    return BenchResult(
        schema_version=SCHEMA,
        latentrt=version("latentrt"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        model=Path(bundle.manifest.source.name).name,
        family=bundle.manifest.family,
        parameters=parameters,
        note=options.note,
        settings=Settings(
            prompts=plan.prompts,
            seed=options.seed,
            steps=options.steps,
            guidance_scale=options.guidance,
            sampler=SAMPLER,
            width=plan.case.width,
            height=plan.case.height,
            runs=options.runs,
            cold_runs=options.cold_runs,
            resident=resident,
            threads=options.threads,
        ),
        machine=machine(
            background=figure([answer.get("background") for answer in watched]),
            idle_workers=figure([answer.get("idle_workers") for answer in watched]),
        ),
        peak=peak_from_seconds(products),
        work=work,
        reference=reference,
        contenders=tuple(
            contender(
                entrant,
                plan,
                journal,
                rounds.failures.get(entrant.name, {}),
                qualities.get(entrant.name),
                weights.get(entrant.model) if entrant.ours else None,
            )
            for entrant in everyone
        ),
        seconds=perf_counter() - begin,
    )


@contextmanager
def _pictures_folder(journal: Path | None, *, resumed: bool) -> Iterator[Path]:
    """Where pictures wait to be compared: beside the journal as long as that, or for this run only."""
    if journal is None:
        with tempfile.TemporaryDirectory(prefix="latentrt-bench-") as temporary:
            yield Path(temporary)
        return
    folder = journal.with_name(f"{journal.name}.pictures")
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
