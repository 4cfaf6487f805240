"""A benchmark from its plan to its result."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from latentrt.benchmarks.disk import drawn_from_bytes
from latentrt.benchmarks.emoji_rate import own_emoji_of, read_icons
from latentrt.benchmarks.flops import flops_of_component
from latentrt.benchmarks.identity import identity_of
from latentrt.benchmarks.journal import Answer, Journal
from latentrt.benchmarks.machine import this_machine
from latentrt.benchmarks.measuring import Rounds
from latentrt.benchmarks.operators import operator_seconds
from latentrt.benchmarks.peak import PeakMeter, peak_from_seconds
from latentrt.benchmarks.peers.registry import PEERS, REFERENCE
from latentrt.benchmarks.plan import SAMPLER, Case, Plan, base_case
from latentrt.benchmarks.pool import Pool
from latentrt.benchmarks.quality import ClipScore, QualityError, clip_score, quality_of
from latentrt.benchmarks.roster import Entrant, entrants
from latentrt.benchmarks.same_checkpoint import check_same_checkpoint
from latentrt.benchmarks.schema import SCHEMA, BenchResult, Contender, OwnEmoji, Quality, Settings, Work
from latentrt.benchmarks.summing_up import answers, figure, latency_of, scaling_of
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.machine import available_memory
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile, profile_for_size

# What an open contender holds: its weights in fp32 twice over, and its libraries
_RESIDENT_WEIGHTS, _RESIDENT_LIBRARIES = 2.0, 600 << 20


def run(
    plan: Plan, *, command: str, journal_path: Path | None, told: Callable[[str], None], progress: Progress | None
) -> BenchResult:
    """Measures everything.

    Args:
        plan: what.
        command: as it was typed, for the report.
        journal_path: where to keep what was measured so far; a later run of the same plan goes on from there.
        told: is given one line as each round begins.
        progress: is given the stages of making environments.

    Raises:
        LatentrtError: something that the user can mend.
    """
    begin = perf_counter()
    bundle = open_bundle(plan.bundles[0])
    profile = profile_for_size(bundle.manifest.profiles, plan.width, plan.height)
    if plan.icons is not None:
        read_icons(plan.icons)
    clip = None if plan.clip is None else clip_score(plan.clip)
    check_same_checkpoint(plan.bundles, plan.checkpoint)
    everyone = entrants(plan, progress)
    parameters = sum(record.parameters for record in bundle.manifest.components.values())
    resident = plan.resident
    if resident is None:
        need = len(everyone) * (_RESIDENT_WEIGHTS * 4 * parameters + _RESIDENT_LIBRARIES)
        resident = need < 0.8 * available_memory()
    work = _work(bundle, profile, told, guided=plan.guidance_scale > 1)
    journal = Journal(journal_path, identity_of(plan, resident=resident))
    if journal.resumed:
        told(f"going on with {journal.resumed} answers of a run that was stopped")
    present = [entrant for entrant in everyone if entrant.absent is None]
    pool = Pool(plan, resident=resident)
    variations = _variations(plan)
    with (
        _pictures_folder(journal_path, resumed=bool(journal.resumed)) as pictures,
        closing(PeakMeter(timeout=plan.timeout, threads=plan.threads)) as peak,
        closing(pool),
    ):
        rounds = Rounds(plan, journal, pool, peak, pictures, told)
        rounds.latency(present)
        drew = [entrant for entrant in present if answers(journal, plan.runs, "latency", "one", entrant.name)]
        rounds.pictures(drew)
        _operators(drew, rounds, pool, plan, profile, told)
        for phase, cases in variations.items():
            rounds.varied(phase, cases, drew)
        if plan.icons is not None:
            for entrant in drew:
                told(f"own-emoji rate of {entrant.name}")
                rounds.once("own_emoji", entrant, lambda one: own_emoji_of(one, pool, plan).model_dump())
        rounds.cold(drew)
        qualities = _qualities(plan, drew, rounds, clip)
    watched = [a for e in drew for a in answers(journal, plan.runs, "latency", "one", e.name)]
    rows = [_contender(e, plan, journal, rounds.failures.get(e.name, {}), variations, qualities) for e in everyone]
    return BenchResult(
        schema_version=SCHEMA,
        latentrt=version("latentrt"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        model=Path(bundle.manifest.source.name).name,
        family=bundle.manifest.family,
        parameters=parameters,
        note=plan.note,
        settings=Settings(
            prompts=plan.prompts,
            seed=plan.seed,
            steps=plan.steps,
            guidance_scale=plan.guidance_scale,
            sampler=SAMPLER,
            width=plan.width,
            height=plan.height,
            runs=plan.runs,
            cold_runs=plan.cold_runs,
            resident=resident,
            threads=plan.threads,
        ),
        machine=this_machine(
            figure([answer.get("background") for answer in watched]),
            figure([answer.get("idle_workers") for answer in watched]),
        ),
        peak=peak_from_seconds([found for n in range(plan.runs) if (found := journal.known("peak", n)) is not None]),
        work=work,
        reference=next((e.name for e in drew if e.adapter == PEERS[REFERENCE].adapter), None),
        contenders=tuple(rows),
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


def _variations(plan: Plan) -> dict[str, dict[str, Case]]:
    """The cases of throughput and of scaling, by phase and label."""
    one = base_case(plan)
    return {
        "throughput": {
            str(n): Case(width=one.width, height=one.height, batch=n, steps=one.steps) for n in plan.batches
        },
        "pixels": {f"{w}×{h}": Case(width=w, height=h, batch=1, steps=one.steps) for w, h in plan.sizes},
        "steps": {str(n): Case(width=one.width, height=one.height, batch=1, steps=n) for n in plan.step_counts},
    }


def _operators(
    drew: Sequence[Entrant], rounds: Rounds, pool: Pool, plan: Plan, profile: Profile, told: Callable[[str], None]
) -> None:
    """Where the U-Net's time goes in those of ours whose backend has a profiler."""

    def ask(entrant: Entrant) -> Answer:
        if not pool.resident:  # the memory is for one at a time
            pool.close()
        told(f"operators of {entrant.name}")
        bundle = open_bundle(entrant.model)
        batch = bundle.manifest.components["unet"].batch_per_picture if plan.guidance_scale > 1 else 1
        return {"seconds": operator_seconds(bundle, profile, batch, threads=plan.threads)}

    for entrant in drew:
        if entrant.ours and entrant.options["backend"] == Backend.ORT_CPU:
            rounds.once("operators", entrant, ask)


