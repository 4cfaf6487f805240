"""Times, taken in turn: in every round each contender draws once, A B C A B C …, while the others wait."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from time import perf_counter, sleep

from latentrt.benchmarks.bench.contenders import Entrant
from latentrt.benchmarks.bench.journal import Answer, Journal
from latentrt.benchmarks.bench.machine.operators import operator_seconds
from latentrt.benchmarks.bench.machine.peak import PeakMeter
from latentrt.benchmarks.bench.plan import AXES, Case, Plan
from latentrt.benchmarks.bench.quality import ClipScore, QualityError, quality_of
from latentrt.benchmarks.bench.workers.pool import Pool
from latentrt.benchmarks.bench.workers.process import WorkerError, cold_start
from latentrt.benchmarks.peers.registry import PEERS, REFERENCE
from latentrt.benchmarks.report.schema import Quality
from latentrt.benchmarks.studies.own_emoji import Icons, Pictures, own_emoji_of
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import LatentrtError
from latentrt.engines.precision import Backend
from latentrt.runtime.sampling.noise import Generator

# Seconds before each picture that counts: the threads of whoever drew before spin on, up to 0.2 s (LLVM's OpenMP)
_QUIET = 0.25
_WATCHED_STEPS = 2  # that a contender draws to tell its arithmetic


class Rounds:
    """The phases of a benchmark over its entrants; what they answered is in the journal.

    ``failures`` are reasons by entrant and phase: an entrant that fails in a phase is not asked again in it.
    """

    def __init__(
        self, plan: Plan, journal: Journal, pool: Pool, peak: PeakMeter, folder: Path, told: Callable[[str], None]
    ) -> None:
        """Nothing is asked yet; ``folder`` keeps the pictures."""
        self._plan, self._journal, self._pool, self._peak = plan, journal, pool, peak
        self._folder, self._told = folder, told
        self.failures: dict[str, dict[str, str]] = {}

    def latency(self, entrants: Sequence[Entrant]) -> list[Entrant]:
        """One picture a round from each, with the machine's peak between rounds; the first round's are kept.

        Returns:
            Those that drew.
        """
        for number in range(self._plan.options.runs):
            self._told(f"round {number + 1} of {self._plan.options.runs}")
            if self._journal.known("peak", number) is None:
                self._journal.add(("peak", number), self._peak.seconds())
            for entrant in entrants:
                self._draw("latency", "one", self._plan.case, number, entrant)
        for entrant in entrants:
            if "latency" not in self.failures.get(entrant.name, {}):
                self._once("packages", entrant, lambda one: self._pool.worker(one).ask({"do": "packages"}))
                self._once("arithmetic", entrant, self._arithmetic)
        return [one for one in entrants if self._journal.rounds(self._plan.options.runs, "latency", "one", one.name)]

    def varied(self, entrants: Sequence[Entrant]) -> None:
        """Rounds over the cases of throughput and scaling."""
        for phase, varied in self._plan.varied.items():
            cases = {AXES[phase](case)[0]: case for case in varied}
            for number in range(self._plan.options.varied_runs):
                self._told(f"{phase}: round {number + 1} of {self._plan.options.varied_runs}")
                if self._pool.resident:
                    order = [(label, entrant) for label in cases for entrant in entrants]
                else:  # opening costs more than what changes between two cases
                    order = [(label, entrant) for entrant in entrants for label in cases]
                for label, entrant in order:
                    self._draw(phase, label, cases[label], number, entrant)

    def pictures(self, entrants: Sequence[Entrant]) -> None:
        """Every prompt once from each, and from the reference by everyone else's sampler, too."""
        case = self._plan.case
        samplers = dict.fromkeys(entrant.sampler for entrant in entrants)
        for entrant in entrants:
            self._told(f"pictures of {entrant.name}")
            drawn_by = samplers if entrant.adapter == PEERS[REFERENCE].adapter else (entrant.sampler,)
            for sampler, prompt in product(drawn_by, range(len(self._plan.prompts))):
                output = self._picture(entrant, prompt, sampler)
                request = {**self._plan.request(case, prompt), "output": str(output), "sampler": sampler}
                if entrant.peer is not None and entrant.peer.given_noise:
                    request["noise"] = str(self._noise(prompt))
                if not output.is_file():
                    self._attempt("quality", entrant, lambda one, r=request: self._pool.draw(one, case, r))  # type: ignore[misc]

    def _noise(self, prompt: int) -> Path:
        """A file with PyTorch's noise for a prompt's seed, for those whose own is another's."""
        import numpy as np

        path = self._folder / f"noise-{prompt}.npy"
        shape = open_bundle(self._plan.bundles[0]).manifest.latents.shape(self._plan.profile)
        np.save(path, Generator(self._plan.options.seed + prompt).randn(shape))
        return path

    def operators(self, entrants: Sequence[Entrant]) -> None:
        """Where the U-Net's time goes in those of ours whose backend has a profiler."""

        def ask(entrant: Entrant) -> Answer:
            if not self._pool.resident:  # the memory is for one at a time
                self._pool.close()
            self._told(f"operators of {entrant.name}")
            bundle, options = open_bundle(entrant.model), self._plan.options
            batch = bundle.manifest.components["unet"].batch_per_picture if options.guidance > 1 else 1
            return {"seconds": operator_seconds(bundle, self._plan.profile, batch, threads=options.threads)}

        for entrant in entrants:
            if entrant.ours and entrant.options["backend"] == Backend.ORT_CPU:
                self._once("operators", entrant, ask)

    def own_emoji(self, entrants: Sequence[Entrant], icons: Icons) -> None:
        """The share of emoji that are nearest to their own icon."""
        height, width = icons.pictures.shape[1:3]
        output, options = self._folder / "emoji.npz", self._plan.options

        def ask(entrant: Entrant) -> Answer:
            def draw(prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float, steps: int) -> Pictures:
                case = Case(width=width, height=height, batch=len(prompts), steps=steps)
                request = {**self._plan.request(case), "prompts": list(prompts), "seeds": list(seeds)}
                self._pool.draw(entrant, case, {**request, "guidance": guidance_scale, "output": str(output)})
                return _saved_pictures(output, (len(prompts), height, width, 3))

            self._told(f"own-emoji rate of {entrant.name}")
            return own_emoji_of(draw, icons, every=options.icons_every, steps=options.steps).model_dump()

        for entrant in entrants:
            self._once("own_emoji", entrant, ask)

    def cold(self, entrants: Sequence[Entrant]) -> None:
        """A PNG from a new process each, after all had their files read: in an uncounted round, or just before."""
        rounds, resident = self._plan.options.cold_runs, self._pool.resident
        request = self._plan.request(self._plan.case)
        self._pool.close()
        with tempfile.TemporaryDirectory() as temporary:
            output = str(Path(temporary) / "cold.png")

            def ask(entrant: Entrant) -> Answer:
                for _ in range(1 if resident else 2):  # the others' files may have pushed its own out of the cache
                    whole = {**request, **entrant.opening, "output": output}
                    seconds, answer = cold_start(
                        entrant.python, entrant.adapter, whole, timeout=self._plan.options.timeout
                    )
                return {"seconds": seconds, "open": sum(answer["seconds"].values())}

            for number in range(-1 if resident and rounds else 0, rounds):
                self._told(f"cold start: round {number + 1} of {rounds}")
                for entrant in entrants:
                    self._ask("cold", ("cold", number, entrant.name), entrant, ask)

    def qualities(self, drew: Sequence[Entrant], clip: ClipScore | None) -> tuple[str | None, dict[str, Quality]]:
        """The reference's name and every contender's quality against it, by one sampler; nothing without one."""
        prompts = self._plan.prompts
        reference = next((entrant for entrant in drew if entrant.adapter == PEERS[REFERENCE].adapter), None)
        qualities: dict[str, Quality] = {}
        for entrant in drew if reference is not None else ():
            ours, theirs = (
                [self._picture(one, place, entrant.sampler) for place in range(len(prompts))]
                for one in (entrant, reference)
                if one is not None
            )
            if not all(path.is_file() for path in (*ours, *theirs)):
                continue
            try:
                qualities[entrant.name] = quality_of(ours, theirs, prompts, self._plan.options.seed, clip)
            except QualityError as error:
                self.failures.setdefault(entrant.name, {})["quality"] = str(error)
        return None if reference is None else reference.name, qualities

    def _picture(self, entrant: Entrant, prompt: int, sampler: str) -> Path:
        """Where an entrant's picture of a prompt is kept."""
        told = f"{entrant.name}/{sampler}"
        return self._folder / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}-{prompt}.npz"

    def _arithmetic(self, entrant: Entrant) -> Answer:
        """What its U-Net computes in, once nothing of it is timed and its memory has been read."""
        case = self._plan.case
        request = {**self._plan.request(case), "do": "arithmetic", "steps": min(_WATCHED_STEPS, case.steps)}
        return self._pool.worker(entrant).ask(request)

    def _draw(self, phase: str, label: str, case: Case, number: int, entrant: Entrant) -> None:
        """A picture that counts, drawn warm."""
        noisy = entrant.peer is not None and entrant.peer.given_noise  # its pictures that are compared are drawn apart
        kept = phase == "latency" and number == 0 and not noisy
        output = str(self._picture(entrant, 0, entrant.sampler)) if kept else None
        request = {**self._plan.request(case), "output": output}

        def ask(one: Entrant) -> Answer:
            worker = self._pool.worker(one)
            self._pool.warm(one, case, request)
            sleep(_QUIET)
            answer = self._watched(one, lambda: self._pool.draw(one, case, request))
            return {**answer, "peak_bytes": worker.peak_bytes, "versions": self._pool.opened[one.name]["versions"]}

        self._ask(phase, (phase, label, number, entrant.name), entrant, ask)

    def _watched(self, entrant: Entrant, work: Callable[[], Answer]) -> Answer:
        """The work's answer, with the shares of the processors that waiting contenders and other programs took."""
        import psutil

        def readings() -> tuple[float, float, float]:
            times, own = psutil.cpu_times(), os.times()
            waiting = sum(worker.processor_seconds for worker in self._pool.others(entrant))
            ours = waiting + self._pool.worker(entrant).processor_seconds + own.user + own.system
            return waiting, ours, sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0)

        begin, before = perf_counter(), readings()
        answer = work()
        wall, after = perf_counter() - begin, readings()
        waiting, ours, busy = (late - early for late, early in zip(after, before, strict=True))
        whole = wall * (os.cpu_count() or 1)
        return {**answer, "idle_workers": waiting / whole, "background": min(1.0, max(0.0, busy - ours) / whole)}

    def _once(self, phase: str, entrant: Entrant, ask: Callable[[Entrant], Answer]) -> None:
        self._ask(phase, (phase, entrant.name), entrant, ask)

    def _ask(self, phase: str, key: tuple[object, ...], entrant: Entrant, ask: Callable[[Entrant], Answer]) -> None:
        """Asks for what the journal does not hold yet."""
        if self._journal.known(*key) is None:
            answer = self._attempt(phase, entrant, ask)
            if answer is not None:
                self._journal.add(key, answer)

    def _attempt(self, phase: str, entrant: Entrant, ask: Callable[[Entrant], Answer]) -> Answer | None:
        reasons = self.failures.setdefault(entrant.name, {})
        if phase in reasons:
            return None
        try:
            return ask(entrant)
        except (WorkerError, LatentrtError) as failure:
            reasons[phase] = str(failure)
            self._told(f"{entrant.name}: {phase}: {failure}")
            return None


def _saved_pictures(path: Path, shape: tuple[int, ...]) -> Pictures:
    """What a contender drew, in 8 bits.

    Raises:
        WorkerError: not so many finite pictures of that size.
    """
    import numpy as np

    with np.load(path) as drawn:
        pixels = drawn["pixels"]
    if pixels.shape != shape or not np.isfinite(pixels).all():
        raise WorkerError(f"it drew {pixels.shape}, expected finite pictures {shape}")
    return np.asarray(np.rint(np.clip(pixels, 0.0, 1.0) * 255), np.uint8)
