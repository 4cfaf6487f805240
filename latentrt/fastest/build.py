"""Builds for speed: makes what this machine could draw with, and keeps the fastest whose pictures are good enough."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from latentrt.building.destination import destination_from_argument
from latentrt.building.request import BuildRequest
from latentrt.building.result import Build
from latentrt.building.upscaler import upscaler_of
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.digests import json_digest
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.store.choose import fastest_backend
from latentrt.engines.store.speed import SpeedRecord, read_speed, write_speed
from latentrt.engines.store.store import engine_folders, read_engine
from latentrt.fastest.candidates import EXACT, Candidate, Candidates, candidates_here, versions_of
from latentrt.fastest.contenders import Contenders, digest_of_source
from latentrt.fastest.contest import Contest, Outcome
from latentrt.fastest.pictures import Contender, Pictures
from latentrt.fastest.settings import SpeedRequest
from latentrt.quantization.calibration import check_prompts
from latentrt.quantization.checkpoints import Checkpoints
from latentrt.quantization.judge import PictureQuality
from latentrt.sparsity.pruning import check_not_pruned

Decided = Callable[[Mapping[str, DecisionRecord]], None]


def build_fastest(request: BuildRequest, speed: SpeedRequest, timer: StageTimer, decided: Decided | None) -> Build:
    """Tries what can be tried here, and puts the fastest bundle that is good enough at the destination.

    What a killed build made and measured is taken again; in the end nothing else is left.

    Args:
        request: what was asked for.
        speed: what pictures must be like.
        timer: receives the stages.
        decided: receives what was worked out about the model and what will be tried, before the work begins.

    Raises:
        RequestError: a bundle that is not in fp32, or what a bundle cannot be given.
        LatentrtError: of the kind that names the reason: the model cannot be built.
    """
    _check_is_model(request)
    destination = destination_from_argument(request.output)
    if request.starts_from_bundle and Path(request.model).resolve() == destination:
        raise RequestError(
            f"got {str(destination)!r} as the bundle and as the result; choose another folder for the result"
        )
    candidates = candidates_here(speed.required)
    made_of = _digest(request, speed, candidates)
    with locked(destination):
        existing = _existing(destination, made_of)
        if existing is not None:
            return _built(existing, timer, up_to_date=True)
        if decided is not None:
            decided(_lines(candidates, speed))
        work = destination.with_name(f".{destination.name}.fastest")
        contenders = Contenders(request=request, speed=speed, work=work, timer=timer)
        exact = contenders.exact(decided)
        trial = _trial(exact, contenders, timer)
        if decided is not None:
            decided(trial.estimate(candidates))
        contest = Contest(make=trial.make, time=trial.pictures.time, judge=trial.judge, quality=speed.required)
        outcome = contest.run(candidates)
        record = _record(outcome, trial, speed, candidates, made_of)
        with timer.stage(f"keep {outcome.kept}"):
            _publish(outcome.made, record, destination)
        shutil.rmtree(work, ignore_errors=True)
    return _built(open_bundle(destination), timer, up_to_date=False)


def _check_is_model(request: BuildRequest) -> None:
    """Refuses what draws no pictures by itself.

    Raises:
        RequestError: a net, an adapter, an upscaler or a pruned bundle.
        CheckpointError: the model cannot be fetched.
    """
    added = request.for_bundle is not None or request.image_encoder is not None or request.starts_from_addon
    if added or request.starts_from_upscaler or upscaler_of(request) is not None:
        raise RequestError(
            "got fastest for a net, an adapter or an upscaler, which draws no pictures by itself, expected a model; "
            "leave it out, and build this for the backend that the model's bundle has"
        )
    if request.starts_from_bundle:
        check_not_pruned(open_bundle(request.model), "fastest")


def _built(bundle: Bundle, timer: StageTimer, *, up_to_date: bool) -> Build:
    return Build(bundle=bundle, up_to_date=up_to_date, seconds=timer.seconds, speed=read_speed(bundle.root))


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """How the candidates of one model are made and judged."""

    exact: Bundle
    contenders: Contenders
    pictures: Pictures

    def estimate(self, candidates: Candidates) -> dict[str, DecisionRecord]:
        """How long it takes to draw the pictures that all others are compared with, from a step of the exact engine."""
        turn = self.pictures.first(Contender(bundle=self.exact, backend=EXACT.backend))
        pictures, steps = self.pictures.count, self.pictures.calibration.steps
        searched = any(one.precision in EIGHT_BITS for one in candidates.tried)
        search = ", and a search for eight bits several times" if searched else ""
        reason = (
            f"{EXACT} draws them in about {_duration(turn.step * steps * pictures)}; each that is judged, too{search}"
        )
        return {"to judge": DecisionRecord(value=f"{pictures} pictures of {steps} steps", reason=reason)}

    def make(self, candidate: Candidate) -> Contender:
        """A candidate's bundle, which draws."""
        contender = self.contenders.make(candidate)
        self.pictures.first(contender)
        return contender

    def judge(
        self, candidate: Candidate, reference: Candidate, contenders: Mapping[Candidate, Contender]
    ) -> PictureQuality:
        """How near its pictures are; the build of some precisions has seen that."""
        contender = contenders[candidate]
        known = _known_quality(contender) if reference == EXACT else None
        return known or self.pictures.judge(contender, contenders[reference])