def _qualities(plan: Plan, drew: Sequence[Entrant], rounds: Rounds, clip: ClipScore | None) -> dict[str, Quality]:
    """Every contender's quality against the reference; nothing without one."""
    files = {e.name: [rounds.picture(e, n) for n in range(len(plan.prompts))] for e in drew}
    whole = {name: paths for name, paths in files.items() if all(path.is_file() for path in paths)}
    reference = next((e.name for e in drew if e.adapter == PEERS[REFERENCE].adapter and e.name in whole), None)
    if reference is None:
        return {}
    found: dict[str, Quality] = {}
    for name, paths in whole.items():
        try:
            found[name] = quality_of(paths, whole[reference], plan.prompts, plan.seed, clip)
        except QualityError as error:
            rounds.failures.setdefault(name, {})["quality"] = str(error)
    return found


def _contender(
    entrant: Entrant,
    plan: Plan,
    journal: Journal,
    failures: Mapping[str, str],
    variations: Mapping[str, Mapping[str, Case]],
    qualities: Mapping[str, Quality],
) -> Contender:
    """The row of one entrant, from what the journal holds."""
    name = entrant.name
    drawn = answers(journal, plan.runs, "latency", "one", name)
    latency = latency_of(drawn)
    absent = entrant.absent or (None if latency else failures.get("latency", "it drew nothing"))
    cold = [found for n in range(plan.cold_runs) if (found := journal.known("cold", n, name)) is not None]
    values = {
        "throughput": {label: float(case.batch) for label, case in variations["throughput"].items()},
        "pixels": {label: float(case.width * case.height) for label, case in variations["pixels"].items()},
        "steps": {label: float(case.steps) for label, case in variations["steps"].items()},
    }
    scalings = {
        phase: scaling_of(journal, plan.varied_runs, phase, variations[phase], values[phase], name) for phase in values
    }
    return Contender(
        name=name,
        adapter=entrant.adapter,
        model=entrant.model.name,
        precision=entrant.precision,
        versions=drawn[-1]["versions"] if drawn else {},
        command=entrant.command(base_case(plan).request(plan)),
        absent=absent,
        failures={} if absent else dict(failures),
        latency=latency,
        cold_start=figure([answer["seconds"] for answer in cold]),
        open=figure([answer["open"] for answer in cold]),
        peak_bytes=max((answer["peak_bytes"] for answer in drawn if answer["peak_bytes"]), default=None),
        model_bytes=drawn_from_bytes(entrant) if absent is None else None,
        packages_bytes=(journal.known("packages", name) or {}).get("bytes"),
        operators=(journal.known("operators", name) or {}).get("seconds"),
        throughput=scalings["throughput"],
        by_pixels=scalings["pixels"],
        by_steps=scalings["steps"],
        quality=qualities.get(name),
        own_emoji=None if (rate := journal.known("own_emoji", name)) is None else OwnEmoji(**rate),
    )


def _work(bundle: Bundle, profile: Profile, told: Callable[[str], None], *, guided: bool) -> Work | None:
    """FLOP of a step and of the other components, for one picture; None where they cannot be counted."""
    parts = {
        name: Component(root=bundle.root, manifest=bundle.manifest, name=name) for name in bundle.manifest.components
    }
    encoders = [name for name in parts if name.startswith("text_encoder")]
    halves = parts["unet"].record.batch_per_picture if guided else 1
    try:
        return Work(
            text_encoder=sum(flops_of_component(parts[name], profile, halves) for name in encoders),
            unet=flops_of_component(parts["unet"], profile, halves),
            vae_decoder=flops_of_component(parts["vae_decoder"], profile, 1),
        )
    except Exception as error:  # onnx raises what it likes; a share of the peak is not worth a run
        told(f"FLOP are not counted: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None
