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
from latentrt.debugging.figures import Figures
from latentrt.debugging.findings import Findings, places_of
from latentrt.debugging.islands import suggestion
from latentrt.debugging.library import require_packages
from latentrt.debugging.marks import Mark, marks_of
from latentrt.debugging.ort_sides import exact
from latentrt.debugging.saving import Saved
from latentrt.debugging.side import HALVES, Feed, Part, Side
from latentrt.debugging.sides import reference_side, suspect_side
from latentrt.debugging.weights import different_weights, rescaled_tensors
from latentrt.engines.bundle.bundle import AnyBundle, folder_and_seal
from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN, check_files
from latentrt.engines.bundle.checks.parity import EXACT, GATES, Parity, parity_of
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest_file import check_seal
from latentrt.engines.bundle.unet.added_inputs import previous
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.half import HALF_TYPES
from latentrt.engines.graphs.islands import EVERYTHING, Island
from latentrt.engines.precision import Backend
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
        reference: the folder of another bundle of the model, which the reference runs; None is the bundle itself.
        modules: a pattern of the modules whose tensors are compared; all others may be fused as in an engine.
        run: which of the recorded runs to repeat, from 0 on; None repeats all.
        tolerance: the relative error from which on two sides are apart; None is that of the precision's gate.
        suggest: whether islands are looked for.
        save: a folder for what both sides took and made; None keeps nothing.
        threads: threads of a call on the CPU; None takes one per core.
    """

    backend: str
    against: str = Backend.ORT_CPU
    reference: Path | None = None
    modules: str = EVERYTHING
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
        RequestError: an unknown component, backend or run, a bundle of something else as the reference, or islands for
            what is not in sixteen bits.
        EngineError: a backend cannot run here or refuses the graph, or Polygraphy or onnx_ir is missing.
        OutputError: ``save`` cannot be written.
    """
    backend, against = (choice(Backend, name, "backend") for name in (settings.backend, settings.against))
    require_packages()
    bundle, part = _part(root, component, settings.threads)
    other, other_part = (bundle, part) if settings.reference is None else _reference(settings, part)
    if settings.suggest and (part.precision not in HALVES or backend is Backend.OPENVINO):
        raise RequestError(
            f"got suggest for {component} in {part.precision} on {backend}, expected fp16 or bf16 on a backend that "
            "computes in it; leave it out"
        )
    probes = _probes(bundle, component, settings.run)
    timer, saved, answers = StageTimer(progress), Saved(), _Answers(part.component, probes)

    def kept(index: int, side: str, arrays: Mapping[str, Array]) -> None:
        answers.keep(index, side, arrays)
        if settings.save is not None:
            saved.keep(index, side, arrays)

    with TemporaryDirectory() as work, TemporaryDirectory() as other_work:
        suspect = suspect_side(backend, part, Path(work))
        reference = reference_side(against, other_part, Path(other_work))
        run = _Comparison(part, reference, [_feed(part.component, probe) for probe in probes], timer)
        wanted = _wanted(part.component, run.all_marks, settings.modules)
        rescaled = frozenset[str]() if other is bundle else _rescaled((bundle, other), component, wanted)
        there = [mark for mark in wanted if mark.tensor in suspect.tensors & reference.tensors]
        marks = [mark for mark in there if mark.tensor not in rescaled]
        with timer.stage(f"{component}: {suspect.label} against {reference.label}"):
            figures = run.compared(suspect, marks, kept)
        findings = Findings(
            component=component,
            suspect=suspect.label,
            reference=reference.label if other is bundle else f"{reference.label} of {other.root}",
            runs=len(probes),
            tolerance=GATES[part.precision].relative_error if settings.tolerance is None else settings.tolerance,
            places=places_of(run.all_marks, figures),
            hidden=len(wanted) - len(there),
            rescaled=len(there) - len(marks),
            torch=answers.parity(),
        )
        if settings.suggest and findings.amiss:

            def tried(islands: tuple[Island, ...]) -> dict[str, Figures]:
                with timer.stage(f"{component}: {len(islands)} modules in fp32"), TemporaryDirectory() as folder:
                    return run.compared(suspect_side(backend, replace(part, islands=islands), Path(folder)), marks)

            outputs, limit = tuple(part.component.record.outputs), findings.tolerance
            found = suggestion(component, part.precision, run.all_marks, figures, outputs, limit, tried)
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
        half = HALF_TYPES.get(part.precision)
        self._end = inf if half is None else half.largest
        self._sizes = sizes(exact(part), [mark.tensor for mark in self.all_marks], feeds)

    def compared(self, suspect: Side, marks: Sequence[Mark], kept: Kept = _drop) -> dict[str, Figures]:
        """The figures of every tensor."""
        turns = list(groups([mark.tensor for mark in marks], self._sizes))
        done = partial(self._progress.phase, "runs")
        return compare(suspect, self._reference, marks, turns, self.feeds, end=self._end, done=done, kept=kept)


class _Answers:
    """How near to the recorded outputs each side comes."""

    def __init__(self, component: Component, probes: Sequence[Probe]) -> None:
        self._outputs, self._probes = component.record.outputs, probes
        self._parity: dict[str, Parity] = {}

    def keep(self, index: int, side: str, arrays: Mapping[str, Array]) -> None:
        """Takes what a side made in a run."""
        for name in self._outputs:
            if name in arrays:
                now = parity_of(arrays[name], self._probes[index].outputs[name])
                self._parity[side] = self._parity.get(side, EXACT).worse(now)

    def parity(self) -> dict[str, Parity]:
        """The worst figures, by side."""
        return self._parity


def _part(root: Path, name: str, threads: int | None) -> tuple[AnyBundle, Part]:
    bundle, seal = folder_and_seal(root)
    check_seal(seal, bundle.root / BUNDLE_FILE)
    if name not in bundle.manifest.components:
        raise RequestError(
            f"got component {name!r}, expected one of {', '.join(bundle.manifest.components)}; choose among these"
        )
    component = Component(root=bundle.root, manifest=bundle.manifest, name=name)
    check_files(bundle.root, component.onnx_files, largest_hashed=HASHED_AT_OPEN)
    return bundle, Part(component=component, threads=threads)


def _reference(settings: DebugSettings, part: Part) -> tuple[AnyBundle, Part]:
    """Another bundle and the component that it has of the same name, if it takes and gives the same."""
    root = settings.reference or part.component.root
    bundle, reference = _part(root, part.component.name, settings.threads)
    ours, theirs = part.component.record, reference.component.record
    if (ours.inputs, ours.outputs) != (theirs.inputs, theirs.outputs):
        raise RequestError(
            f"got {str(root)!r} as the reference, whose {part.component.name} takes or gives something else, expected "
            "a bundle of the same model; name another"
        )
    return bundle, reference


def _probes(bundle: AnyBundle, component: str, run: int | None) -> list[Probe]:
    probes = bundle.probes(component)
    if run is None:
        return probes
    if not 0 <= run < len(probes):
        raise RequestError(f"got run {run}, expected one from 0 to {len(probes) - 1}; choose one of these")
    return [probes[run]]


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
