"""Debugs a component: every tensor on a backend against a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from latentrt.debugging.comparing import Kept, compare, groups, sizes
from latentrt.debugging.drawn_runs import Drawing, drawn_runs
from latentrt.debugging.figures import Figures
from latentrt.debugging.findings import Findings, places_of
from latentrt.debugging.islands import suggestion
from latentrt.debugging.library import require_packages
from latentrt.debugging.marks import Mark, marks_of
from latentrt.debugging.ort_sides import exact
from latentrt.debugging.parts import HALVES, Feed, Part, halved, part_of, reference_part
from latentrt.debugging.saving import Saved, make_folder
from latentrt.debugging.side import Side, reference_side, suspect_side
from latentrt.debugging.weights import different_weights, rescaled_tensors
from latentrt.engines.bundle.bundle import AnyBundle
from latentrt.engines.bundle.checks.parity import EXACT, GATES, Parity, parity_of
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.added_inputs import previous
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.half import largest_number
from latentrt.engines.graphs.islands import EVERYTHING, Island
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.spec import Array


def _drop(index: int, side: str, arrays: Mapping[str, Array]) -> None:
    """Keeps nothing."""


@dataclass(frozen=True, kw_only=True)
class DebugSettings:
    """How a component is debugged.

    Attributes:
        backend: the one in question.
        against: the backend of the reference.
        precision: what to debug a component in fp32 as: fp16 or bf16; None takes it as it is.
        reference: the folder of another bundle of the model, which the reference runs; None is the bundle itself.
        modules: a pattern of the modules whose tensors are compared; all others may be fused as in an engine.
        drawing: a picture, the runs of which are repeated in the place of the recorded ones; None takes these.
        run: which of the runs to repeat, from 0 on; None repeats all.
        tolerance: the relative error from which on two sides are apart; None is that of the precision's gate.
        suggest: whether islands are looked for.
        save: a folder for what both sides took and made; None keeps nothing.
        threads: threads of a call on the CPU; None takes one per core.
    """

    backend: str
    against: str = Backend.ORT_CPU
    precision: str | None = None
    reference: Path | None = None
    modules: str = EVERYTHING
    drawing: Drawing | None = None
    run: int | None = None
    tolerance: float | None = None
    suggest: bool = False
    save: Path | None = None
    threads: int | None = None


def debug_component(root: Path, component: str, settings: DebugSettings, progress: Progress | None = None) -> Findings:
    """Runs a component on a backend and a reference with all tensors as results, and compares these one by one.

    Args:
        root: the bundle's folder.
        component: its name.
        settings: how.
        progress: receives the stages.

    Raises:
        BundleError: files are missing or altered.
        RequestError: an unknown component, backend or run, a negative tolerance, no threads, a precision that the
            component has not or is not built in, a bundle of something else as the reference, a picture that cannot be
            drawn, or islands for what is not in sixteen bits.
        CheckpointError: weights beyond the range of the precision that a component in fp32 is debugged as.
        EngineError: a backend cannot run here or refuses the graph, or Polygraphy or onnx_ir is missing.
        OutputError: ``save`` cannot be written.
    """
    backend, against = (choice(Backend, name, "backend") for name in (settings.backend, settings.against))
    precision = None if settings.precision is None else choice(Precision, settings.precision, "precision")
    if settings.tolerance is not None and not 0.0 <= settings.tolerance < inf:  # NaN among the rest
        raise RequestError(f"got tolerance {settings.tolerance:g}, expected 0 or more, such as 1e-2; choose another")
    if settings.threads is not None and settings.threads < 1:
        raise RequestError(f"got {settings.threads} threads, expected at least 1; leave it out for one per core")
    require_packages()
    if settings.save is not None:
        make_folder(settings.save)
    bundle, stored = part_of(root, component, settings.threads)
    timer, saved = StageTimer(progress), Saved()
    with TemporaryDirectory() as work, TemporaryDirectory() as other_work, TemporaryDirectory() as graph:
        part = stored if precision is None else halved(stored, precision, Path(graph))
        other, other_part = (bundle, stored)
        if settings.reference is not None:
            other, other_part = reference_part(settings.reference, part)
        if settings.suggest:
            _check_islands(part, backend)
        suspect = suspect_side(backend, part, Path(work))
        reference = reference_side(against, other_part, Path(other_work))
        probes = _probes(bundle, component, settings, timer)
        answers = _Answers(part.component, probes if settings.drawing is None else ())

        def kept(index: int, side: str, arrays: Mapping[str, Array]) -> None:
            answers.keep(index, side, arrays)
            if settings.save is not None:
                saved.keep(index, side, arrays)

        run = _Comparison(part, reference, [_feed(part.component, probe) for probe in probes], timer)
        wanted = _wanted(part.component, run.all_marks, settings.modules)
        rescaled = frozenset[str]() if other is bundle else _rescaled((bundle, other), component, wanted)
        there = [mark for mark in wanted if mark.tensor in suspect.tensors & reference.tensors]
        marks = [mark for mark in there if mark.tensor not in rescaled]
        with timer.stage(f"{component}: {suspect.label} against {reference.label}"):
            figures = run.compared(suspect, marks, kept)
        gate = GATES[part.precision]
        findings = Findings(
            component=component,
            suspect=suspect.label,
            reference=reference.label if other is bundle else f"{reference.label} of {other.root}",
            runs=len(probes),
            drawing=settings.drawing,
            tolerance=gate.relative_error if settings.tolerance is None else settings.tolerance,
            gate=gate,
            end=run.end,
            places=places_of(run.all_marks, figures),
            hidden=len(wanted) - len(there),
            rescaled=len(there) - len(marks),
            torch=answers.parity(),
        )
        if settings.suggest:

            def tried(islands: tuple[Island, ...]) -> dict[str, Figures]:
                with timer.stage(f"{component}: {len(islands)} modules in fp32"), TemporaryDirectory() as folder:
                    return run.compared(suspect_side(backend, replace(part, islands=islands), Path(folder)), marks)

            outputs, limit = tuple(part.component.record.outputs), findings.tolerance
            whole = Island(
                precisions=(part.precision,), families=(bundle.manifest.family,), component=component, reason="all"
            )
            found = suggestion(whole, run.all_marks, figures, outputs, limit, tried)
            findings = replace(findings, suggestion=found)
        if findings.apart is not None and other is not bundle:
            weights = different_weights(findings.apart.mark, bundle.weights(component), other.weights(component))
            findings = replace(findings, different_weights=weights)
        if settings.save is not None:
            with timer.stage("save"):
                saved.write(settings.save, part.component, run.feeds)
    return findings


class _Comparison:
    """One part held against a reference, as often as it is made again."""

    def __init__(self, part: Part, reference: Side, feeds: Sequence[Feed], progress: Progress) -> None:
        self.all_marks = marks_of(load_graph(part.component.onnx))
        self.feeds = feeds
        self._reference, self._progress = reference, progress
        self.end = largest_number(part.sixteen_bits)
        self._sizes = sizes(exact(part), [mark.tensor for mark in self.all_marks], feeds)

    def compared(self, suspect: Side, marks: Sequence[Mark], kept: Kept = _drop) -> dict[str, Figures]:
        """The figures of every tensor."""
        turns = list(groups([mark.tensor for mark in marks], self._sizes))
        done = partial(self._progress.phase, "runs")
        return compare(suspect, self._reference, marks, turns, self.feeds, end=self.end, done=done, kept=kept)


class _Answers:
    """How near to the recorded outputs each side comes; of a picture that was drawn there are none."""

    def __init__(self, component: Component, probes: Sequence[Probe]) -> None:
        self._outputs, self._probes = component.record.outputs, probes
        self._parity: dict[str, Parity] = {}

    def keep(self, index: int, side: str, arrays: Mapping[str, Array]) -> None:
        """Takes what a side made in a run."""
        for name in self._outputs if self._probes else ():
            if name in arrays:
                now = parity_of(arrays[name], self._probes[index].outputs[name])
                self._parity[side] = self._parity.get(side, EXACT).worse(now)

    def parity(self) -> dict[str, Parity]:
        """The worst figures, by side."""
        return self._parity


def _check_islands(part: Part, backend: Backend) -> None:
    """Refuses to look for islands where nothing is rounded to sixteen bits, or a build takes none.

    Raises:
        RequestError: with what to do.
    """
    if part.precision in HALVES and backend is not Backend.OPENVINO:
        return
    if backend is Backend.OPENVINO:
        remedy = "choose another backend"
    elif part.sixteen_bits is not None:
        remedy = f"name the bundle in fp32 that this was made of, with --precision {part.sixteen_bits}"
    else:
        remedy = "leave it out, or name a --precision to debug it as"
    raise RequestError(
        f"got suggest for {part.component.name} in {part.precision} on {backend}, expected fp16 or bf16 on a backend "
        f"that shows what it rounds; {remedy}"
    )


def _probes(bundle: AnyBundle, component: str, settings: DebugSettings, progress: Progress) -> list[Probe]:
    """The runs to repeat."""
    if settings.drawing is None:
        probes = bundle.probes(component)
    else:
        probes = drawn_runs(bundle, component, settings.drawing, settings.threads, progress)
    if settings.run is None:
        return probes
    if not 0 <= settings.run < len(probes):
        raise RequestError(f"got run {settings.run}, expected one from 0 to {len(probes) - 1}; choose one of these")
    return [probes[settings.run]]


def _wanted(component: Component, marks: Sequence[Mark], modules: str) -> list[Mark]:
    """The tensors of some modules, and the component's results."""
    if not any(fnmatchcase(mark.module, modules) for mark in marks):
        named = sorted({mark.module for mark in marks})
        raise RequestError(
            f"got modules {modules!r}, of which {component.name} has none, expected a pattern of paths such as "
            f"{named[len(named) // 2]!r}; choose another"
        )
    outputs = component.record.outputs
    return [mark for mark in marks if fnmatchcase(mark.module, modules) or mark.tensor in outputs]


def _feed(component: Component, probe: Probe) -> dict[str, Array]:
    """A run's inputs, and of those that a call may leave out what stands for them: zeros, added to results."""
    left_out = {previous(name): array for name, array in probe.outputs.items()}
    zeros = {name: np.zeros_like(left_out[name]) for name in component.record.inputs if name in left_out}
    return {**zeros, **probe.inputs}


def _rescaled(bundles: Sequence[AnyBundle], component: str, marks: Sequence[Mark]) -> frozenset[str]:
    """What SmoothQuant divides in any of some bundles."""
    return frozenset[str]().union(*(rescaled_tensors(bundle, component, marks) for bundle in bundles))