def _known_quality(contender: Contender) -> PictureQuality | None:
    """How near pictures were as the bundle was built, where the very backend drew the same pictures; None elsewhere."""
    manifest, backend = contender.bundle.manifest, contender.backend
    told = manifest.pictures
    if told is None or told.drawn_by != f"{backend} {COMPILERS[backend].version()}":
        told = None
    seen = told or (manifest.components[UNET].quantization if backend is EXACT.backend else None)
    if seen is None:
        return None
    return PictureQuality(mean=seen.psnr_mean, worst=seen.psnr_worst, worst_prompt=seen.worst_prompt)


def _trial(exact: Bundle, contenders: Contenders, timer: StageTimer) -> _Trial:
    calibration = contenders.speed.calibration(exact)
    check_prompts(exact, calibration.prompts)
    count = calibration.pictures(contenders.speed.int8.effort.pictures)
    fingerprint = {
        # Engines' keys tell the rest
        "model": exact.manifest.model_dump(mode="json", include={"schedule", "defaults", "conditioning", "traits"}),
        "profile": str(exact.manifest.profiles[0]),
        "calibration": calibration.sha256,
        "made by": [version("latentrt"), np.__version__],
    }
    return _Trial(
        exact=exact,
        contenders=contenders,
        pictures=Pictures(
            calibration=calibration,
            count=count,
            checkpoints=Checkpoints(contenders.work / "measured", fingerprint),
            progress=timer,
        ),
    )


def _digest(request: BuildRequest, speed: SpeedRequest, candidates: Candidates) -> str:
    """Of all that decides what is tried: of equal ones one result is as good as the other."""
    machines = {one.backend: COMPILERS[one.backend].here() for one in candidates.tried}
    return json_digest(
        [
            version("latentrt"),
            digest_of_source(request),
            str(speed.int8),
            speed.required,
            sorted(machines.items()),
            sorted(versions_of(candidates.tried).items()),
            [str(one) for one in candidates.tried],
        ]
    )


def _existing(destination: Path, made_of: str) -> Bundle | None:
    """The whole bundle at the destination, if a build for speed with the same candidates kept it."""
    try:
        record = read_speed(destination)
        if record is None or record.made_of != made_of:
            return None
        bundle = open_bundle(destination)
        bundle.check_all()
        return bundle if fastest_backend(bundle) is record.backend else None
    except BundleError:
        return None


def _lines(candidates: Candidates, speed: SpeedRequest) -> dict[str, DecisionRecord]:
    """What will be done: a line for each that is tried, and for each reason why some are not."""
    judged = f"timed, and if it is faster judged: pictures must have a mean of {speed.required:g} dB"
    searched = f"{judged}; before that, what must stay in floating point is searched, which takes longest"
    lines = {}
    for one in candidates.tried:
        reason = searched if one.precision in EIGHT_BITS else judged
        if one == EXACT:
            reason = "exact: others are compared with its time and its pictures"
        lines[str(one)] = DecisionRecord(value="tried", reason=reason)
    alike: dict[tuple[Backend, str], list[Precision]] = {}
    for one, reason in candidates.left_out.items():
        alike.setdefault((one.backend, reason), []).append(one.precision)
    for (backend, reason), precisions in alike.items():
        lines[f"{', '.join(precisions)} on {backend}"] = DecisionRecord(value="left out", reason=reason)
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90.0:
        return f"{max(seconds, 1.0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400.0 else f"{seconds / 3600:.1f} h"


def _record(
    outcome: Outcome[Contender], trial: _Trial, speed: SpeedRequest, candidates: Candidates, made_of: str
) -> SpeedRecord:
    return SpeedRecord(
        latentrt=version("latentrt"),
        machine=COMPILERS[outcome.kept.backend].here(),
        precision=outcome.kept.precision,
        backend=outcome.kept.backend,
        reference=outcome.reference.backend,
        quality=speed.required,
        profile=trial.exact.manifest.profiles[0],
        steps=trial.pictures.calibration.steps,
        rounds=outcome.rounds,
        pictures=trial.pictures.count,
        versions=versions_of(candidates.tried),
        made_of=made_of,
        rows=outcome.rows,
    )


def _publish(kept: Contender, record: SpeedRecord, destination: Path) -> None:
    """Moves a bundle to the destination, in place of what is there, with the engines of one backend and the record.

    Raises:
        OutputError: it cannot be written.
    """
    with staged_directory(destination) as root:
        for entry in kept.bundle.root.iterdir():
            os.rename(entry, root / entry.name)
        for folder in engine_folders(root):
            if read_engine(folder).backend is not kept.backend:
                shutil.rmtree(folder)
        write_speed(root, record)
